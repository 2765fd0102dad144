"""Selection and order of rows: conditions on columns, words of a case id, sorting."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.report.row_columns import Column, Value, find_column
from pytest_nemoperf.results.row import Row

_CONDITION: Final = re.compile(r"(?P<name>\w+)(?P<sign><=|>=|!=|=|<|>)(?P<value>.*)", re.DOTALL)
_COMPARE: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {
        "=": operator.eq,
        "!=": operator.ne,
        "<": operator.lt,
        ">": operator.gt,
        "<=": operator.le,
        ">=": operator.ge,
    }
)
_UNKNOWN: Final = "n/a"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Condition on a column.

    Attributes:
        column: The column.
        sign: ``=``, ``!=``, and for numbers also ``<``, ``>``, ``<=``, ``>=``.
        pattern: Text with ``*`` and ``?``, in lower case; ``n/a`` for rows without the value.
        number: The value of a column of numbers; None for text and for ``n/a``.
    """

    column: Column
    sign: str
    pattern: str
    number: float | None

    def holds(self, row: Row) -> bool:
        """Whether the row is selected; one without the value is by ``=n/a`` and ``!=`` only."""
        value = self.column.value_of(row)
        is_unequal = self.sign == "!="
        if self.pattern == _UNKNOWN:
            return (value in (None, "")) is not is_unequal
        if value is None:
            return is_unequal
        if self.number is not None:
            return _COMPARE[self.sign](float(value), self.number)
        return fnmatchcase(str(value).lower(), self.pattern) is not is_unequal


def parse_condition(text: str, *, subject: str) -> Condition:
    """Return a condition from an option's value: ``model=llama*``, ``gpus>=64``, ``vp=n/a``.

    Args:
        text: The value.
        subject: The option.

    Raises:
        BaselineError: If it has no sign, or the column does not exist or has no such values.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise BaselineError(f"{subject}: {text!r} is no condition; write COLUMN=VALUE, or gpus>=64 for a number")
    column = find_column(match["name"], subject=subject)
    sign = match["sign"]
    value = match["value"].strip().lower()
    if value == _UNKNOWN:
        if sign not in ("=", "!="):
            raise BaselineError(f"{subject}: {text!r}: no value is less or more than {_UNKNOWN}; use = or !=")
        return Condition(column=column, sign=sign, pattern=value, number=None)
    if column.is_text:
        if sign not in ("=", "!="):
            raise BaselineError(
                f"{subject}: {text!r}: {column.name} holds text, and {sign} compares numbers; "
                f"use {column.name}=PATTERN, with * for any characters"
            )
        return Condition(column=column, sign=sign, pattern=value, number=None)
    return Condition(column=column, sign=sign, pattern="", number=_number(value, column=column, subject=subject))


def has_words(row: Row, *, words: Sequence[str]) -> bool:
    """Return whether case id, model and framework of a row hold every word, and none that follows ``not``."""
    text = f"{row.case} {row.model} {row.framework}".lower()
    is_wanted = True
    for word in words:
        if word.lower() == "not":
            is_wanted = False
            continue
        if (word.lower() in text) is not is_wanted:
            return False
        is_wanted = True
    return True


def sorted_rows(rows: Sequence[Row], *, columns: Sequence[tuple[Column, bool]]) -> list[Row]:
    """Return rows in order of columns, the first one first; those without a value last.

    Args:
        rows: The rows; equal ones stay in their order.
        columns: Each column, and whether it descends.
    """
    ordered = list(rows)
    for column, is_descending in reversed(columns):
        known = [row for row in ordered if column.value_of(row) not in (None, "")]
        unknown = [row for row in ordered if column.value_of(row) in (None, "")]
        known.sort(key=lambda row: _sort_key(column.value_of(row)), reverse=is_descending)
        ordered = [*known, *unknown]
    return ordered


def _sort_key(value: Value) -> tuple[float, str]:
    """Return numbers before texts, so that a column of either kind sorts."""
    if isinstance(value, str):
        return math.inf, value.lower()
    return float(value or 0), ""


def _number(value: str, *, column: Column, subject: str) -> float:
    try:
        number = float(value.replace(",", ""))
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise BaselineError(
            f"{subject}: {column.name} holds numbers, and {value!r} is none; write e.g. {column.name}>=8, or "
            f"{column.name}={_UNKNOWN} for rows without it"
        )
    return number
