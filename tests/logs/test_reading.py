from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.reading import find_log_files, read_log
from tests.logs.log_texts import BY_HAND, by_hand, context, megatron_line, megatron_memory, read


def test_a_log_with_steps_is_read(tmp_path: Path) -> None:
    reading = read("starting\n" + by_hand(range(8)) + "done\n", tmp_path=tmp_path)

    assert [record.step_time_sec for record in reading.records] == [0.5] * 8


NOTHING = {
    "another format": (
        "Schritt 1: Verlust 2.5, 0.5 s\nSchritt 2: Verlust 2.25, 0.5 s\n",
        BY_HAND,
        r"no step of the LogFormat of kind text in .*run\.log, which has 2 lines; the nearest line is .*run\.log:\d: "
        r"Schritt \d: .*; name the log_format that the program writes, or give a LogFormat of its lines",
    ),
    "another preset": (
        by_hand(range(3)),
        "megatron",
        r"no step of log_format='megatron' in .*, which has 3 lines; .*; pass --log-interval 1 .*; else name the log",
    ),
    "no lines": ("", BY_HAND, r"run\.log is empty: no step of the LogFormat of kind text"),
    "only half a line": (
        "step 1: loss 2.5, took 0.5 s",
        BY_HAND,
        r"no step of .* which has 1 line; .*run\.log:1: the last line, .*, is not finished; it was left out",
    ),
}


@pytest.mark.parametrize(("text", "log_format", "message"), NOTHING.values(), ids=NOTHING.keys())
def test_a_log_without_steps_is_told_with_its_nearest_line(
    text: str, log_format: str | LogFormat, message: str, tmp_path: Path
) -> None:
    with pytest.raises(RecordError, match=message):
        read(text, log_format=log_format, tmp_path=tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"gone\.log can't be read: No such file or directory"):
        read_log([tmp_path / "gone.log"], log_format=BY_HAND, context=context())


def test_the_logs_of_ranks_of_which_one_logs_are_one_log(tmp_path: Path) -> None:
    (tmp_path / "rank0.log").write_text("NCCL\n" + megatron_memory(1) + megatron_memory(2))
    (tmp_path / "rank1.log").write_text(megatron_line(1) + megatron_line(2))

    reading = read_log(sorted(tmp_path.glob("*.log")), log_format="megatron", context=context())

    assert [record.peak_memory_bytes for record in reading.records] == [5 * 2**30] * 2


def test_the_logs_of_ranks_that_all_log_are_refused(tmp_path: Path) -> None:
    for rank in range(2):
        (tmp_path / f"rank{rank}.log").write_text(by_hand(range(3)))

    with pytest.raises(RecordError, match=r"rank0\.log:1 and at .*rank1\.log:1: two files tell the same steps"):
        read_log(sorted(tmp_path.glob("*.log")), log_format=BY_HAND, context=context())


def test_interleaved_ranks_of_torchrun_are_named(tmp_path: Path) -> None:
    lines = []
    for line in by_hand(range(3)).splitlines():
        lines += [f"[rank0]:{line}\n", f"[rank1]:{line}\n"]

    with pytest.raises(RecordError, match=r"by rank 0 and by rank 1; let only one rank log .*--local-ranks-filter"):
        read("".join(lines), tmp_path=tmp_path)


def test_lines_that_other_processes_wrote_into_are_missing_steps(tmp_path: Path) -> None:
    lines = by_hand(range(6)).splitlines(keepends=True)
    lines[2] = lines[2][:12] + "NCCL WARN Call to ibv failed\n" + lines[2][12:]

    with pytest.raises(RecordError, match=r"steps 2 to 2 are missing between .*run\.log:2 .* and .*run\.log:5"):
        read("".join(lines), tmp_path=tmp_path)


def test_a_last_line_that_is_cut_is_said(tmp_path: Path) -> None:
    reading = read(by_hand(range(6)).rstrip("\n")[:-3], tmp_path=tmp_path)

    assert len(reading.records) == 5


