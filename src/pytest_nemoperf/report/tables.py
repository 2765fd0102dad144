"""Cells and tables of markdown pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from pytest_nemoperf.metrics import format_number
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.report.cells import case_value
from pytest_nemoperf.results import CaseResult, SessionResults

NOT_APPLICABLE: Final = "n/a"
_INJECTED = "INJECTED DELAY, NOT A RESULT"

Planned = tuple[Plan, CaseResult]
"""A case and how it ran."""


def model_cells(rows: Sequence[Planned], *, settings: Sequence[Sequence[str]], results: SessionResults) -> list[str]:
    """Return the first cell of each row: the model, and the case id where the other cells don't tell rows apart.

    Args:
        rows: Cases of one table.
        settings: What else their rows say of the plan.
        results: The session.
    """
    keys = [(plan.model.name, *others) for (plan, _), others in zip(rows, settings, strict=True)]
    alike = Counter(keys)
    return [
        marked(f"{key[0]} ({case.verdict.case})" if alike[key] > 1 else key[0], results=results)
        for key, (_, case) in zip(keys, rows, strict=True)
    ]


def figure_cells(case: CaseResult, *, metrics: Sequence[str]) -> list[str]:
    """Return what a case's runs stand for by metric name, ``n/a`` for what they don't have."""
    values = [case_value(case, metric=name) for name in metrics]
    return [NOT_APPLICABLE if value is None else page_number(value) for value in values]


def page_number(value: float) -> str:
    """Return a number as pages print it: without thousands separators."""
    return format_number(value).replace(",", "")


def table_lines(headings: Sequence[str], *, rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table line by line; a bar or a line break in a cell does not break it."""
    cells = [[one_line(cell).replace("|", r"\|") for cell in row] for row in (headings, *rows)]
    rule = ["-" * len(heading) for heading in headings]
    return ["| " + " | ".join(row) + " |" for row in (cells[0], rule, *cells[1:])]


def marked(text: str, *, results: SessionResults) -> str:
    """Return a heading or the name of a row, which in a self-test stays recognisable when copied alone."""
    return f"{text} ({_INJECTED})" if results.inject_pct else text


def code(text: str) -> str:
    """Return text set as code."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}"


def one_line(text: str) -> str:
    """Return text without line breaks."""
    return " ".join(text.split())
