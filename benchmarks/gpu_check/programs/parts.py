"""Parts of a stage that an earlier start has finished: kept as files, so that another start goes on behind them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

PART_FILE = "part.json"


def keep_row(folder: Path, *, work: str, row: Sequence[str]) -> None:
    """Keep the row of a part that was as it should be.

    Args:
        folder: Folder of the part.
        work: Text of all that the part did, such as its plan.
        row: Cells of its row.
    """
    draft = folder / f"{PART_FILE}.new"
    draft.write_text(json.dumps({"work": work, "row": list(row)}), encoding="utf-8")
    draft.replace(folder / PART_FILE)


def kept_row(folder: Path, *, work: str) -> list[str] | None:
    """Return the row of a part that an earlier start has kept; None if there is none, or of other work."""
    path = folder / PART_FILE
    if not path.exists():
        return None
    kept = json.loads(path.read_text(encoding="utf-8"))
    row: list[str] = kept["row"]
    return row if kept["work"] == work else None
