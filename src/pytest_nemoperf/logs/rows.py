"""Rows of a log file: the quantities of one line, as it logs them."""

from __future__ import annotations

import ast
import csv
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from pytest_nemoperf.errors import RecordError, did_you_mean
from pytest_nemoperf.logs.lines import Line, parse_clock, read_lines
from pytest_nemoperf.logs.log_format import LogFormat, LogKind, quantity_of
from pytest_nemoperf.logs.number_text import NumberTextError, is_cut, number_of

_MAX_TEXT: Final = 1 << 16  # characters of a line that patterns are tried on
_MAX_SHOWN: Final = 160
_MAX_STEP: Final = 2**53  # beyond it a float skips whole numbers
_CLOCK_QUANTITIES: Final = ("start_time_sec", "end_time_sec")
_MAX_KEYS: Final = 1000  # remembered for a message
_DIGIT = re.compile(r"\d")
_BARE_WORD = re.compile(r"(?<![\w'\"])(nan|inf|-inf|NaN|Infinity)(?![\w'\"])")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRow:
    """Quantities of one line, or of one row of a table.

    Attributes:
        step: Number of the step as logged; None if the line does not say it.
        values: Value by name of a quantity.
        where: File and line.
        rank: Rank in the line's prefix; empty without one.
        clock: Time at which the line was written and the resolution of that, in seconds; None if it does not say.
        is_redrawn: A later picture of the same progress bar.
    """

    step: int | None
    values: Mapping[str, float]
    where: str
    rank: str = ""
    clock: tuple[float, float] | None = None
    is_redrawn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRows:
    """Rows of one file, with its reader's notes.

    Attributes:
        rows: In the order of the file.
        num_lines: Lines of the file.
        nearest: Line that resembles the format most, if no line is of it; empty else.
        notes: What was left out, and why.
        missing: What the file has instead of a key or column of the format, by quantity; empty for other kinds.
    """

    rows: tuple[LogRow, ...]
    num_lines: int
    nearest: str = ""
    notes: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)


class RowParser(Protocol):
    """Parser of the lines of one file."""

    def rows(self, line: Line, *, file: str) -> Iterator[LogRow]:
        """Yield the rows of a line, in most cases none or one.

        Raises:
            RecordError: If the line is of the format but torn or not to be read.
        """
        ...

    def read_old(self, line: Line) -> None:
        """Take in a line of an earlier run in the same file, of which only the head of a table is still good."""
        ...

    def keys(self) -> Collection[str]:
        """Return the keys or columns of the file so far; none for other kinds."""
        ...

    def likeness(self, line: Line) -> float:
        """Return the likeness of a line to the format that it is not of; 0 for none."""
        ...


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
        missing=_missing(log_format, keys=parser.keys()),
    )


def _missing(log_format: LogFormat, *, keys: Collection[str]) -> dict[str, str]:
    """Return a hint for each quantity of the format without its key in a file; none for a file without keys."""
    hints = {}
    for quantity, key in log_format.fields.items():
        if keys and key not in keys:
            hints[quantity] = f"no {key!r}; {did_you_mean(key, keys)}"
    return hints


def parser_of(log_format: LogFormat) -> RowParser:
    """Return a parser of the lines of one file."""
    match log_format.kind:
        case LogKind.TEXT:
            return _TextParser(log_format)
        case LogKind.DICT:
            return _ObjectParser(log_format, parse=_parse_dict)
        case LogKind.JSONL:
            return _ObjectParser(log_format, parse=_parse_json)
        case LogKind.CSV:
            return _CsvParser(log_format)
        case LogKind.JSON | LogKind.TENSORBOARD:
            raise RecordError(f"a log of kind {log_format.kind} has no lines; it is read as a whole")


def shown(text: str) -> str:
    """Return a line as a message shows it."""
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text.strip())
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


