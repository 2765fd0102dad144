"""Figures of the rows of one line beside each other: the best, and ratios to the first with their intervals. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_nemoperf.records.metrics import METRICS, Direction
from pytest_nemoperf.results.row import Row
from pytest_nemoperf.results.row_ratio import FLOPS_METRICS, Ratio, counts_flops_alike, row_ratio
from pytest_nemoperf.results.side_by_side import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A row's value of a metric beside those of the other rows.

    Attributes:
        value: As judged, or the figure over the runs.
        num_runs: Runs that have the metric.
        spread_pct: (max - min) / median over the runs, percent; None for a single one.
        is_best: No other row of the line is better.
        ratio: Ratio to the first source; None for the first one itself, or without a ratio.
    """

    value: float
    num_runs: int
    spread_pct: float | None
    is_best: bool
    ratio: Ratio | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFigures:
    """Figures of a line in one metric.

    Attributes:
        line: The line.
        metric: Name of the metric.
        figures: Figure of each source; None for one without.
        is_comparable: The figures may be divided by each other: FLOPs are counted alike.
    """

    line: Line
    metric: str
    figures: tuple[Figure | None, ...]
    is_comparable: bool = True


def line_figures(line: Line, *, metric: str) -> LineFigures:
    """Return the figures of a line in a metric."""
    known = [row for row in line.rows if row is not None and row.value(metric) is not None]
    is_comparable = metric not in FLOPS_METRICS or _are_alike(known)
    best = _best(known, metric=metric) if is_comparable else None
    first = line.rows[0]
    figures: list[Figure | None] = []
    for row in line.rows:
        value = None if row is None else row.value(metric)
        if row is None or value is None:
            figures.append(None)
            continue
        ratio = None
        if first is not None and row is not first:
            ratio = row_ratio(row, then=first, metric=metric)
        figures.append(
            Figure(
                value=value,
                num_runs=max(len(row.values.get(metric, ())), 1),
                spread_pct=row.spread_pct(metric),
                is_best=value == best,
                ratio=ratio,
            )
        )
    return LineFigures(line=line, metric=metric, figures=tuple(figures), is_comparable=is_comparable)


def _are_alike(rows: Sequence[Row]) -> bool:
    return all(counts_flops_alike(rows[0], row) for row in rows[1:])


def _best(rows: Sequence[Row], *, metric: str) -> float | None:
    """Return the best value of several that are not all equal; None if there is none, or no direction is better."""
    direction = METRICS[metric].direction
    values = set()
    for row in rows:
        value = row.value(metric)
        if value is not None and math.isfinite(value):
            values.add(value)
    if len(values) <= 1 or direction is Direction.NEITHER:
        return None
    return max(values) if direction is Direction.HIGHER else min(values)
