"""Rows of a log: the quantities of one line, as it logs them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pytest_nemoperf.errors import RecordError, did_you_mean
from pytest_nemoperf.logs.lines import parse_clock
from pytest_nemoperf.logs.log_format import LogFormat
from pytest_nemoperf.logs.number_text import NumberTextError, number_of

_MAX_SHOWN: Final = 160
_MAX_STEP: Final = 2**53  # beyond it a float skips whole numbers
_CLOCK_QUANTITIES: Final = ("start_time_sec", "end_time_sec")


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


def row_of(data: Mapping[str, Any], *, log_format: LogFormat, where: str) -> LogRow | None:
    """Return the row that an object is; None if it has none of the quantities but the step.

    Raises:
        RecordError: If a value is no number.
    """
    values: dict[str, float] = {}
    for quantity, key in log_format.fields.items():
        value = _lookup(data, key)
        if value is not None and value != "":
            values[quantity] = number_in(value, name=key, log_format=log_format, where=where, quantity=quantity)
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


def number_in(value: object, *, name: str, log_format: LogFormat, where: str, quantity: str) -> float:
    """Return a logged value as a number: a date and time in seconds, of quantities that are times of a clock.

    Raises:
        RecordError: If it is none.
    """
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


def missing_keys(log_format: LogFormat, *, keys: Collection[str]) -> dict[str, str]:
    """Return a hint for each quantity of the format without its key in a file; none for a file without keys."""
    hints = {}
    for quantity, key in log_format.fields.items():
        if keys and key not in keys:
            hints[quantity] = f"no {key!r}; {did_you_mean(key, keys)}"
    return hints


def shown(text: str) -> str:
    """Return a line as a message shows it."""
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text.strip())
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
