"""Reading the end of a log."""

from __future__ import annotations

from pathlib import Path

_TAIL_BYTES = 1 << 16


def tail_of(log: Path, *, num_lines: int = 15) -> str:
    """Return the last lines of a log, however large it is, or a word that it is empty or missing."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(text.splitlines()[-num_lines:]) or "(empty log)"
