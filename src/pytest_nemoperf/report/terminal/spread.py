"""Spread of runs, steps and ranks on both sides of a comparison."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from operator import attrgetter

from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.records.metrics import STEP_TIME_SEC, TIME_PER_CALL_SEC

_MIN_RUNS = 2


def compare_spread(now: Sequence[Run], *, baseline: Sequence[Run]) -> list[tuple[str, str, str]]:
    """Return (name, baseline, now) in percent for each spread that is known of one of the sides."""
    spreads = (
        ("between runs, (max - min) / median", _between_runs_pct),
        ("between steps, median abs. deviation", _between_steps_pct),
        ("between ranks, (slowest - fastest) / slowest", _between_ranks_pct),
    )
    rows = []
    for name, spread_of in spreads:
        then_pct = spread_of(baseline)
        now_pct = spread_of(now)
        if then_pct is not None or now_pct is not None:
            rows.append((name, _percent(then_pct), _percent(now_pct)))
    return rows


def unusual_steps(now: Sequence[Run], *, baseline: Sequence[Run]) -> list[tuple[str, int, int]]:
    """Return (name, baseline, now): numbers of dropped and of slow steps, summed over the runs, if there are any."""
    rows = []
    for name, number_of in (
        ("dropped, still warming up", attrgetter("num_warmup_dropped")),
        ("far slower than the rest, kept", attrgetter("num_outliers")),
    ):
        num_then = sum(map(number_of, baseline))
        num_now = sum(map(number_of, now))
        if num_then or num_now:
            rows.append((name, num_then, num_now))
    return rows


def _percent(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:.1f}%"


def _between_runs_pct(runs: Sequence[Run]) -> float | None:
    for metric in (STEP_TIME_SEC, TIME_PER_CALL_SEC):
        values = []
        for run in runs:
            if metric.name in run.metrics:
                values.append(run.metrics[metric.name])
        if len(values) >= _MIN_RUNS:
            return 100.0 * (max(values) - min(values)) / statistics.median(values)
    return None


def _between_steps_pct(runs: Sequence[Run]) -> float | None:
    if not runs:
        return None
    return statistics.median(run.step_time_mad_pct for run in runs)


def _between_ranks_pct(runs: Sequence[Run]) -> float | None:
    spreads = [run.rank_spread_pct for run in runs if run.rank_spread_pct is not None]
    return statistics.median(spreads) if spreads else None
