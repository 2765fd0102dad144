"""Terminal that a command prints to."""

from __future__ import annotations

import os
import shutil
import sys


def terminal_width() -> int:
    """Return the columns of the terminal."""
    return shutil.get_terminal_size().columns


def has_color() -> bool:
    """Return whether colours are wanted."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
