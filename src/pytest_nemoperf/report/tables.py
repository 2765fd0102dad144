"""Tables and numbers of Markdown pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pytest_nemoperf.records.metrics import format_number
from pytest_nemoperf.report.escape import markdown_cell

NOT_APPLICABLE: Final = "n/a"
INJECTED: Final = "INJECTED DELAY, NOT A RESULT"
"""Mark of headings and rows of a self-test, so that a copied line is not taken for a result."""


def page_number(value: float | None) -> str:
    """Return a number as pages print it: without thousands separators; ``n/a`` for None."""
    if value is None:
        return NOT_APPLICABLE
    return format_number(value).replace(",", "")


def table_lines(headings: Sequence[str], *, rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table of plain texts, which are escaped; see ready_table for cells of Markdown."""
    return ready_table(headings, rows=[list(map(markdown_cell, row)) for row in rows])


def ready_table(headings: Sequence[str], *, rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table of cells that are Markdown already."""
    rule = ["-" * len(heading) for heading in headings]
    lines = []
    for row in (headings, rule, *rows):
        lines.append(f"| {' | '.join(row)} |")
    return lines


def marked(text: str, *, mark: str) -> str:
    """Return text with a mark in brackets behind it; an empty mark leaves it as it is."""
    return f"{text} ({mark})" if mark else text