class _TextParser:
    """Regular expressions, each tried on each line."""

    def __init__(self, log_format: LogFormat) -> None:
        self._format = log_format
        self._patterns = [re.compile(pattern) for pattern in log_format.patterns]
        self._is_anchored = any(map(_is_anchored, log_format.patterns))
        self._words = {word for pattern in log_format.patterns for word in literal_words(pattern)}

    def rows(self, line: Line, *, file: str) -> Iterator[LogRow]:
        where = f"{file}:{line.number}"
        values: dict[str, float] = {}
        is_prefixed = True
        for pattern in self._patterns:
            match = pattern.search(line.text, 0, _MAX_TEXT)
            if match is None and self._is_anchored and line.prefix[0]:
                match = pattern.search(line.text[line.prefix[0] :], 0, _MAX_TEXT)
            elif match is not None and any(0 <= start < line.prefix[0] for start in _starts(match)):
                is_prefixed = False  # the number at the beginning is a quantity, no rank
            if match is not None:
                _add(values, self._values(match, pattern=pattern, where=where), where=where)
        if not values:
            return
        if not line.is_whole:
            raise RecordError(f"{where}: a last line without its end")
        rank = line.prefix[1] if is_prefixed else ""
        step = values.pop("step", None)
        yield LogRow(
            step=None if step is None else step_number(step, where=where),
            values=values,
            where=where,
            rank=rank,
            clock=line.clock,
            is_redrawn=line.is_redrawn,
        )

    def _values(self, match: re.Match[str], *, pattern: re.Pattern[str], where: str) -> dict[str, float]:
        values = {}
        for group, text in match.groupdict().items():
            if text is None:
                continue
            whole = is_cut(match.string, start=match.start(group), end=match.end(group))
            if whole:
                raise RecordError(
                    f"{where}: {group}={text!r} is only a part of the number {whole!r}; let the group of "
                    f"{pattern.pattern!r} take all of it, e.g. [-+.,\\deE]+ or \\S+"
                )
            quantity = quantity_of(group)
            values[quantity] = _number(text, name=group, log_format=self._format, where=where, quantity=quantity)
        self._check_one_step(match, pattern=pattern, where=where)
        return values

    def read_old(self, line: Line) -> None:
        pass

    def keys(self) -> Collection[str]:
        return ()

    @staticmethod
    def _check_one_step(match: re.Match[str], *, pattern: re.Pattern[str], where: str) -> None:
        """Refuse a line into which another one was written: the numbers of two steps would be taken for one's."""
        if "step" not in match.groupdict() or match["step"] is None:
            return
        other = pattern.search(match.string, match.start("step") + len(match["step"]), _MAX_TEXT)
        if other is not None and other["step"] is not None and other["step"].strip() != match["step"].strip():
            raise RecordError(
                f"{where}: steps {match['step'].strip()} and {other['step'].strip()} in one line, "
                f"{shown(match.string)!r}: two processes write into one file; let only one of them log, or give each "
                "its own file"
            )

    def likeness(self, line: Line) -> float:
        text = line.text[:_MAX_TEXT].lower()
        found = sum(word in text for word in self._words)
        has_number = _DIGIT.search(text) is not None
        return found + 0.5 * has_number


def _is_anchored(pattern: str) -> bool:
    """Return whether a regular expression may ask for the beginning of the line; ``[^`` does not."""
    return "^" in pattern.replace("[^", "[") or "\\A" in pattern


def _starts(match: re.Match[str]) -> list[int]:
    return [match.start(group) for group in match.re.groupindex]


def literal_words(pattern: str) -> set[str]:
    """Return the words that a regular expression has as they are, in small letters."""
    text = re.sub(r"\(\?P<\w+>", "(", pattern)
    text = re.sub(r"\\[a-zA-Z]|\[[^\]]*\]", " ", text)
    return {word.lower() for word in re.findall(r"[^\W\d_]{3,}", text)}


def _add(values: dict[str, float], more: Mapping[str, float], *, where: str) -> None:
    for name, value in more.items():
        old = values.setdefault(name, value)
        if old != value and not (old != old and value != value):  # noqa: PLR0124 (NaN)
            raise RecordError(f"{where}: {name} is {old:g} by one pattern and {value:g} by another; name it once")


class _ObjectParser:
    """Lines that hold one object each; other lines are noise."""

    def __init__(self, log_format: LogFormat, *, parse: Callable[[str], dict[str, Any] | None]) -> None:
        self._format = log_format
        self._parse = parse
        self._keys: dict[str, None] = {}
        self._unseen = set(log_format.fields.values())

    def rows(self, line: Line, *, file: str) -> Iterator[LogRow]:
        where = f"{file}:{line.number}"
        length, rank = line.prefix
        try:
            data = self._parse(line.text[length:])
        except ValueError as error:
            raise RecordError(f"{where}: a torn line, {shown(line.text)!r}: {error}; write each line whole") from None
        if data is None:
            return
        if self._unseen:
            self._see(data)
        row = row_of(data, log_format=self._format, where=where)
        if row is not None:
            yield LogRow(
                step=row.step,
                values=row.values,
                where=where,
                rank=rank,
                clock=line.clock if self._format.kind is LogKind.DICT else None,
                is_redrawn=line.is_redrawn,
            )

    def read_old(self, line: Line) -> None:
        pass

    def keys(self) -> Collection[str]:
        return self._keys

    def _see(self, data: Mapping[str, Any]) -> None:
        """Remember the keys of an object, until there was each that the format names."""
        for key in _paths(data):
            if key in self._unseen or len(self._keys) < _MAX_KEYS:
                self._keys[key] = None
        self._unseen -= self._keys.keys()

    def likeness(self, line: Line) -> float:
        return ("{" in line.text) + sum(key in line.text for key in self._format.fields.values())


