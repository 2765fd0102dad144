"""Tables of judged metrics and of noise between runs, with as many columns as fit; words are never broken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.records.metrics import METRICS, TOKENS_PER_SEC_PER_GPU, Metric, format_number
from pytest_nemoperf.report.cells import allowed_text, comparison_word, metric_text, signed_percent
from pytest_nemoperf.report.console import (
    QUIET,
    align,
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

_HEADINGS = ("baseline", "now", "delta", "95% interval", "allowed")
_INDENT = 2
_GAP = 2


def comparison_parts(comparisons: Sequence[Comparison], *, width: int) -> Iterator[RenderableType]:
    """Yield a table with a row for each metric that does not repeat another.

    Too wide a table goes without what is allowed, which resolution_parts show too; if it is still too wide, each metric
    stands above its figures.
    """
    shown = distinct_comparisons(comparisons)
    whole = _HEADINGS
    if any(each.published for each in comparisons):
        whole = ("published", *_HEADINGS[1:])
    for headings in (whole, whole[:-1]):
        rows = [["metric", *headings, "verdict"]]
        for each in shown:
            rows.append([metric_text(each), *_figures(each)[: len(headings)], comparison_word(each)])
        if _fits(rows, width=width):
            table = figures_table(rows[0][:-1])
            table.add_column("verdict")
            for row, each in zip(rows[1:], shown, strict=True):
                table.add_row(*row[:-1], _verdict_cell(each))
            yield indented(table)
            return
    head, *lines = align([whole, *map(_figures, shown)], num_left=0)
    yield indented(styled((head, QUIET)), columns=2 * _INDENT)
    for line, each in zip(lines, shown, strict=True):
        yield indented(styled(f"{metric_text(each)}: ", (comparison_word(each), style_of(each.kind))))
        yield indented(line, columns=2 * _INDENT)


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
    if _fits(rows, width=width):
        table = figures_table(rows[0])
        for row in rows[1:]:
            table.add_row(*row)
        yield indented(table)
        return
    head, *lines = align([row[1:] for row in rows], num_left=0)
    yield indented(styled((head, QUIET)), columns=2 * _INDENT)
    for row, line in zip(rows[1:], lines, strict=True):
        yield indented(row[0])
        yield indented(line, columns=2 * _INDENT)


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
