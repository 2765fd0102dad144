"""Frameworks side by side, at the end of a session: one table a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from pytest_nemoperf.report.by_framework import CAUTION, figure_cells, sentences
from pytest_nemoperf.report.case_names import short_names
from pytest_nemoperf.report.console import QUIET, indented, section, styled
from pytest_nemoperf.report.terminal.case_columns import FIGURE_HEADINGS, FIGURE_RANKS
from pytest_nemoperf.report.terminal.case_table import CaseColumn, case_table
from pytest_nemoperf.results.framework_figures import COMPARED, FrameworkComparison

if TYPE_CHECKING:
    from rich.console import RenderableType

_INDENT: Final = 2


def framework_parts(comparisons: Sequence[FrameworkComparison], *, width: int) -> Iterator[RenderableType]:
    """Yield the table of each recipe below its name, and sentences on its figures.

    Args:
        comparisons: Recipes that several frameworks ran.
        width: Columns.
    """
    if not comparisons:
        return
    yield section("frameworks side by side")
    yield indented(CAUTION)
    names = short_names((comparison.recipe, "") for comparison in comparisons)
    for comparison in comparisons:
        yield ""
        yield names[comparison.recipe]
        yield from map(indented, _table(comparison, width=width))
        yield from map(indented, sentences(comparison))


def _table(comparison: FrameworkComparison, *, width: int) -> Iterator[RenderableType]:
    """Yield one line a framework."""
    cells = list(zip(*map(figure_cells, comparison.rows), strict=True))
    columns = []
    for metric, own in zip(COMPARED, cells, strict=False):
        heading = FIGURE_HEADINGS[metric.name]
        columns.append(CaseColumn(heading=heading, cells=own, rank=FIGURE_RANKS.get(metric.name, 0)))
    ratio, loss, spread = cells[len(COMPARED) :]
    columns.append(CaseColumn(heading=("", f"/ {comparison.reference}"), cells=ratio))
    columns.append(CaseColumn(heading=("loss", "diff"), cells=loss, rank=1))
    columns.append(CaseColumn(heading=("", "spread"), cells=spread, rank=3))
    names = {row.framework: row.framework for row in comparison.rows}
    table = case_table(list(names), names=names, columns=columns, width=width - _INDENT, title="framework")
    yield from [styled((line, QUIET)) for line in table.head]
    yield from table.rows
