"""Text of recipes, logs and files made safe for Markdown, HTML and CSV, and still readable."""

from __future__ import annotations

import html
import re
from typing import Final

from pytest_nemoperf.visible import plain_text, visible_text

_PUNCTUATION: Final = re.compile(r"[\\`*\[\]~${}|]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")
_ENTITY: Final = re.compile(r"&(?=#?\w+;)")
_BLOCK_STARTS: Final = "-+=%:(#"
"""Lists, headings, and of MyST comments, fields, fences and targets."""
_NUMBER: Final = re.compile(r"\d{1,9}[.)]")
_AUTOLINK: Final = re.compile(r"(?<=[A-Za-z]):(?=//)|(?<=www)\.", re.IGNORECASE)
_ADDRESS: Final = re.compile(r"@(?=[0-9A-Za-z][\w-]*\.)|(?<!\w)@(?=[0-9A-Za-z])")
"""Of a mail address, or before an account's name."""
_APART: Final = "<span>@</span>"
_PLAIN: Final = re.compile(r"(?!.*www\.)[0-9A-Za-z .,/()+-]*", re.IGNORECASE)
_FORMULA_STARTS: Final = ("=", "+", "-", "@")
_MATH: Final = "<span>\\$</span>"
"""GitHub's own way to write a dollar that begins no formula; the backslash is for MyST."""


def csv_cell(value: object) -> object:
    """Return a value as a cell of CSV: a text in one line, and with an apostrophe if it begins like a formula."""
    if not isinstance(value, str):
        return value
    text = plain_text(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def html_text(text: str) -> str:
    """Return text in one line for HTML, as between ``<summary>`` tags, in which Markdown means nothing."""
    return html.escape(plain_text(text))


def markdown_text(text: str) -> str:
    """Return text in one line that GitHub and MyST print exactly as it is, also at the start of a line.

    Names such as ``LLAMA3.1_70B`` stay as they are in the source too; addresses make no links.
    """
    escaped = _inline(text)
    number = _NUMBER.match(escaped)
    if number is not None:
        at = number.end() - 1
        return f"{escaped[:at]}\\{escaped[at:]}"
    if escaped and escaped[0] in _BLOCK_STARTS:
        return f"\\{escaped}"
    return escaped


def markdown_cell(text: str) -> str:
    """Return text as a cell of a table that GitHub and MyST print exactly as it is."""
    return _inline(text)


def code(text: str) -> str:
    """Return text set as code, for a line; empty for none."""
    plain = plain_text(text)
    if not plain:
        return ""
    longest = max(map(len, re.findall("`+", plain)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{fence}{pad}{plain}{pad}{fence}"


def code_cell(text: str) -> str:
    r"""Return text set as code, for a cell of a table; as text if it holds ``\|``, which no code in a cell can."""
    if "\\|" in text:
        return markdown_cell(text)
    return code(text).replace("|", r"\|")


def fenced(text: str) -> list[str]:
    """Return text as the lines of a block of code, its line breaks kept, with a fence that no line in it closes."""
    lines = visible_text(text).splitlines()
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(longest + 1, 3)
    return [f"{fence}text", *lines, fence]


def _inline(text: str) -> str:
    plain = plain_text(text)
    if _PLAIN.fullmatch(plain):
        return plain
    escaped = _PUNCTUATION.sub(_with_backslash, plain)
    escaped = _AUTOLINK.sub(_with_backslash, escaped)
    escaped = _ENTITY.sub("&amp;", escaped).replace("<", "&lt;").replace(">", "&gt;")
    return _ADDRESS.sub(_APART, escaped).replace("\\$", _MATH)


def _with_backslash(match: re.Match[str]) -> str:
    return f"\\{match[0]}"
