"""Frameworks side by side, at the end of a session: one table a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_nemoperf.report.by_framework import CAUTION, figure_cells, sentences
from pytest_nemoperf.report.console import QUIET, align, figures_table, indented, section, styled
from pytest_nemoperf.results.framework_figures import COMPARED, FrameworkComparison

if TYPE_CHECKING:
    from rich.console import RenderableType


def framework_parts(comparisons: Sequence[FrameworkComparison], *, width: int) -> Iterator[RenderableType]:
    """Yield the table of each recipe below its name, and sentences on its figures.

    Args:
        comparisons: Recipes that several frameworks ran.
        width: Columns; a table that is wider is folded.
    """
    if not comparisons:
        return
    columns = [metric.column or metric.label for metric in COMPARED]
    yield section("frameworks side by side")
    yield indented(CAUTION)
    for comparison in comparisons:
        yield ""
        yield comparison.recipe
        rows = [["framework", *columns, f"/ {comparison.reference}", "loss diff", "spread"]]
        for row in comparison.rows:
            rows.append([row.framework, *figure_cells(row)])
        head, *lines = align(rows, num_left=1)
        if len(head) + 2 <= width:
            yield indented(styled((head, QUIET)))
            yield from map(indented, lines)
        else:
            table = figures_table(rows[0])
            for texts in rows[1:]:
                table.add_row(*texts)
            yield indented(table)
        yield from map(indented, sentences(comparison))
