"""Cells of frameworks side by side, the same in the terminal and on pages."""

from __future__ import annotations

from typing import Final

from pytest_nemoperf.records.metrics import format_number
from pytest_nemoperf.report.cells import percent
from pytest_nemoperf.results.framework_figures import COMPARED, FrameworkComparison, FrameworkFigures

CAUTION: Final = (
    "Figures over the launches; spread is (max - min) / median of tokens/sec/GPU. Frameworks ran one after the other, "
    "not interleaved, so the ratios hold what the machine did meanwhile."
)
_NONE = "-"


def figure_cells(row: FrameworkFigures) -> list[str]:
    """Return the figures of the compared metrics, ratio, loss difference and spread; dashes for those that lack."""
    texts = []
    for metric in COMPARED:
        values = row.metrics.get(metric.name)
        texts.append(_NONE if values is None else format_number(values.figure, digits=metric.digits))
    texts.append(_NONE if row.ratio is None else f"{row.ratio:.3f}")
    texts.append(_NONE if row.loss is None else _loss_text(row.loss.change_pct))
    texts.append(percent(row.spread_pct))
    return texts


def sentences(comparison: FrameworkComparison) -> list[str]:
    """Return the reasons of frameworks without figures, and cautions on the figures of the others."""
    lines = [f"{row.framework}: {row.problem}" for row in comparison.rows if row.problem]
    return [*lines, *comparison.notes]


def _loss_text(change_pct: float) -> str:
    """Return the difference of two losses in percent, two digits: ``+0.0012%``; ``0%`` for none."""
    return f"{change_pct:+.2g}%" if change_pct else "0%"
