"""Remarks on several cases that differ in numbers alone, said once with ranges: ``finds 21.9..25.3%``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_NUMBER: Final = re.compile(r"(?<![\w.,-])\d[\d,]*(?:\.\d+)?(?![\w,-]|\.\d)")


def without_numbers(text: str) -> str:
    """Return a text with each number as 0: equal for texts that differ in numbers alone."""
    return _NUMBER.sub("0", text)


def with_ranges(texts: Sequence[str]) -> str:
    """Return texts that differ in numbers alone as one, with the range of each number.

    Args:
        texts: At least one; without_numbers makes them equal.
    """
    numbers = zip(*map(_NUMBER.findall, texts), strict=True)
    ranges = map(_range_text, numbers)
    return _NUMBER.sub(lambda _: next(ranges), texts[0])


def _range_text(numbers: Sequence[str]) -> str:
    ordered = sorted(numbers, key=lambda number: float(number.replace(",", "")))
    return ordered[0] if ordered[0] == ordered[-1] else f"{ordered[0]}..{ordered[-1]}"
