"""Lines of a text file that any program wrote: colours, progress bars, broken bytes, prefixes of ranks, clocks."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pytest_nemoperf.errors import RecordError

_REDRAWS: Final = re.compile("\r+")
MAX_LINE_BYTES: Final = 64 << 20
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
_GZIP: Final = b"\x1f\x8b"
_UTF8_MARK: Final = b"\xef\xbb\xbf"
_CONTROLS: Final = dict.fromkeys((*range(9), *range(10, 32), *range(127, 160), 8232, 8233), "�")
"""Characters that no number has, and that regular expressions and Python would take for blanks; a tab is one."""
_HARD_BLANK = re.compile(r"(?<=\d)[\xa0\u2007\u2009\u202f](?=\d)")
"""Blanks that part the thousands of a number; others part words."""
_COLOUR = re.compile(r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-Z\\-_]")
_MOVES = "ABCDEFGHf"
"""Last letters of the sequences that move the cursor: what follows stands elsewhere."""
_CLOCK = re.compile(r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?")
_CLOCK_WITHIN: Final = 60  # characters from the beginning; a date in a message is no clock
_PREFIXES = (
    re.compile(r"\[[A-Za-z_][\w.-]{,80}?(\d{1,9})(?:\|\d{1,9})?\]: ?"),  # torchrun: [default1]: or [rank1]:
    re.compile(r"\[\d{1,18},(\d{1,9})\]<std(?:out|err)>: ?"),  # mpirun --tag-output
    re.compile(r"\s{,80}(\d{1,9}): "),  # srun --label
    re.compile(r"\(\w{1,80} (pid=\d{1,9})(?:, ip=[\d.]{1,40})?\) "),  # Ray
)
"""Prefixes of launchers; bounded, for a long word of digits would be tried at each of its places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line, or one picture of a progress bar.

    Attributes:
        number: Counted from 1 by newlines, so that an editor finds it.
        text: Without colours, and without its end.
        is_whole: False for a last line without a newline: its writer may not have finished it.
        is_redrawn: A later picture of the same line.
        is_old: Of an earlier run that wrote into the same file.
    """

    number: int
    text: str
    is_whole: bool = True
    is_redrawn: bool = False
    is_old: bool = False

    @property
    def clock(self) -> tuple[float, float] | None:
        """Time at its beginning and the resolution of that, in seconds; None without one."""
        beginning = self.text[self.prefix[0] :][:_CLOCK_WITHIN]
        match = _CLOCK.search(beginning)
        if match is None or any(char.isdigit() for char in beginning[: match.start()]):
            return None  # a date behind other numbers may be that of the end, or of anything
        return clock_of(match)

    @property
    def prefix(self) -> tuple[int, str]:
        """Length of a launcher's prefix and the rank that it names; 0 and empty without one."""
        for pattern in _PREFIXES:
            match = pattern.match(self.text)
            if match is not None:
                return match.end(), match[1]
        return 0, ""


def clock_of(match: re.Match[str]) -> tuple[float, float] | None:
    """Return the seconds of a date and time, and their resolution; None if there is no such date."""
    *parts, fraction = match.groups()
    try:
        moment = datetime(*map(int, parts), tzinfo=UTC)  # type: ignore[arg-type,misc]  # six groups of digits
    except ValueError:
        return None
    seconds = moment.timestamp()
    if not fraction:
        return seconds, 1.0
    return seconds + int(fraction) / 10 ** len(fraction), 10.0 ** -len(fraction)


def parse_clock(text: str) -> float | None:
    """Return the seconds of a date and time in ISO 8601 at the beginning of a text, or None."""
    match = _CLOCK.match(text)
    if match is None:
        return None
    clock = clock_of(match)
    return None if clock is None else clock[0]


def read_lines(path: Path, *, num_old_bytes: int = 0) -> Iterator[Line]:
    """Yield the lines of a file as its reader on a terminal would see them.

    Args:
        path: The file.
        num_old_bytes: Bytes at its beginning that an earlier run wrote.

    Raises:
        RecordError: If the file can't be read, is UTF-16 or compressed by gzip, or has no lines.
    """
    try:
        with path.open("rb") as file:
            number, start = 0, 0
            while raw := file.readline(MAX_LINE_BYTES):
                number += 1
                if number == 1:
                    _check_encoding(raw, path=path)
                    raw = raw.removeprefix(_UTF8_MARK)
                if len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
                    raise RecordError(
                        f"{path}:{number}: a line of more than {MAX_LINE_BYTES >> 20} MiB; this is no log of lines"
                    )
                yield from lines_of(raw, number=number, is_old=start < num_old_bytes)
                start = file.tell()
    except OSError as error:
        raise RecordError(f"{path} can't be read: {error.strerror}; give a log that exists and may be read") from None


def _check_encoding(raw: bytes, *, path: Path) -> None:
    if raw.startswith(_UTF16) and raw.count(0) * 4 >= len(raw):
        raise RecordError(f"{path} is UTF-16; write the log as UTF-8, or convert it: iconv -f UTF-16 -t UTF-8")
    if raw.startswith(_GZIP):
        with suppress(OSError, EOFError), gzip.open(path) as file:  # what can't be unpacked is a line of noise
            file.read(1)
            raise RecordError(f"{path} is compressed; give the log itself: gzip -dk {path}")


def lines_of(raw: bytes, *, number: int, is_old: bool = False) -> Iterator[Line]:
    """Yield the pictures of a progress bar in one line of bytes; most lines are one."""
    is_whole = raw.endswith(b"\n")
    text = raw.decode("utf-8", errors="replace").rstrip("\r\n")
    if "\x1b" in text:
        text = _COLOUR.sub(_without_colour, text)
    pictures = _REDRAWS.split(text)
    for at, picture in enumerate(pictures):
        yield Line(
            number=number,
            text=_without_controls(picture),
            is_whole=is_whole or at + 1 < len(pictures),
            is_redrawn=at > 0,
            is_old=is_old,
        )


def _without_controls(text: str) -> str:
    """Return a text without control characters and hard blanks; the tests spare most lines the search."""
    if not text.isprintable():
        text = text.translate(_CONTROLS)
    return text if text.isascii() else _HARD_BLANK.sub("_", text)


def _without_colour(match: re.Match[str]) -> str:
    sequence, text = match[0], match.string
    if sequence.startswith("\x1b[") and sequence[-1] in _MOVES:
        return "\r"
    if text[match.start() - 1 : match.start()].isdigit() and text[match.end() : match.end() + 1].isdigit():
        return " "  # two numbers that only their colours part
    return ""
