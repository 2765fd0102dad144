"""Parsers of the lines of a log: patterns, objects, or the columns of a table."""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final, Protocol

from pytest_nemoperf.errors import RecordError, count_text, did_you_mean
from pytest_nemoperf.json_codec import parse_json
from pytest_nemoperf.logs.lines import Line
from pytest_nemoperf.logs.log_format import LogFormat, LogKind, quantity_of
from pytest_nemoperf.logs.number_text import is_cut
from pytest_nemoperf.logs.rows import LogRow, number_in, row_of, shown, step_number

_MAX_TEXT: Final = 1 << 16  # characters of a line that patterns are tried on
_MAX_KEYS: Final = 1000  # remembered for a message
_DIGIT = re.compile(r"\d")
_BARE_WORD = re.compile(r"(?<![\w'\"])(nan|inf|-inf|NaN|Infinity)(?![\w'\"])")


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
            values[quantity] = number_in(text, name=group, log_format=self._format, where=where, quantity=quantity)
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
    """Lines that hold one object each; others are noise.

    A broken object is noise before the first row only, and without a key of the format.
    """

    def __init__(self, log_format: LogFormat, *, parse: Callable[[str], dict[str, Any] | None]) -> None:
        self._format = log_format
        self._parse = parse
        self._keys: dict[str, None] = {}
        self._unseen = set(log_format.fields.values())
        self._quoted = {f"{quote}{key.partition('.')[0]}" for key in self._unseen for quote in "'\""}
        self._has_rows = False

    def rows(self, line: Line, *, file: str) -> Iterator[LogRow]:
        where = f"{file}:{line.number}"
        length, rank = line.prefix
        try:
            data = self._parse(line.text[length:])
        except ValueError as error:
            is_of_format = self._has_rows or any(key in line.text for key in self._quoted)
            if line.is_whole and not is_of_format:
                return  # of a configuration that was printed over several lines, say
            raise RecordError(f"{where}: a torn line, {shown(line.text)!r}: {error}; write each line whole") from None
        if data is None:
            return
        if self._unseen:
            self._see(data)
        row = row_of(data, log_format=self._format, where=where)
        if row is not None:
            self._has_rows = True
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


def _parse_json(text: str) -> dict[str, Any] | None:
    text = text.strip()
    if not text.startswith("{"):
        return None
    data = parse_json(text)
    return data if isinstance(data, dict) else None


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
                f"{where}: {count_text(len(cells), 'cell')} under a head of {count_text(len(self._head), 'column')}, "
                f"{shown(line.text)!r}; write each line whole"
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
