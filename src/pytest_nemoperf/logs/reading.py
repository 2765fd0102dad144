"""Reading of a run's log: its files found, read as step records, or refused in words."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.errors import RecordError, count_text
from pytest_nemoperf.logs.context import LogContext
from pytest_nemoperf.logs.convert import LogReading, records_of
from pytest_nemoperf.logs.event_files import EVENT_FILES, read_event_files
from pytest_nemoperf.logs.log_format import RUN_DIR, TIME_SOURCES, LogFormat, LogKind
from pytest_nemoperf.logs.out_of_memory import find_out_of_memory
from pytest_nemoperf.logs.preset import Preset
from pytest_nemoperf.logs.presets import name_of, preset_of
from pytest_nemoperf.logs.row_files import read_file
from pytest_nemoperf.logs.rows import FileRows, LogRow

_OF_CONSOLES: Final = frozenset({LogKind.TEXT, LogKind.DICT})
"""Kinds of log that hold whatever else a program prints."""
_END_BYTES: Final = 1 << 18
_MAX_HINTS: Final = 2


def read_log(
    paths: Sequence[Path],
    *,
    log_format: str | LogFormat,
    context: LogContext,
    num_old_bytes: Mapping[Path, int] = MappingProxyType({}),
) -> LogReading:
    """Return the steps of one run's log.

    Args:
        paths: Its files; more than one only where the ranks have a file each, or event files.
        log_format: Name of a preset, or a format.
        context: Plan of the run.
        num_old_bytes: Bytes at the beginning that earlier runs wrote, by file.

    Raises:
        RecordError: If there are no steps in it, or they are torn, told twice, missing or impossible.
    """
    preset = preset_of(log_format)
    if preset.log_format.kind is LogKind.TENSORBOARD:
        files = [read_event_files(paths, preset.log_format)]
    else:
        files = [read_file(path, preset.log_format, num_old_bytes=num_old_bytes.get(path, 0)) for path in paths]
    rows = [row for file in files for row in file.rows]
    notes = [note for file in files for note in file.notes]
    if preset.log_format.kind in _OF_CONSOLES:
        notes += _out_of_memory(paths, num_old_bytes=num_old_bytes, has_steps=bool(rows))
    if not rows:
        raise RecordError(_nothing_found(paths, files=files, name=name_of(log_format), preset=preset, notes=notes))
    if preset.convert is None and preset.convert_steps is None:  # these know the keys that they miss
        _check_times(rows, files=files)
    reading = records_of(rows, context=context, convert=preset.convert, convert_steps=preset.convert_steps)
    return LogReading(
        records=reading.records,
        steps_per_record=reading.steps_per_record,
        first_step=reading.first_step,
        notes=(*notes, *reading.notes),
    )


def _out_of_memory(paths: Sequence[Path], *, num_old_bytes: Mapping[Path, int], has_steps: bool) -> Iterator[str]:
    """Yield a sentence for each file that reports memory that could not be had.

    Raises:
        RecordError: If that is why there are no steps.
    """
    for path in paths:
        with path.open("rb") as file:
            file.seek(max(num_old_bytes.get(path, 0), path.stat().st_size - _END_BYTES))
            found = find_out_of_memory(file.read().decode("utf-8", errors="replace"))
        if found is None:
            continue
        sentence = found.describe(subject=str(path))
        if not has_steps:
            raise RecordError(f"{sentence}; it ended before any step was logged")
        yield sentence


def _check_times(rows: Sequence[LogRow], *, files: Sequence[FileRows]) -> None:
    """Check that no misspelt key leaves all steps without a time.

    Raises:
        RecordError: If no row has one, though the format names keys for it that are not in the files.
    """
    if any(name in row.values for row in rows for name in TIME_SOURCES):
        return
    for file in files:
        hints = [file.missing[name] for name in TIME_SOURCES if name in file.missing]
        if hints:
            raise RecordError(f"{rows[0].where}: no time in the log: {'; '.join(hints)}; name the key of the time")


def _nothing_found(
    paths: Sequence[Path], *, files: Sequence[FileRows], name: str, preset: Preset, notes: Sequence[str]
) -> str:
    shown = ", ".join(str(path) for path in paths) or "no file"
    num_lines = sum(file.num_lines for file in files)
    lines = [f"no step of {name} in {shown}, which has {count_text(num_lines, 'line')}"]
    if num_lines == 0 and files:
        lines = [f"{shown} is empty: no step of {name}"]
    for file in files:
        if file.nearest:
            lines.append(f"the nearest line is {file.nearest}")
        hints = [file.missing[name] for name in (*TIME_SOURCES, *file.missing) if name in file.missing]
        lines += list(dict.fromkeys(hints))[:_MAX_HINTS]
    lines += notes
    advice = "name the log_format that the program writes, or give a LogFormat of its lines"
    lines.append(f"{preset.how}; else {advice}" if preset.how else advice)
    return "; ".join(lines)


def find_log_files(pattern: str, *, run_dir: Path, cwd: Path) -> list[Path]:
    """Return the files of a log, in the order of their names.

    Args:
        pattern: As in a recipe's log_file; a folder stands for the event files in it, at any depth.
        run_dir: Stands for ``{run_dir}``.
        cwd: Directory that the pattern is relative to.

    Raises:
        RecordError: If there is none.
    """
    path = cwd / pattern.replace(RUN_DIR, str(run_dir))
    place = Path(glob.escape(str(cwd))) / pattern.replace(RUN_DIR, glob.escape(str(run_dir)))
    found = []
    for match in sorted(map(Path, glob.glob(str(place), recursive=True))):  # noqa: PTH207 (a pattern may be absolute)
        found += sorted(match.rglob(EVENT_FILES)) if match.is_dir() else [match]
    found = [file for file in found if file.is_file()]
    if not found:
        raise RecordError(f"no file {path}; name the log's file in log_file, or let the program write there")
    return found
