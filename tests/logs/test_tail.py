from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.tail import LogTail
from tests.logs.log_texts import BY_HAND, TOKENS, automodel_line, by_hand, context, megatron_line, titan_line


class Log:
    """A log that grows, and its tail."""

    def __init__(self, path: Path, log_format: str | LogFormat = BY_HAND, *, num_old_bytes: int = 0) -> None:
        self.path = path
        self._num_old_bytes = num_old_bytes
        self._tail = LogTail(self._files, log_format=log_format, context=context())

    def _files(self) -> Mapping[Path, int]:
        if not self.path.exists():
            raise RecordError("no file yet")
        return {self.path: self._num_old_bytes}

    def write(self, text: str) -> None:
        with self.path.open("a") as file:
            file.write(text)

    def poll(self) -> list[tuple[int, float]]:
        return [(progress.step, progress.step_time_sec) for progress in self._tail.poll()]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "run.log")


def test_steps_are_given_once_as_they_finish(log: Log) -> None:
    assert log.poll() == []
    log.write("starting\n" + by_hand([7, 8]))
    assert log.poll() == [(0, 0.5), (1, 0.5)]
    assert log.poll() == []
    log.write(by_hand([9], seconds=0.75))
    assert log.poll() == [(2, 0.75)]


def test_a_line_waits_for_its_end(log: Log) -> None:
    whole = by_hand([1])

    log.write(whole[:-5])
    assert log.poll() == []
    log.write(whole[-5:])
    assert log.poll() == [(0, 0.5)]


def test_what_an_earlier_run_wrote_is_left_out(tmp_path: Path) -> None:
    log = Log(tmp_path / "run.log", num_old_bytes=len(by_hand(range(4))))

    log.write(by_hand(range(4)) + by_hand([0], seconds=0.75))

    assert log.poll() == [(0, 0.75)]


def test_lines_that_can_t_be_read_are_left_to_the_reader_of_the_whole(log: Log) -> None:
    log.write("step x: loss 2, took 0.5 s\n" + by_hand([1]) + by_hand([1]))

    assert log.poll() == [(0, 0.5)]


PRESETS = {
    "megatron": megatron_line(1),
    "automodel": automodel_line(1),
    "torchtitan": titan_line(1, tps=TOKENS / 1.25 / 2),
}


@pytest.mark.parametrize(("name", "line"), PRESETS.items())
def test_the_time_of_a_step_is_that_of_its_line(name: str, line: str, tmp_path: Path) -> None:
    log = Log(tmp_path / "run.log", name)

    log.write(line)

    ((step, seconds),) = log.poll()
    assert step == 0
    assert seconds == pytest.approx(1.25, rel=1e-3)


def test_steps_of_a_clock_begin_with_the_second_line(tmp_path: Path) -> None:
    log = Log(tmp_path / "run.log", LogFormat(kind=LogKind.JSONL, fields={"step": "n", "end_time_sec": "t"}))

    log.write('{"n": 3, "t": 1.0}\n{"n": 4, "t": 1.5}\n')
    assert log.poll() == [(0, 0.5)]
    log.write('{"n": 5, "t": 2.25}\n')
    assert log.poll() == [(1, 0.75)]


def test_kinds_that_are_not_written_line_by_line_show_no_steps(tmp_path: Path) -> None:
    log = Log(tmp_path / "run.log", LogFormat(kind=LogKind.JSON, fields={"step_time_sec": "t"}))

    log.write('{"t": {"1": 0.5}}')

    assert log.poll() == []
