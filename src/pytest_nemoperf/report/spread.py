"""How far apart runs, steps and ranks were: whether a difference can be trusted."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pytest_nemoperf.measure import Run
from pytest_nemoperf.metrics import STEP_TIME_SEC, TIME_PER_CALL_SEC

_MIN_RUNS = 2


def compare_spread(now: Sequence[Run], *, baseline: Sequence[Run]) -> list[tuple[str, float | None, float | None]]:
    """Return (what, baseline, now) in percent for each spread one of the two sides knows."""
    rows = [
        ("between runs, (max - min) / median", _between_runs_pct(baseline), _between_runs_pct(now)),
        ("between steps, median abs. deviation", _between_steps_pct(baseline), _between_steps_pct(now)),
        ("between ranks, (slowest - fastest) / slowest", _between_ranks_pct(baseline), _between_ranks_pct(now)),
    ]
    return [row for row in rows if row[1] is not None or row[2] is not None]


def unusual_steps(now: Sequence[Run], *, baseline: Sequence[Run]) -> list[tuple[str, int, int]]:
    """Return (what, baseline, now) in steps, summed over the runs, for what was seen on either side."""
    warming, outliers = (
        [sum(getattr(run, name) for run in runs) for runs in (baseline, now)]
        for name in ("num_warmup_dropped", "num_outliers")
    )
    rows = [
        ("dropped, still warming up", warming[0], warming[1]),
        ("far slower than the rest, kept", outliers[0], outliers[1]),
    ]
    return [row for row in rows if row[1] or row[2]]


def _between_runs_pct(runs: Sequence[Run]) -> float | None:
    for metric in (STEP_TIME_SEC, TIME_PER_CALL_SEC):
        values = [run.metrics[metric.name] for run in runs if metric.name in run.metrics]
        if len(values) >= _MIN_RUNS:
            return 100.0 * (max(values) - min(values)) / statistics.median(values)
    return None


def _between_steps_pct(runs: Sequence[Run]) -> float | None:
    return statistics.median(run.step_time_mad_pct for run in runs) if runs else None


def _between_ranks_pct(runs: Sequence[Run]) -> float | None:
    spreads = [run.rank_spread_pct for run in runs if run.rank_spread_pct is not None]
    return statistics.median(spreads) if spreads else None
