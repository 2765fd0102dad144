"""Rows of a whole log file of any kind but event files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pytest_nemoperf.errors import RecordError, did_you_mean
from pytest_nemoperf.json_codec import parse_json
from pytest_nemoperf.logs.lines import Line, read_lines
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.row_parsers import parser_of
from pytest_nemoperf.logs.rows import FileRows, LogRow, missing_keys, number_in, shown, step_number


def read_rows(path: Path, log_format: LogFormat) -> Iterator[LogRow]:
    """Yield the rows of one file of any kind but event files.

    Raises:
        RecordError: If the file can't be read, or a line is of the format but torn or impossible.
    """
    yield from read_file(path, log_format).rows


def read_file(path: Path, log_format: LogFormat, *, num_old_bytes: int = 0) -> FileRows:
    """Return the rows of one file of any kind but event files.

    Args:
        path: The file.
        log_format: Its format.
        num_old_bytes: Bytes at its beginning that are not read, but for the head of a table.

    Raises:
        RecordError: If the file can't be read, or a line is of the format but torn or impossible.
    """
    if log_format.kind is LogKind.JSON:
        return _read_json(path, log_format)
    parser = parser_of(log_format)
    rows: list[LogRow] = []
    notes: list[str] = []
    num_lines = 0
    nearest: Line | None = None
    best = 0.0
    for line in read_lines(path, num_old_bytes=num_old_bytes):
        if line.is_old:
            parser.read_old(line)
            continue
        num_lines += not line.is_redrawn
        found: list[LogRow] = []
        try:
            found += parser.rows(line, file=str(path))
        except RecordError:
            if line.is_whole:
                raise
        if not (line.is_whole or found):
            notes.append(f"{path}:{line.number}: the last line, {shown(line.text)!r}, is not finished; it was left out")
        rows += found
        if not found and not rows:
            likeness = parser.likeness(line)
            if likeness >= best > 0 or likeness > best:
                nearest, best = line, likeness
    if rows and "step" in log_format.fields and all(row.step is None for row in rows):
        key = log_format.fields["step"]
        raise RecordError(
            f"{rows[0].where}: no {key!r} here or below; name the key that counts the steps, or leave it out"
        )
    shown_nearest = ""
    if nearest is not None and not rows:
        shown_nearest = f"{path}:{nearest.number}: {shown(nearest.text)}"
    return FileRows(
        rows=tuple(rows),
        num_lines=num_lines,
        nearest=shown_nearest,
        notes=tuple(notes),
        missing=missing_keys(log_format, keys=parser.keys()),
    )


def _read_json(path: Path, log_format: LogFormat) -> FileRows:
    """Return the rows of an object that holds value by step by metric."""
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise RecordError(f"{path} can't be read: {error.strerror}; give a log that exists and may be read") from None
    try:
        data = parse_json(text)
    except ValueError as error:
        raise RecordError(f"{path} is no JSON, or not all of it: {error}; let its writer end well") from None
    if not isinstance(data, dict):
        raise RecordError(f"{path} holds no JSON object; the format is value by step by metric")
    found = {quantity: data[metric] for quantity, metric in log_format.fields.items() if metric in data}
    if not found:
        metric = next(iter(log_format.fields.values()))
        nearest = f"{path}: no {metric!r}; {did_you_mean(metric, data)}" if data else ""
        return FileRows(rows=(), num_lines=text.count("\n") + 1, nearest=nearest)
    values: dict[int, dict[str, float]] = {}
    for quantity, series in found.items():
        name = log_format.fields[quantity]
        if not isinstance(series, dict):
            raise RecordError(f"{path}: {name} is no object; the format is value by step by metric")
        for key, value in series.items():
            where = f"{path}: {name} of step {shown(key)}"
            number = number_in(key, name="step", log_format=log_format, where=where, quantity="step")
            step = step_number(number, where=where)
            if quantity in values.get(step, {}):
                raise RecordError(f"{where}: step {step} is there twice")
            if value is not None:
                number = number_in(value, name=name, log_format=log_format, where=where, quantity=quantity)
                values.setdefault(step, {})[quantity] = number
    rows = [LogRow(step=step, values=values[step], where=f"{path}: step {step}") for step in sorted(values)]
    missing = missing_keys(log_format, keys=data)
    return FileRows(rows=tuple(rows), num_lines=text.count("\n") + 1, missing=missing)
