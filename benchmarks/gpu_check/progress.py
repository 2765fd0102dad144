"""Progress of the check: a live line on a terminal, a line at a stage's start and end elsewhere."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TextIO

_TAIL_BYTES = 2000


class Progress:
    """Lines on a stream.

    Args:
        stream: Standard output, unless a test gives another.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._is_live = self._stream.isatty()
        self._title = ""
        self._limit_sec = 0.0
        self._shown = ""

    def begin(self, title: str, *, limit_sec: float) -> None:
        """Begin a stage."""
        self._title = title
        self._limit_sec = limit_sec
        if not self._is_live:
            self.say(f"{title}: at most {limit_sec:.0f} s")

    def show(self, seconds: float, *, log: Path) -> None:
        """Show the time and the last line of the stage's log, on a terminal."""
        if not self._is_live:
            return
        columns = shutil.get_terminal_size().columns
        text = f"{self._title} {_clock(seconds)} of {_clock(self._limit_sec)}  {last_line(log)}"[: columns - 1]
        if text != self._shown:
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()
            self._shown = text

    def end(self, text: str) -> None:
        """End a stage with a line that stays."""
        if self._is_live:
            self._stream.write("\r\x1b[K")
        self._shown = ""
        self.say(text)

    def say(self, text: str) -> None:
        """Write a line."""
        self._stream.write(text + "\n")
        self._stream.flush()


def last_line(log: Path) -> str:
    """Return the last line of a log that is not blank; empty if there is none yet."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        if line.strip():
            return line.strip()
    return ""


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
