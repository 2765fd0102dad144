"""The figure of a case over its runs: one definition for verdicts, tables, pages and files. Pure.

docs/metrics.md has the definition and its reason.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Final

from pytest_nemoperf.measure.measurement import Run, round_significant
from pytest_nemoperf.records.metrics import METRICS, STEP_TIME_SEC, Direction, Metric

_STALL_LIMIT: Final = math.log(1.05)
"""Most by which the slowest run counts as slower than the next one, as a cost."""


def cost(value: float, *, metric: Metric) -> float:
    """Return the cost of a metric's value: its logarithm, signed so that greater is worse."""
    if metric.direction is Direction.HIGHER:
        return -math.log(value)
    return math.log(value)


def winsorized(costs: Sequence[float], *, stall_limit: float) -> list[float]:
    """Return the costs in their order, the slowest brought near the second slowest: one stalled launch is no noise.

    Args:
        costs: Costs of runs.
        stall_limit: Most by which the slowest counts as worse than the next.
    """
    limited = list(costs)
    if len(limited) > 1:
        *_, second, worst = sorted(limited)
        limited[limited.index(worst)] = min(worst, second + stall_limit)
    return limited


def changed_by(value: float, *, worsening: float, metric: Metric) -> float:
    """Return a metric's value after a difference of costs."""
    return value * math.exp(-worsening if metric.direction is Direction.HIGHER else worsening)


def figure_of(values: Sequence[float], *, metric: Metric) -> float | None:
    """Return a metric's figure over the values of its runs; None without values.

    It is their geometric mean, the slowest run counted as at most 5% slower than the next, with the six digits
    that a run has. Of a metric that has no
    better direction, and of one that may be zero or negative and is in some run, it is the median.

    Args:
        values: One a run.
        metric: The metric.
    """
    if not values:
        return None
    middle = statistics.median(values)
    if metric.direction is Direction.NEITHER or not _all_positive(values):
        return middle
    costs = [cost(value, metric=metric) - cost(middle, metric=metric) for value in values]  # exactly 0 of equal values
    mean = statistics.fmean(winsorized(costs, stall_limit=_STALL_LIMIT))
    return round_significant(changed_by(middle, worsening=mean, metric=metric)) if mean else middle


def figure_over_runs(runs: Sequence[Run], *, metric: str) -> float | None:
    """Return a metric's figure over the runs that have it; None if none has, see figure_of."""
    values = [run.metrics[metric] for run in runs if metric in run.metrics]
    return figure_of(values, metric=METRICS[metric])


def phases_over_runs(runs: Sequence[Run], *, group: str | None = None) -> dict[str, float]:
    """Return seconds of a step by phase over the runs: of the training ranks, or of a group beside them.

    Where phases add up to the step within each run, so do these to the figure of the step: each is the mean over
    the runs, those of a stalled run shortened as its step is, and the mean step is brought to its figure. A missing
    phase took no time.
    """
    weights = _phase_factors(runs)
    names: dict[str, None] = {}
    for run in runs:
        names |= dict.fromkeys(_phases_of(run, group=group))
    means = {}
    for name in names:
        seconds = []
        for run, weight in zip(runs, weights, strict=True):
            seconds.append(weight * _phases_of(run, group=group).get(name, 0.0))
        means[name] = statistics.fmean(seconds)
    return means


def _phases_of(run: Run, *, group: str | None) -> Mapping[str, float]:
    return run.phases if group is None else run.groups.get(group, {})


def _phase_factors(runs: Sequence[Run]) -> list[float]:
    """Return a factor for the phases of each run, with which the runs' step times have the figure as their mean."""
    times = [run.metrics.get(STEP_TIME_SEC.name, 0.0) for run in runs]
    figure = figure_of(times, metric=STEP_TIME_SEC)
    if figure is None or not _all_positive(times):
        return [1.0] * len(runs)
    counted = []
    for each in winsorized([cost(time, metric=STEP_TIME_SEC) for time in times], stall_limit=_STALL_LIMIT):
        counted.append(changed_by(1.0, worsening=each, metric=STEP_TIME_SEC))
    scale = figure / statistics.fmean(counted)
    return [scale * limited / time for time, limited in zip(times, counted, strict=True)]


def _all_positive(values: Sequence[float]) -> bool:
    return all(0.0 < value < math.inf for value in values)
