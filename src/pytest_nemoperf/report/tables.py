"""Cells and tables of Markdown pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.metrics import Metric, format_number
from pytest_nemoperf.report.cells import case_value
from pytest_nemoperf.report.escape import markdown_cell
from pytest_nemoperf.results.cases import CaseResult, SessionResults

NOT_APPLICABLE: Final = "n/a"
_INJECTED = "INJECTED DELAY, NOT A RESULT"

Planned = tuple[Plan, CaseResult]
"""A case with its plan."""


def plan_cells(plan: Plan, *, columns: Mapping[str, Callable[[Plan], object]]) -> dict[str, str]:
    """Return a plan's cells by heading."""
    return {heading: str(value_of(plan)) for heading, value_of in columns.items()}


def figure_cell(case: CaseResult, *, metric: Metric) -> str:
    """Return a case's value of a metric, ``n/a`` if it has none."""
    return page_number(case_value(case, metric=metric.name))


def figure_cells(case: CaseResult, *, metrics: Iterable[Metric]) -> dict[str, str]:
    """Return a case's values by the metrics' headings."""
    return {metric.heading: figure_cell(case, metric=metric) for metric in metrics}


def model_cells(
    rows: Sequence[Planned], *, columns: Mapping[str, Callable[[Plan], object]], results: SessionResults
) -> list[str]:
    """Return the first cell of each row: the model, with the case id if several rows have the same plan cells.

    Args:
        rows: Cases of one table.
        columns: Its columns of plan cells.
        results: The session.
    """
    keys = []
    for plan, _ in rows:
        keys.append((plan.model.name, *plan_cells(plan, columns=columns).values()))
    counts = Counter(keys)
    names = []
    for key, (plan, case) in zip(keys, rows, strict=True):
        name = plan.model.name
        if counts[key] > 1:
            name = f"{name} ({case.verdict.case})"
        names.append(marked(name, results=results))
    return names


def titled_table(title: str, *, rows: Sequence[Mapping[str, str]], results: SessionResults) -> list[str]:
    """Return a table below its title, rows given by heading, and an empty line."""
    cells = [list(row.values()) for row in rows]
    return [f"#### {marked(title, results=results)}", "", *table_lines(list(rows[0]), rows=cells), ""]


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
