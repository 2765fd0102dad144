"""Numbers as programs print them: read right, or refused. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal

Comma = Literal["", "thousands", "decimal"]

_NUMBER = re.compile(r"[+-]?(?:\d[\d.,_]*|\.\d+)(?:[eE][+-]?\d+)?")
_PLAIN = re.compile(r"[+-]?(?:\d+(?:_\d+)*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d*)?")
_DECIMAL = re.compile(r"[+-]?(?:\d+|\d{1,3}(?:\.\d{3})+),\d+(?:[eE][+-]?\d+)?")
_WORDS: Final = {
    "nan": float("nan"),
    "inf": float("inf"),
    "infinity": float("inf"),
}


class NumberTextError(ValueError):
    """A text that is no number, or could be two."""


def number_of(text: str, *, comma: Comma = "") -> float:
    """Return the number that a text shows.

    Args:
        text: Such as ``12.5``, ``1e-05``, ``nan`` or ``1,234.5``.
        comma: Meaning of a comma, where the text itself leaves it open.

    Raises:
        NumberTextError: If it is no number, or the comma may be either; the message ends a sentence about the text.
    """
    text = text.strip()
    word = _WORDS.get(text.lstrip("+-").lower())
    if word is not None:
        return -word if text.startswith("-") else word
    if _PLAIN.fullmatch(text):
        return float(text)
    is_thousands = _THOUSANDS.fullmatch(text) is not None
    is_decimal = _DECIMAL.fullmatch(text) is not None
    if is_thousands and is_decimal:
        if not comma:
            raise NumberTextError(
                "may be a number with a thousands comma or one with a decimal comma; "
                'say which with comma="thousands" or comma="decimal" in LogFormat'
            )
        is_decimal = comma == "decimal"
        is_thousands = not is_decimal
    if is_decimal and comma != "thousands":
        return float(text.replace(".", "").replace(",", "."))
    if is_thousands and comma != "decimal":
        return float(text.replace(",", ""))
    if is_decimal or is_thousands:
        raise NumberTextError(f'is no number with comma="{comma}"')
    raise NumberTextError("is no number")


def is_cut(text: str, *, start: int, end: int) -> str:
    """Return the whole number that a part of a text belongs to, or an empty string if the part is not of a larger one.

    Args:
        text: The whole line.
        start: Beginning of the part.
        end: End of the part.
    """
    from_char, to_char = _extent(text, start=start, end=end)
    for first, shown in _numbers(text, after=start, from_char=from_char, to_char=to_char):
        if first > start:
            return ""
        last = first + len(shown)
        if last > start:
            return shown if first < start or last > end else ""
    return ""


def _extent(text: str, *, start: int, end: int) -> tuple[int, int]:
    """Return the beginning and end of a part together with the characters around it that numbers may have.

    A number begins and ends within them, so that the rest of a long line need not be searched.
    """
    while start > 0 and _may_be_in_number(text[start - 1]):
        start -= 1
    while end < len(text) and _may_be_in_number(text[end]):
        end += 1
    return start, end


def _may_be_in_number(char: str) -> bool:
    return char in "+-.,_eE" or char.isdecimal()


def _numbers(text: str, *, after: int, from_char: int, to_char: int) -> Iterator[tuple[int, str]]:
    """Yield beginning and text of each number that does not end before a place; those of a list apart."""
    for match in _NUMBER.finditer(text, from_char, to_char):
        if match.end() <= after:
            continue
        first = match.start()
        shown = match[0]
        if shown[0] in "+-" and not _is_sign(text, at=first):
            first, shown = first + 1, shown[1:]
        shown = shown.rstrip(".,_")
        if _is_number(shown):
            yield first, shown
            continue
        for part in shown.split(","):
            yield first, part
            first += len(part) + 1


def _is_number(text: str) -> bool:
    return any(form.fullmatch(text) for form in (_PLAIN, _THOUSANDS, _DECIMAL))


def _is_sign(text: str, *, at: int) -> bool:
    """Return whether a plus or minus belongs to the number after it and not to a name or date before it."""
    return at == 0 or text[at - 1] in " \t:=([,|"
