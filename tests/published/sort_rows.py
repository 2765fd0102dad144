"""Sort the shipped rows: contradictory ones and drafts into ``excluded``, with the reason.

Run as ``python -m tests.published.sort_rows`` after rows were added; tests/published/test_data.py says when it is due.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest_nemoperf
from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.published.contradictions import find_contradictions
from pytest_nemoperf.published.row import PublishedRow, PublishedRows
from pytest_nemoperf.schema import from_valid_data

FOLDER: Final = Path(pytest_nemoperf.__file__).parent / "catalog" / "published"


def main() -> None:
    """Write each system's file again, a row a line."""
    data: dict[str, list[Any]] = {}
    rows: list[PublishedRow] = []
    for path in sorted(FOLDER.glob("*.json")):
        read = json.loads(path.read_text(encoding="utf-8"))
        found = from_valid_data(PublishedRows, read, subject=str(path), error=BaselineError)
        rows += [*found.rows, *(excluded.row for excluded in found.excluded)]
        data[path.stem] = [*read.get("rows", []), *(excluded["row"] for excluded in read.get("excluded", []))]
    contradictions = find_contradictions(rows)
    for system, each in data.items():
        kept = []
        excluded = []
        for row in sorted(each, key=lambda row: row["id"]):
            if row["id"] in contradictions:
                excluded.append(_line({"reason": contradictions[row["id"]].reason, "row": row}))
            else:
                kept.append(_line(row))
        text = f'{{"schema_version": 1, "rows": {_list(kept)}, "excluded": {_list(excluded)}}}\n'
        (FOLDER / f"{system}.json").write_text(text, encoding="utf-8")
        print(f"{system}: {len(kept)} rows, {len(excluded)} excluded")


def _list(lines: list[str]) -> str:
    return "[\n" + ",\n".join(lines) + "\n]" if lines else "[]"


def _line(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


if __name__ == "__main__":
    main()
