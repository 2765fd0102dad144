"""Generated blocks of a page, marked in comments; the text around them stays as it is, byte for byte."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pytest_nemoperf.errors import PageError

_MARKER: Final = re.compile(r" {0,3}<!--\s*nemoperf:(?P<word>\S*?)(?P<rest>\s.*)?-->[ \t]*\r?\n?")
_ALMOST: Final = re.compile(r"<!--\s*nemoperf:")
_CODE: Final = re.compile(r"`[^`]*`")
_FENCE: Final = re.compile(r" {0,3}(?P<fence>`{3,}|~{3,})(?P<info>.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A marked block.

    Attributes:
        kind: First word of its marker.
        arguments: The other words, ``name=value``.
        line: Number of the marker's line.
        begin: The line of the begin marker, line end included.
        content: Lines between the markers, as they stand on the page.
        end: The line of the end marker.
    """

    kind: str
    arguments: Mapping[str, str]
    line: int
    begin: str
    content: str
    end: str

    @property
    def name(self) -> str:
        """Kind and arguments, as messages name the block."""
        words = [f"{name}={value}" for name, value in self.arguments.items()]
        return " ".join([self.kind, *words])


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page: hand-written texts and blocks, in their order.

    Attributes:
        parts: Each a text or a block.
    """

    parts: tuple[str | Block, ...]

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Its blocks."""
        return tuple([part for part in self.parts if isinstance(part, Block)])

    @property
    def text(self) -> str:
        """The page as a file holds it."""
        texts = []
        for part in self.parts:
            texts.append(part.begin + part.content + part.end if isinstance(part, Block) else part)
        return "".join(texts)


def parse_page(text: str, *, subject: str) -> Page:
    """Return the parts of a page; comments in fenced code are no markers.

    Args:
        text: The page.
        subject: Its name in messages.

    Raises:
        PageError: If a marker is broken, a block is not ended, or another begins inside it, with the line's number.
    """
    parts: list[str | Block] = []
    kept: list[str] = []
    opened: Block | None = None
    fence = ""
    for number, line in enumerate(_lines(text), start=1):
        place = f"{subject}:{number}"
        marker = None
        if opened is not None or not fence:
            marker = _marker(line, place=place, is_in_block=opened is not None)
        if opened is None:
            fence = _fence_after(line, fence=fence)
        if marker is None:
            kept.append(line)
            continue
        if marker["word"] == "begin":
            if opened is not None:
                raise PageError(
                    f"{place}: a block begins inside block {opened.kind!r} of line {opened.line}; end that one first, "
                    "with <!-- nemoperf:end -->"
                )
            parts.append("".join(kept))
            opened = _opened(marker["rest"] or "", line=line, number=number, place=place)
        else:
            if opened is None:
                raise PageError(f"{place}: nemoperf:end without a nemoperf:begin before it; delete it")
            parts.append(replace(opened, content="".join(kept), end=line))
            opened = None
        kept = []
    if opened is not None:
        raise PageError(
            f"{subject}:{opened.line}: block {opened.kind!r} is not ended; put <!-- nemoperf:end --> below it, on a "
            "line of its own"
        )
    page = Page(parts=(*parts, "".join(kept)))
    _check_repeats(page, subject=subject)
    return page


def filled(page: Page, *, content: Callable[[Block], Sequence[str]]) -> Page:
    """Return a page with new lines in its blocks, which end as the lines of their markers do."""
    parts: list[str | Block] = []
    for part in page.parts:
        if isinstance(part, Block):
            part = replace(part, content=_block_text(content(part), begin=part.begin))  # noqa: PLW2901 (the same part)
        parts.append(part)
    return Page(parts=tuple(parts))


def _block_text(lines: Sequence[str], *, begin: str) -> str:
    """Return the text of a block: its lines between two empty ones, so that Markdown ends the comment before them."""
    line_end = "\r\n" if begin.endswith("\r\n") else "\n"
    return "".join([f"{line}{line_end}" for line in ("", *lines, "")])


def _lines(text: str) -> list[str]:
    """Return lines with their ends; other separators than the newline, which ``splitlines`` knows, are text."""
    lines = text.split("\n")
    whole = [f"{line}\n" for line in lines[:-1]]
    return [*whole, lines[-1]] if lines[-1] else whole


def _marker(line: str, *, place: str, is_in_block: bool) -> re.Match[str] | None:
    """Return the marker that a line is; None for other lines."""
    marker = _MARKER.fullmatch(line)
    if marker is None:
        if not is_in_block and _ALMOST.search(_CODE.sub("", line)):
            raise PageError(f"{place}: a marker stands alone on its line: <!-- nemoperf:begin KIND ... -->")
        return None
    if marker["word"] not in ("begin", "end"):
        raise PageError(f"{place}: nemoperf:{marker['word']} is no marker; write nemoperf:begin or nemoperf:end")
    return marker


def _fence_after(line: str, *, fence: str) -> str:
    """Return the fence of the code block that goes on behind a line; empty for none."""
    match = _FENCE.match(line)
    if match is None:
        return fence
    if not fence:
        return "" if match["fence"][0] == "`" and "`" in match["info"] else match["fence"]
    is_closing = match["fence"].startswith(fence) and not match["info"].strip()
    return "" if is_closing else fence


def _opened(rest: str, *, line: str, number: int, place: str) -> Block:
    try:
        words = shlex.split(rest)
    except ValueError as exc:
        raise PageError(f"{place}: {rest.strip()!r} can't be split into words: {exc}; close the quotes") from None
    if not words:
        raise PageError(f"{place}: nemoperf:begin without a kind of block; write e.g. nemoperf:begin tables")
    arguments: dict[str, str] = {}
    for word in words[1:]:
        name, sign, value = word.partition("=")
        if not sign or not value:
            raise PageError(f"{place}: {word!r} is no argument of a block; write NAME=VALUE")
        if name in arguments:
            raise PageError(f"{place}: argument {name!r} is given twice; keep one")
        arguments[name] = value
    return Block(kind=words[0], arguments=arguments, line=number, begin=line, content="", end="")


def _check_repeats(page: Page, *, subject: str) -> None:
    lines: dict[str, int] = {}
    for block in page.blocks:
        if block.name in lines:
            raise PageError(
                f"{subject}:{block.line}: block {block.name!r} stands on line {lines[block.name]} already; delete one"
            )
        lines[block.name] = block.line
