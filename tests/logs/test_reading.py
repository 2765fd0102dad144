from __future__ import annotations

from pathlib import Path

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.logs.log_format import LogFormat
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
