"""How the ranks of a run compare: medians over its steps."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pytest_nemoperf.records import StepRecord


def rank_spread_pct(measured: Sequence[StepRecord]) -> float | None:
    """Return (slowest - fastest rank) / slowest of the wall times, percent; None for one rank."""
    spreads = [
        100.0 * (max(record.rank_times_sec) - min(record.rank_times_sec)) / max(record.rank_times_sec)
        for record in measured
        if len(record.rank_times_sec) > 1 and max(record.rank_times_sec) > 0
    ]
    return statistics.median(spreads) if spreads else None


def rank_busy_sec(measured: Sequence[StepRecord]) -> tuple[float, ...]:
    """Return how long each rank worked in a step, by rank; nothing if not every step tells of the same ranks."""
    if len({len(record.rank_busy_sec) for record in measured}) != 1:
        return ()
    return tuple(statistics.median(times) for times in zip(*(record.rank_busy_sec for record in measured), strict=True))
