from __future__ import annotations

from pathlib import Path

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.logs.context import LogContext
from pytest_nemoperf.logs.presets import find_preset
from pytest_nemoperf.logs.reading import find_log_files, read_log
from tests.logs.event_writer import write_events

EXACT = LogContext(num_gpus=1, tokens_per_step=1024, seq_len=128, has_exact_tokens=True)
VARYING = LogContext(num_gpus=1, tokens_per_step=1024, seq_len=128, has_exact_tokens=False)


def steps_of(*, first: int = 1, every: int = 1, tag: str = "") -> list[tuple[int, float, dict[str, float]]]:
    """Return what the trainer logs: the clock runs half a second a step, from the second at which training began."""
    steps = []
    for step in range(first, first + 5 * every, every):
        scalars = {"train/loss": 6.5, "train/grad_norm": 1.5}
        if tag:
            scalars[tag] = 1000.0 * step
        steps.append((step, 0.5 * (step - first + every), scalars))
    return steps


def test_a_step_takes_the_time_since_the_last_one_was_logged(tmp_path: Path) -> None:
    write_events(tmp_path, [*steps_of(), (5, 9.0, {"train/train_runtime": 9.0})])

    records = read_log([tmp_path], log_format="trainer", context=EXACT).records

    assert [record.step_time_sec for record in records] == pytest.approx([0.5] * 5)
    assert [(record.step, record.tokens, record.loss, record.grad_norm) for record in records] == [
        (step, 1024, 6.5, 1.5) for step in range(5)
    ]
    assert {record.peak_memory_bytes for record in records} == {None}


@pytest.mark.parametrize("tag", ["train/num_input_tokens_seen", "train/num_tokens"])
def test_tokens_are_counted_where_the_trainer_counts_them(tmp_path: Path, tag: str) -> None:
    write_events(tmp_path, steps_of(tag=tag))

    records = read_log([tmp_path], log_format="trainer", context=VARYING).records

    assert [record.tokens for record in records] == [1000] * 5


def test_lengths_that_nobody_counted_are_told(tmp_path: Path) -> None:
    write_events(tmp_path, steps_of())

    with pytest.raises(RecordError, match="the log does not tell its tokens"):
        read_log([tmp_path], log_format="trainer", context=VARYING)


def test_a_mean_over_several_steps_says_so(tmp_path: Path) -> None:
    write_events(tmp_path, steps_of(first=10, every=10))

    reading = read_log([tmp_path], log_format="trainer", context=EXACT)

    assert reading.steps_per_record == 10
    assert [record.step_time_sec for record in reading.records] == pytest.approx([0.5] * 5)


def test_the_first_step_after_a_restart_is_timed_from_the_restart(tmp_path: Path) -> None:
    write_events(tmp_path, steps_of())
    write_events(tmp_path, steps_of(first=6), start=1_000_500.0)

    records = read_log([tmp_path], log_format="trainer", context=EXACT).records

    assert [record.step_time_sec for record in records] == pytest.approx([0.5] * 10)


def test_evaluation_between_steps_has_no_step_of_its_own(tmp_path: Path) -> None:
    steps = steps_of()
    steps.insert(2, (2, 1.1, {"eval/loss": 5.0, "eval/runtime": 0.1}))
    write_events(tmp_path, steps)

    records = read_log([tmp_path], log_format="trainer", context=EXACT).records

    assert [record.step_time_sec for record in records] == pytest.approx([0.5] * 5)
    assert [record.loss for record in records] == [6.5] * 5


def test_an_unfinished_record_is_noted(tmp_path: Path) -> None:
    file = write_events(tmp_path, steps_of())
    file.write_bytes(file.read_bytes()[:-3])

    reading = read_log([tmp_path], log_format="trainer", context=EXACT)

    assert len(reading.records) == 5
    assert reading.records[-1].grad_norm is None
    (note,) = reading.notes
    assert "the last record is not finished" in note


def test_the_preset_sends_the_files_to_the_run(tmp_path: Path) -> None:
    preset = find_preset("trainer")
    file = write_events(tmp_path / "tensorboard", steps_of())

    found = find_log_files(preset.file, run_dir=tmp_path, cwd=Path.cwd())

    assert preset.env == {"TENSORBOARD_LOGGING_DIR": preset.file}
    assert found == [file]
