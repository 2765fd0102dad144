"""Terminal that a command prints to; all that commands print goes through this module."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from typing import TextIO

from pytest_nemoperf.machine.github import is_github
from pytest_nemoperf.report.escape import without_commands
from pytest_nemoperf.visible import visible_styled_text, visible_text

_ERASE = "\r\x1b[2K"


def terminal_width() -> int:
    """Return the columns of the terminal."""
    return shutil.get_terminal_size().columns


def has_color() -> bool:
    """Return whether colours are wanted."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def write(text: str, *, file: TextIO | None = None) -> None:
    """Write text without characters that a terminal or GitHub obeys, the colours of our own reports excepted.

    Args:
        text: The text, with its line breaks.
        file: Standard output if it is not given.
    """
    stream = sys.stdout if file is None else file
    stream.write(_unobeyed(visible_styled_text(text) if has_color() else visible_text(text)))


def write_command(text: str) -> None:
    """Write a workflow command of GitHub on a line of its own."""
    sys.stdout.write(f"{visible_text(text)}\n")


def write_error(text: str) -> None:
    """Write a line to standard error, if that takes it, without characters that a terminal obeys or hides."""
    if sys.stderr is not None:  # as of ``2>&-``
        with suppress(OSError):  # as of a full disk: the exit code says the rest
            sys.stderr.write(f"{_unobeyed(visible_text(text))}\n")
            sys.stderr.flush()


def write_document(text: str) -> None:
    """Write a document of the user: as it is to a file or a program, and as text to a terminal."""
    sys.stdout.write(visible_text(text) if sys.stdout.isatty() else text)


def _unobeyed(text: str) -> str:
    """Return a text as this log may print it: on GitHub, without workflow commands out of logs and files."""
    return without_commands(text) if is_github() else text


class PassingLine:
    """Replaceable line on standard error; shown on a terminal only."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def show(self, text: str) -> None:
        """Show a text."""
        self._put(visible_text(text))

    def erase(self) -> None:
        """Leave nothing of it."""
        self._put("")

    def _put(self, text: str) -> None:
        if self._is_shown:
            sys.stderr.write(f"{_ERASE}{text}")
            sys.stderr.flush()
