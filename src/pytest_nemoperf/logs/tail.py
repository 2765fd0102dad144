"""Tail of a log that is still being written: finished steps, for show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.logs.context import LogContext
from pytest_nemoperf.logs.convert import step_seconds
from pytest_nemoperf.logs.lines import lines_of
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.presets import preset_of
from pytest_nemoperf.logs.row_parsers import RowParser, parser_of
from pytest_nemoperf.records.step import Progress

_MAX_READ_BYTES = 8 << 20
_FOLLOWED = frozenset({LogKind.TEXT, LogKind.DICT, LogKind.JSONL, LogKind.CSV})


class LogTail:
    """Follows the files of a run's log; broken lines are left to the reader of the finished log.

    Args:
        find_files: Returns the bytes to leave out at the beginning of each file; raises RecordError without a file.
        log_format: Name of a preset, or a format.
        context: Plan of the run.
    """

    def __init__(
        self, find_files: Callable[[], Mapping[Path, int]], *, log_format: str | LogFormat, context: LogContext
    ) -> None:
        self._preset = preset_of(log_format)
        self._find_files = find_files
        self._context = context
        self._files: dict[Path, tuple[int, RowParser]] = {}
        self._first: int | None = None
        self._num_rows = 0
        self._last = -1
        self._clock: float | None = None

    def poll(self) -> list[Progress]:
        """Return the steps finished since the last call, with their times."""
        if self._preset.log_format.kind not in _FOLLOWED:
            return []
        try:
            files = self._find_files()
        except RecordError:
            return []
        finished = []
        for path, num_old_bytes in files.items():
            finished += self._new_steps(path, num_old_bytes=num_old_bytes)
        return finished

    def _new_steps(self, path: Path, *, num_old_bytes: int) -> list[Progress]:
        if path not in self._files:
            self._files[path] = (num_old_bytes, parser_of(self._preset.log_format))
        offset, parser = self._files[path]
        try:
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(_MAX_READ_BYTES)
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        if not whole and len(data) == _MAX_READ_BYTES:
            whole = data  # no log of lines, or one that only draws a bar
        self._files[path] = (offset + len(whole), parser)
        finished = []
        for raw in whole.splitlines(keepends=True):
            finished += self._steps_of(raw, parser=parser)
        return finished

    def _steps_of(self, raw: bytes, *, parser: RowParser) -> list[Progress]:
        finished = []
        try:
            for line in lines_of(raw, number=2):
                for row in parser.rows(line, file=""):
                    values = row.values if self._preset.convert is None else self._preset.convert(row.values)
                    seconds = self._seconds(values)
                    if seconds is not None:
                        finished += self._progress(row.step, seconds=seconds)
        except RecordError:
            return finished
        return finished

    def _seconds(self, values: Mapping[str, float]) -> float | None:
        """Return the time of the step that a line ends; None for a line of something else, or the start of a clock."""
        clock = values.get("end_time_sec")
        if not self._preset.log_format.is_clocked or clock is None:
            return step_seconds(values, context=self._context)
        before, self._clock = self._clock, clock
        return clock - before if before is not None and clock > before else None

    def _progress(self, number: int | None, *, seconds: float) -> list[Progress]:
        step = self._num_rows
        self._num_rows += 1
        if number is not None:
            self._first = number if self._first is None else self._first
            step = number - self._first
        if step <= self._last:
            return []
        self._last = step
        return [Progress(step=step, step_time_sec=seconds)]
