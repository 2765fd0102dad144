"""Text of recipes, logs, files and options made safe for a terminal, and still readable."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_ESCAPE_SEQUENCE: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]?"  # CSI: colours, moves of the cursor
    r"|\x1b[\]PX^_][^\n]*?(?:\x07|\x1b\\|\x9c|(?=\n)|$)"  # OSC and other strings: titles, links, clipboard
    r"|\x1b[ -/]*[0-~]?"
    r"|\x9b[0-?]*[ -/]*[@-~]?"
)
_HIDDEN_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs"})
_HIDDEN: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Characters that show nothing, though their categories are of letters, marks and symbols."""
_PLAIN: Final = re.compile(r"[\n\t -~]*")
_STYLE: Final = re.compile(r"(\x1b\[[0-9;]*m)")
UNDECODED: Final = re.compile("[\udc80-\udcff]+")
"""Bytes of a path that Python could not decode, as its error handler surrogateescape keeps them."""


def readable_text(text: str) -> str:
    r"""Return a text without bytes of a path that Python could not decode: as UTF-8 has them, else as ``\xff``.

    Under LC_ALL=C Python decodes no path beyond ASCII; files, terminals and other processes can't take its stand-ins.
    """
    if text.isascii():
        return text
    return UNDECODED.sub(decoded, text)


def decoded(match: re.Match[str]) -> str:
    """Return the text that stands for a match of UNDECODED."""
    return match[0].encode("ascii", "surrogateescape").decode("utf-8", "backslashreplace")


def plain_text(text: str) -> str:
    """Return text in one line: without control characters, terminal escapes, direction marks and hidden characters."""
    return " ".join(visible_text(text).split())


def visible_text(text: str) -> str:
    """Return text with its line breaks and tabs, and without other characters that show nothing or move the cursor."""
    if _PLAIN.fullmatch(text):
        return text
    kept = []
    for character in _HIDDEN.sub("", _ESCAPE_SEQUENCE.sub("", readable_text(text))):
        if character in "\n\t":
            kept.append(character)
        elif character.isspace():  # also the separators of lines and paragraphs, and the carriage return
            kept.append(" ")
        elif unicodedata.category(character) not in _HIDDEN_CATEGORIES:
            kept.append(character)
    return "".join(kept)


def visible_styled_text(text: str) -> str:
    """Return text as visible_text does, but with its colours and weights: of a report that made its parts visible."""
    parts = _STYLE.split(text)
    parts[::2] = map(visible_text, parts[::2])
    return "".join(parts)
