"""Terminal that a command prints to."""

from __future__ import annotations

import os
import shutil
import sys

from pytest_nemoperf.machine.github import is_github
from pytest_nemoperf.report.escape import without_commands


def terminal_width() -> int:
    """Return the columns of the terminal."""
    return shutil.get_terminal_size().columns


def unobeyed(text: str) -> str:
    """Return a text as this log may print it: on GitHub, without workflow commands out of logs and files."""
    return without_commands(text) if is_github() else text


def has_color() -> bool:
    """Return whether colours are wanted."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