def _paths(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys of an object, and those of the objects in it with dots between."""
    for key, value in data.items():
        yield key
        if isinstance(value, Mapping):
            for inner in _paths(value):
                yield f"{key}.{inner}"


def row_of(data: Mapping[str, Any], *, log_format: LogFormat, where: str) -> LogRow | None:
    """Return the row that an object is; None if it has none of the quantities but the step.

    Raises:
        RecordError: If a value is no number.
    """
    values: dict[str, float] = {}
    for quantity, key in log_format.fields.items():
        value = _lookup(data, key)
        if value is not None and value != "":
            values[quantity] = _number(value, name=key, log_format=log_format, where=where, quantity=quantity)
    step = values.pop("step", None)
    if not values:
        return None
    return LogRow(step=None if step is None else step_number(step, where=where), values=values, where=where)


def _lookup(data: Mapping[str, Any], key: str) -> object:
    """Return the value of a key; dots may lead into objects."""
    if key in data:
        return data[key]
    node: Any = data
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node


def _number(value: object, *, name: str, log_format: LogFormat, where: str, quantity: str) -> float:
    if isinstance(value, str):
        if quantity in _CLOCK_QUANTITIES:
            seconds = parse_clock(value)
            if seconds is not None:
                return seconds
        try:
            return number_of(value, comma=log_format.comma)
        except NumberTextError as error:
            raise RecordError(f"{where}: {name}={shown(value)!r} {error}") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RecordError(f"{where}: {name}={shown(str(value))} is no number")
    try:
        return float(value)
    except OverflowError:
        raise RecordError(f"{where}: {name} has more digits than a number of a step can have") from None


def step_number(value: float, *, where: str) -> int:
    """Return a step's number as a whole one.

    Raises:
        RecordError: If it is none.
    """
    if not (0 <= value < _MAX_STEP and value == int(value)):
        raise RecordError(f"{where}: step={value:g} must be a whole number >= 0; name the column or group that counts")
    return int(value)


def _parse_json(text: str) -> dict[str, Any] | None:
    text = text.strip()
    if not text.startswith("{"):
        return None
    try:
        data = json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return data if isinstance(data, dict) else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        for key in data:
            if sum(key == name for name, _ in pairs) > 1:
                raise ValueError(f"the key {key!r} is there twice")
    return data


def _parse_dict(text: str) -> dict[str, Any] | None:
    """Return the dict in a line, amid other text; None if there is none."""
    start, end = text.find("{'"), text.rfind("}")
    if start < 0:
        return None
    if end < start:
        raise ValueError("a dict without its end")
    text = _BARE_WORD.sub(lambda match: repr(match[0]), text[start : end + 1])
    try:
        data = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"no dict: {type(error).__name__}") from None
    return data if isinstance(data, dict) and all(isinstance(key, str) for key in data) else None


class _CsvParser:
    """Columns by the names in the first line."""

    def __init__(self, log_format: LogFormat) -> None:
        self._format = log_format
        self._head: list[str] = []
        self._first: list[str] = []
        self._delimiter = ","

    def rows(self, line: Line, *, file: str) -> Iterator[LogRow]:
        where = f"{file}:{line.number}"
        if not line.text.strip():
            return
        if not self._head:
            self._read_head(line.text, where=where)
            return
        cells = self._cells(line.text)
        if cells == self._head:
            return  # a run that was continued writes it again
        if not line.is_whole or len(cells) != len(self._head):
            raise RecordError(
                f"{where}: {len(cells)} cells under a head of {len(self._head)} columns, {shown(line.text)!r}; "
                "write each line whole"
            )
        row = row_of(dict(zip(self._head, cells, strict=True)), log_format=self._format, where=where)
        if row is not None:
            yield row

    def read_old(self, line: Line) -> None:
        if not self._head:
            self._read_head(line.text, where=f"line {line.number}")

    def _read_head(self, text: str, *, where: str) -> None:
        self._delimiter = max(",;\t", key=text.count)
        head = self._cells(text)
        self._first = self._first or head
        columns = self._format.fields.values()
        if any(column in head for column in columns):
            self._head = head
            for column in columns:
                if head.count(column) > 1:
                    raise RecordError(f"{where}: two columns are called {column!r}; the log must have one")
            step = self._format.fields.get("step")
            if step is not None and step not in head:
                raise RecordError(f"{where}: no column {step!r}, which counts the steps; {did_you_mean(step, head)}")

    def keys(self) -> Collection[str]:
        if self._head:
            return self._head
        return self._first if len(self._first) > 1 else ()  # a line without delimiters is no head

    def _cells(self, text: str) -> list[str]:
        try:
            row = next(csv.reader([text], delimiter=self._delimiter), [])
        except csv.Error:
            return []
        return [cell.strip() for cell in row]

    def likeness(self, line: Line) -> float:
        return 1.0 / line.number if line.text.strip() else 0.0


def _read_json(path: Path, log_format: LogFormat) -> FileRows:
    """Return the rows of an object that holds value by step by metric."""
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise RecordError(f"{path} can't be read: {error.strerror}; give a log that exists and may be read") from None
    try:
        data = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
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
            number = _number(key, name="step", log_format=log_format, where=where, quantity="step")
            step = step_number(number, where=where)
            if quantity in values.get(step, {}):
                raise RecordError(f"{where}: step {step} is there twice")
            if value is not None:
                number = _number(value, name=name, log_format=log_format, where=where, quantity=quantity)
                values.setdefault(step, {})[quantity] = number
    rows = [LogRow(step=step, values=values[step], where=f"{path}: step {step}") for step in sorted(values)]
    missing = _missing(log_format, keys=data)
    return FileRows(rows=tuple(rows), num_lines=text.count("\n") + 1, missing=missing)