def test_a_log_that_was_continued_is_read_from_there(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    path.write_text(by_hand(range(3)) + by_hand(range(3), seconds=0.75))

    reading = read_log([path], log_format=BY_HAND, context=context(), num_old_bytes={path: len(by_hand(range(3)))})

    assert [record.step_time_sec for record in reading.records] == [0.75] * 3


@pytest.mark.parametrize("lines", [by_hand(range(3)), "starting\n"])
def test_memory_that_an_earlier_run_lacked_is_not_told_of_this_one(lines: str, tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    old = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB\n"
    path.write_text(old + lines)

    try:
        told = "; ".join(read_log([path], log_format=BY_HAND, context=context(), num_old_bytes={path: len(old)}).notes)
    except RecordError as error:
        told = str(error)

    assert "OUT OF MEMORY" not in told


def test_a_step_may_be_named_on_a_line_of_its_own(tmp_path: Path) -> None:
    log_format = LogFormat(kind=LogKind.TEXT, patterns=(r"^Step (?P<step>\d+):", r"time (?P<step_time_ms>\S+) ms"))
    text = "".join(f"Step {step}:\n  time 500 ms\n" for step in range(5))

    reading = read(text, log_format=log_format, tmp_path=tmp_path)

    assert [record.step_time_sec for record in reading.records] == [0.5] * 5


def test_files_are_found_beside_the_run_and_in_its_directory(tmp_path: Path) -> None:
    run_dir, cwd = tmp_path / "run[1]", tmp_path / "cwd"
    for folder in (run_dir, cwd / "logs"):
        folder.mkdir(parents=True)
        (folder / "a.log").touch()
        (folder / "b.log").touch()

    own = find_log_files("{run_dir}/*.log", run_dir=run_dir, cwd=cwd)
    others = find_log_files("logs/b.log", run_dir=run_dir, cwd=cwd)

    assert own == [run_dir / "a.log", run_dir / "b.log"]
    assert others == [cwd / "logs" / "b.log"]


def test_no_file_is_named_with_its_pattern(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no file .*/none/\*\.log; name the log's file in log_file"):
        find_log_files("none/*.log", run_dir=tmp_path, cwd=tmp_path)


MISSPELT = {"step": "step", "step_time_sec": "times", "loss": "loss"}
WITHOUT_LOSS = {"step": "step", "step_time_sec": "times"}
OBJECT = '{"step": %d, "time": 0.5, "loss": 2.5}\n'
NO_KEY = {
    "csv": (LogKind.CSV, "step,time,loss\n1,0.5,2.5\n2,0.5,2.5\n", "no 'times'; did you mean time?"),
    "jsonl": (LogKind.JSONL, OBJECT % 1 + OBJECT % 2, "no 'times'; did you mean time?"),
    "dict": (LogKind.DICT, "{'step': 1, 'time': 0.5, 'loss': 2.5}\n", "no 'times'; did you mean time?"),
}


@pytest.mark.parametrize(("kind", "text", "hint"), NO_KEY.values(), ids=NO_KEY.keys())
def test_a_time_that_no_step_has_by_its_key_is_told_with_the_nearest(
    kind: LogKind, text: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(RecordError, match=rf"run\.log:\d: no time in the log: {re.escape(hint)}; name the key of"):
        read(text, log_format=LogFormat(kind=kind, fields=MISSPELT), tmp_path=tmp_path)

    with pytest.raises(RecordError, match=rf"no step of the LogFormat of kind {kind} in .*; {re.escape(hint)};"):
        read(text, log_format=LogFormat(kind=kind, fields=WITHOUT_LOSS), tmp_path=tmp_path)


CONFIGURATIONS = {
    "json": (LogKind.JSONL, '{\n  "lr": 0.1,\n  "model": {\n    "layers": 2\n  }\n}\n', '{"time": 0.5}\n'),
    "pprint": (LogKind.DICT, "{'lr': 0.1,\n 'model': {'layers': 2}}\n", "{'time': 0.5}\n"),
    "no literal": (LogKind.DICT, "{'dtype': torch.float32, 'on': <Device.cpu>}\n", "{'time': 0.5}\n"),
}


@pytest.mark.parametrize(("kind", "printed", "line"), CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def test_a_configuration_printed_before_the_steps_is_noise(
    kind: LogKind, printed: str, line: str, tmp_path: Path
) -> None:
    log_format = LogFormat(kind=kind, fields={"step_time_sec": "time"})

    reading = read(printed + line * 3, log_format=log_format, tmp_path=tmp_path)

    assert len(reading.records) == 3


def test_a_key_within_an_object_is_among_the_nearest(tmp_path: Path) -> None:
    log_format = LogFormat(kind=LogKind.JSONL, fields={"step_time_sec": "perf.times"})

    with pytest.raises(RecordError, match=r"no 'perf\.times'; did you mean perf\.time\?; name the log_format"):
        read('{"step": 1, "perf": {"time": 0.5}}\n', log_format=log_format, tmp_path=tmp_path)


def test_a_misspelt_metric_of_an_object_of_series_is_told_with_the_nearest(tmp_path: Path) -> None:
    text = '{"time": {"1": 0.5}, "loss": {"1": 2.5}}'
    log_format = LogFormat(kind=LogKind.JSON, fields={"step_time_sec": "times", "loss": "loss"})

    with pytest.raises(RecordError, match=r"no time in the log: no 'times'; did you mean time\?"):
        read(text, log_format=log_format, tmp_path=tmp_path)


def test_all_columns_that_a_table_lacks_are_told(tmp_path: Path) -> None:
    log_format = LogFormat(kind=LogKind.CSV, fields={"step": "Step", "step_time_sec": "Time", "loss": "Loss"})

    with pytest.raises(RecordError, match=r"no 'Time'; did you mean time\?; no 'Step'; did you mean step\?; name the"):
        read("step,time,loss\n1,0.5,2.5\n", log_format=log_format, tmp_path=tmp_path)


def test_text_without_columns_has_none_to_name(tmp_path: Path) -> None:
    log_format = LogFormat(kind=LogKind.CSV, fields={"step_time_sec": "time"})

    with pytest.raises(RecordError, match=r"has 2 lines; the nearest line is .*: starting; name the log_format"):
        read("starting\ndone\n", log_format=log_format, tmp_path=tmp_path)
