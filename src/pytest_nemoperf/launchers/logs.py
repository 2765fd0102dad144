"""Excerpts of a log that show a failure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytest_nemoperf.logs.out_of_memory import find_out_of_memory

_TAIL_BYTES = 1 << 18
_TAIL_LINES = 15
_TRACEBACK = "Traceback (most recent call last):"


def tail_of(log: Path) -> str:
    """Return the last lines of a log of any size, or a note that it is empty or missing."""
    if not log.exists():
        return "(no log)"
    return "\n".join(_last_lines(log)[-_TAIL_LINES:]) or "(empty log)"


def first_traceback(log: Path) -> str:
    """Return the first traceback near the end of a log, or an empty string.

    Launchers like torchrun print their own traceback and a summary after that of the failed rank, and may prefix each
    of its lines with the rank.
    """
    if not log.exists():
        return ""
    block: list[str] = []
    prefix = ""
    for line in _last_lines(log):
        if not block and _TRACEBACK in line:
            prefix = line.partition(_TRACEBACK)[0]
            block.append(_TRACEBACK)
        elif block and line.startswith(prefix):
            text = line.removeprefix(prefix)
            block.append(text)
            if not text.startswith(" "):  # the exception itself
                break
    return "\n".join(block)


def out_of_memory_message(logs: Sequence[Path], *, subject: str) -> str:
    """Return a sentence on the first report of memory that could not be had, or an empty string.

    Args:
        logs: Output of each process, by rank.
        subject: Case that ran.
    """
    for rank, log in enumerate(logs):
        found = find_out_of_memory(_end_of(log)) if log.exists() else None
        if found is not None:
            of_rank = rank if len(logs) > 1 else None  # one log may be that of a command with ranks of its own
            return found.describe(subject=subject, rank=of_rank)
    return ""


def _last_lines(log: Path) -> list[str]:
    return _end_of(log).splitlines()


def _end_of(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return file.read().decode("utf-8", errors="replace")
