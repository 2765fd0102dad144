from __future__ import annotations

from pathlib import Path

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.logs.context import LogContext
from pytest_nemoperf.logs.presets import find_preset
from pytest_nemoperf.logs.reading import find_log_files, read_log
from tests.logs.event_writer import write_events

CONTEXT = LogContext(num_gpus=1, tokens_per_step=1024, seq_len=128, has_exact_tokens=True)
CSV = """epoch,step,train/batches,train/samples,train/time,train_loss
0,0,1,8,0.188,
0,0,,,,6.2572
0,1,2,16,0.295,
0,1,,,,6.2760
0,2,3,24,0.434,
0,2,,,,6.2636
"""


@pytest.mark.parametrize("tag", ["train_loss", "train_loss_step", "train/loss", "loss"])
def test_the_loss_has_the_name_that_the_module_gave_it(tmp_path: Path, tag: str) -> None:
    write_events(tmp_path, [(step, 0.5 * (step + 1), {tag: 6.5, "epoch": 0.0}) for step in range(4)])

    records = read_log([tmp_path], log_format="lightning", context=CONTEXT).records

    assert [record.loss for record in records] == [6.5] * 4
    assert [record.step_time_sec for record in records] == pytest.approx([0.5] * 4)


def test_validation_does_not_move_the_clock_of_the_next_step(tmp_path: Path) -> None:
    """Lightning logs it under the number of the step that follows."""
    steps = [(step, 0.5 * (step + 1), {"train_loss": 6.5, "epoch": 0.0}) for step in range(4)]
    steps.insert(2, (2, 1.2, {"val_loss": 6.0, "epoch": 0.0}))
    write_events(tmp_path, steps)

    records = read_log([tmp_path], log_format="lightning", context=CONTEXT).records

    assert [record.step_time_sec for record in records] == pytest.approx([0.5] * 4)


def test_the_clock_of_a_throughput_monitor_goes_before_that_of_the_file(tmp_path: Path) -> None:
    steps = []
    for step in range(4):
        scalars = {"train/time": 0.25 * (step + 1), "train/batches": step + 1.0, "train_loss": 6.5}
        steps.append((step, 0.5 * (step + 1), scalars))
    write_events(tmp_path, steps)

    records = read_log([tmp_path], log_format="lightning", context=CONTEXT).records

    assert [record.step_time_sec for record in records] == pytest.approx([0.25] * 4)


def test_a_csv_file_with_a_throughput_monitor_tells_every_step(tmp_path: Path) -> None:
    folder = tmp_path / "lightning_logs" / "version_0"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(CSV)
    preset = find_preset("lightning_csv")

    files = find_log_files(preset.file, run_dir=tmp_path / "run", cwd=tmp_path)
    records = read_log(files, log_format="lightning_csv", context=CONTEXT).records

    assert [record.step_time_sec for record in records] == pytest.approx([0.188, 0.107, 0.139])
    assert [record.loss for record in records] == [6.2572, 6.2760, 6.2636]


def test_a_csv_file_without_a_monitor_has_no_time(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,train_loss\n0,0,6.25\n0,1,6.5\n")

    with pytest.raises(RecordError, match="no time in the log"):
        read_log([tmp_path / "metrics.csv"], log_format="lightning_csv", context=CONTEXT)


def test_a_loss_by_another_name_is_told_with_the_names_that_are_there(tmp_path: Path) -> None:
    write_events(tmp_path, [(0, 0.5, {"my_loss": 6.5, "epoch": 0.0})])

    with pytest.raises(
        RecordError, match="its scalars are epoch, my_loss, and the format names loss, loss_step, train/"
    ):
        read_log([tmp_path], log_format="lightning", context=CONTEXT)
