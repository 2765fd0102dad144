"""Tables of judged metrics and of noise between runs, with as many columns as fit; words are never broken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.records.metrics import METRICS, TOKENS_PER_SEC_PER_GPU, Metric, format_number
from pytest_nemoperf.report.cells import allowed_text, comparison_word, metric_text, shorten_middle, signed_percent
from pytest_nemoperf.report.console import (
    add_figures,
    column_widths,
    figures_table,
    indented,
    section,
    style_of,
    styled,
)
from pytest_nemoperf.report.resolution import NOISE_HEADINGS, noise_cells, short_interval_text
from pytest_nemoperf.verdict.comparison import Comparison
from pytest_nemoperf.verdict.repeated_metrics import distinct_comparisons

if TYPE_CHECKING:
    from rich.console import RenderableType

_HEADINGS = ("now", "delta", "95% interval", "allowed")
_MAX_ANCHOR = 20
_INDENT = 2
_GAP = 2


def comparison_parts(comparisons: Sequence[Comparison], *, width: int) -> Iterator[RenderableType]:
    """Yield a table with a row for each metric that does not repeat another.

    Too wide a table goes without what is allowed, which resolution_parts show too; then without the names of metrics
    beside their anchors, which stand below them, and at last without intervals.
    """
    shown = distinct_comparisons(comparisons)
    heading = "published" if any(each.published for each in comparisons) else "baseline"
    for num_left_out, is_below in ((0, False), (1, False), (1, True), (2, True)):
        rows = [["metric", heading, *_HEADINGS[: len(_HEADINGS) - num_left_out], "verdict"]]
        ordered = _with_anchors_below(shown) if is_below else shown
        for each in ordered:
            figures = _figures(each)
            label = _label(each, is_below=is_below)
            rows.append([label, *figures[: len(figures) - num_left_out], comparison_word(each)])
        if _fits(rows, width=width):
            break
    table = figures_table(rows[0][:-1])
    table.add_column("verdict")
    for row, each in zip(rows[1:], ordered, strict=True):
        add_figures(table, *row[:-1], _verdict_cell(each))
    yield indented(table)


def resolution_parts(comparisons: Sequence[Comparison], *, width: int) -> Iterator[RenderableType]:
    """Yield a table of noise and of the losses that are allowed and found by it; nothing if it is unknown."""
    judged = [each for each in distinct_comparisons(comparisons) if each.finds_pct is not None]
    if not judged:
        return
    runs = count_text(judged[0].num_baseline_runs, "baseline run")
    sessions = count_text(judged[0].num_baseline_sessions, "session")
    evidence = f"{runs}, {sessions}"
    if judged[0].published:
        evidence = "one published value"
    yield section(f"noise, and what it lets this case find ({evidence})")
    rows = [list(NOISE_HEADINGS), *map(noise_cells, judged)]
    if not _fits(rows, width=width):
        rows = [list(NOISE_HEADINGS)]
        for each in _with_anchors_below(judged):
            rows.append([_label(each, is_below=True), *noise_cells(each)[1:]])
    table = figures_table(rows[0])
    for row in rows[1:]:
        add_figures(table, *row)
    yield indented(table)


def _with_anchors_below(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons metric by metric, each with the newest baseline before that with an anchor."""
    by_metric: dict[str, list[Comparison]] = {}
    for each in comparisons:
        by_metric.setdefault(each.metric, []).append(each)
    return [each for own in by_metric.values() for each in own]


def _label(comparison: Comparison, *, is_below: bool) -> str:
    if is_below and comparison.anchor:
        return shorten_middle(f"  anchor {comparison.anchor}", width=_MAX_ANCHOR)
    return metric_text(comparison)


def _figures(comparison: Comparison) -> list[str]:
    metric = METRICS[comparison.metric]
    return [
        _value_text(comparison.baseline, metric=metric),
        _value_text(comparison.now, metric=metric),
        signed_percent(comparison.delta_pct),
        short_interval_text(comparison),
        allowed_text(comparison),
    ]


def _value_text(value: float, *, metric: Metric) -> str:
    """Return a value with its unit; rates of phases without it, which the row of tokens/sec/GPU names."""
    if metric.phases and metric.unit == TOKENS_PER_SEC_PER_GPU.unit:
        return format_number(value, digits=metric.digits)
    return metric.format(value)


def _verdict_cell(comparison: Comparison) -> RenderableType:
    return styled((comparison_word(comparison), style_of(comparison.kind)))


def _fits(rows: Sequence[Sequence[str]], *, width: int) -> bool:
    widths = column_widths(rows)
    return _INDENT + sum(widths) + _GAP * len(widths) <= width
