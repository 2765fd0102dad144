"""Cells and tables of Markdown pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pytest_nemoperf.metrics import format_number
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.report.cells import case_value
from pytest_nemoperf.results import CaseResult, SessionResults

NOT_APPLICABLE: Final = "n/a"
_INJECTED = "INJECTED DELAY, NOT A RESULT"

Planned = tuple[Plan, CaseResult]
"""A case with its plan."""


def model_cells(rows: Sequence[Planned], *, settings: Sequence[Sequence[str]], results: SessionResults) -> list[str]:
    """Return the first cell of each row: the model, with the case id if the row's other cells are not unique.

    Args:
        rows: Cases of one table.
        settings: Cells of their plans.
        results: The session.
    """
    keys = [(plan.model.name, *cells) for (plan, _), cells in zip(rows, settings, strict=True)]
    counts = Counter(keys)
    names = []
    for key, (plan, case) in zip(keys, rows, strict=True):
        name = plan.model.name
        if counts[key] > 1:
            name = f"{name} ({case.verdict.case})"
        names.append(marked(name, results=results))
    return names


def plan_cells(plan: Plan, *, columns: Mapping[str, Callable[[Plan], object]]) -> list[str]:
    """Return a plan's cells under the headings of the columns."""
    return [str(value_of(plan)) for value_of in columns.values()]


def figure_cells(case: CaseResult, *, metrics: Sequence[str]) -> list[str]:
    """Return a case's values by metric name, ``n/a`` for metrics it does not have."""
    cells = []
    for name in metrics:
        value = case_value(case, metric=name)
        cells.append(NOT_APPLICABLE if value is None else page_number(value))
    return cells


def page_number(value: float) -> str:
    """Return a number as pages print it: without thousands separators."""
    return format_number(value).replace(",", "")


def table_lines(headings: Sequence[str], *, rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, with bars and line breaks in its cells escaped."""
    rule = ["-" * len(heading) for heading in headings]
    lines = []
    for row in (headings, rule, *rows):
        cells = [one_line(cell).replace("|", r"\|") for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def marked(text: str, *, results: SessionResults) -> str:
    """Return a heading or a row's name, marked in a self-test, so that a copied line is not taken for a result."""
    return f"{text} ({_INJECTED})" if results.inject_pct else text


def code(text: str) -> str:
    """Return text set as code."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}"


def one_line(text: str) -> str:
    """Return text without line breaks."""
    return " ".join(text.split())
