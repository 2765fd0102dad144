"""Frameworks side by side on a page: one table a recipe."""

from __future__ import annotations

from typing import Final

from pytest_nemoperf.records.metrics import TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.report.by_framework import CAUTION, figure_cells, sentences
from pytest_nemoperf.report.escape import markdown_cell, markdown_text
from pytest_nemoperf.report.tables import INJECTED, marked, page_number, ready_table
from pytest_nemoperf.results.cases import SessionResults
from pytest_nemoperf.results.framework_figures import COMPARED, FrameworkComparison

_RANGE: Final = f"{TOKENS_PER_SEC_PER_GPU.heading}, min .. max"


def framework_sections(results: SessionResults) -> list[str]:
    """Return the section of frameworks side by side; empty if no recipe ran in several."""
    if not results.by_framework:
        return []
    mark = INJECTED if results.inject_pct else ""
    lines = ["## Side by side", "", CAUTION, ""]
    for comparison in results.by_framework:
        title = f"System: {results.system_title}. {comparison.recipe}"
        lines += [f"#### {markdown_text(marked(title, mark=mark))}", ""]
        lines += [*_table(comparison), ""]
        notes = [f"- {markdown_text(sentence)}" for sentence in sentences(comparison)]
        if notes:
            lines += [*notes, ""]
    return lines


def _table(comparison: FrameworkComparison) -> list[str]:
    columns = [metric.heading for metric in COMPARED]
    beside = comparison.reference
    headings = ["Framework", *columns, f"Ratio to {beside}", f"Loss beside {beside}", "Spread", _RANGE, "Launches"]
    rows = []
    for row in comparison.rows:
        rates = row.metrics.get(TOKENS_PER_SEC_PER_GPU.name)
        spanned = "-" if rates is None else f"{page_number(rates.low)} .. {page_number(rates.high)}"
        figures = [cell.replace(",", "") for cell in figure_cells(row)]
        rows.append([row.framework, *figures, spanned, str(row.num_runs)])
    escaped = [list(map(markdown_cell, row)) for row in (headings, *rows)]
    return ready_table(escaped[0], rows=escaped[1:])
