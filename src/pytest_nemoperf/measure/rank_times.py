"""Comparison of a run's ranks: medians over its steps."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pytest_nemoperf.records.step import StepRecord


def rank_spread_pct(measured: Sequence[StepRecord]) -> float | None:
    """Return (slowest - fastest rank) / slowest of the wall times, percent; None for one rank."""
    spreads = []
    for record in measured:
        times = record.rank_times_sec
        if len(times) > 1 and max(times) > 0:
            spread = 100.0 * (max(times) - min(times)) / max(times)
            spreads.append(spread)
    return statistics.median(spreads) if spreads else None


def rank_busy_sec(measured: Sequence[StepRecord]) -> tuple[float, ...]:
    """Return the median busy time of each rank in a step, by rank; empty unless every step has the same ranks."""
    steps = [record.rank_busy_sec for record in measured]
    if len(set(map(len, steps))) != 1:
        return ()
    return tuple(map(statistics.median, zip(*steps, strict=True)))
