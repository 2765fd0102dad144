"""Date of a log: by the first clock in its lines or its name, else by its last change."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.logs.lines import read_lines

_MAX_LINES: Final = 10_000
"""Lines that a clock is looked for in: trainers tell their settings first."""
_EVENT_FILE = re.compile(r"tfevents\.(\d{9,11})(?:\.|$)")
"""Name of an event file, with the seconds since the epoch at which it was begun."""


def date_of_log(files: Sequence[Path]) -> str:
    """Return the date of one run's log, ISO 8601; a clock that names no zone is taken as UTC.

    Args:
        files: Its files, at least one.
    """
    now = datetime.now(UTC).timestamp()
    for file in files:
        for seconds in (_seconds_in_name(file), _seconds_in_lines(file)):
            if seconds is not None and 0 < seconds <= now:
                return _text(seconds)
    return _text(max(file.stat().st_mtime for file in files))


def _seconds_in_name(file: Path) -> float | None:
    match = _EVENT_FILE.search(file.name)
    return float(match[1]) if match else None


def _seconds_in_lines(file: Path) -> float | None:
    if _EVENT_FILE.search(file.name):
        return None
    try:
        for line in islice(read_lines(file), _MAX_LINES):
            if line.clock is not None:
                return line.clock[0]
    except RecordError:
        return None
    return None


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
