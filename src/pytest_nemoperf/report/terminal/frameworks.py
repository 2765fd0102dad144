"""Frameworks side by side, at the end of a session: one table a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from pytest_nemoperf.report.by_framework import CAUTION, figure_cells, sentences
from pytest_nemoperf.report.console import QUIET, align, indented, section, styled
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
    for comparison in comparisons:
        yield ""
        yield comparison.recipe
        yield from map(indented, _table(comparison, width=width))
        yield from map(indented, sentences(comparison))


def _table(comparison: FrameworkComparison, *, width: int) -> Iterator[RenderableType]:
    """Yield one line a framework; if that is too wide, its name above its figures."""
    columns = [metric.column or metric.label for metric in COMPARED]
    headings = [*columns, f"/ {comparison.reference}", "loss diff", "spread"]
    figures = list(map(figure_cells, comparison.rows))
    wide = [["framework", *headings]]
    for row, cells in zip(comparison.rows, figures, strict=True):
        wide.append([row.framework, *cells])
    head, *lines = align(wide, num_left=1)
    if len(head) + _INDENT <= width:
        yield styled((head, QUIET))
        yield from lines
        return
    head, *lines = align([headings, *figures], num_left=0)
    yield indented(styled((head, QUIET)))
    for row, line in zip(comparison.rows, lines, strict=True):
        yield row.framework
        yield indented(line)
