"""Sequential test of a slowdown from independent runs, repeated after every launch.

Pure and without units: all values are natural logarithms of costs, so a ratio is a difference. docs/verdicts.md has
the assumptions, the error rates and the reasons for this method.

The test decides between two losses. The tolerance is the smallest loss that matters; the harmless loss is half of it,
or less (down to zero) if the noise is too large to separate the two. Each launch gives an estimate of the loss and
its standard error. A case is the same once a loss as large as the tolerance is ruled out, and worse once a harmless
one is. The standard error comes from the scatter of the baseline's runs, shrunk towards the prior of the class of
machines, and never from this session's runs: a slower launch can only make a verdict worse, never less certain.

References:
    Pocock 1977, Group sequential methods (the same bound at every look), https://doi.org/10.1093/biomet/64.2.191
    Smyth 2004, Linear models and empirical Bayes methods (the shrunk variance), https://doi.org/10.2202/1544-6115.1027
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from typing import Final

from pytest_nemoperf.records.metrics import Direction, Metric
from pytest_nemoperf.verdict.defaults import DEFAULT_ALPHA, DEFAULT_BETA, DEFAULT_MAX_RUNS

_PRIOR_DOF: Final = 8.0
"""Degrees of freedom of a system class's prior: the weight of nine baseline runs."""
HARMLESS_SHARE: Final = 0.5
"""Part of the tolerance that is called harmless if the noise is small enough."""
MAX_BASELINE_RUNS: Final = 100
_INTERVAL = 0.95
_MIN_RUNS_FOR_WORSE = 2
STALL_SHARE: Final = 0.5  # of the tolerance: the slowest launch counts as worse than the next by no more than this
_MIN_RATIOS_TO_SEE_STALLS = 5
_LOOKS_EXPONENT = 0.6
_LAST_LOOK_DIVISOR = 2.0


class Decision(StrEnum):
    """Decision of the test after the runs so far."""

    SAME = "same"
    WORSE = "worse"
    BETTER = "better"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialRule:
    """Noise, error rates and number of looks of one sequential test.

    Attributes:
        noise_pct: Expected scatter between runs (standard deviation, percent): the prior of the system class.
        alpha: Probability to call a harmless case worse.
        beta: Probability to pass a loss as large as the tolerance.
        max_runs: Launches after which no more are made.
    """

    noise_pct: float
    alpha: float = DEFAULT_ALPHA
    beta: float = DEFAULT_BETA
    max_runs: int = DEFAULT_MAX_RUNS


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialResult:
    """Result of the sequential test, with its uncertainty.

    Attributes:
        decision: Decision after the runs so far.
        worsening: Loss as a difference of logarithms, positive for worse.
        low: Lower end of its 95% interval.
        high: Upper end.
        noise_pct: Scatter between runs that the test used, percent: measured and prior together.
        seen_noise_pct: Scatter of the runs alone, percent; None if they are too few.
        harmless: Largest loss that is called harmless, as a difference of logarithms.
        resolution_pct: Smallest loss that is found when present, and ruled out when absent, at the rule's error rates
            within its launches, percent.
        is_below_noise_floor: The tolerance is too small for the noise: even at the last launch a loss as large as the
            tolerance would be found less than half of the time, so nothing is passed.
        is_ruled_out: A loss as large as the tolerance is ruled out at this look.
    """

    decision: Decision
    worsening: float
    low: float
    high: float
    noise_pct: float
    seen_noise_pct: float | None
    harmless: float
    resolution_pct: float
    is_below_noise_floor: bool
    is_ruled_out: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Noise:
    """Scatter of a run: measured, and shrunk towards the prior, weighed by degrees of freedom."""

    seen: float | None
    shrunk: float
    dof: float


def cost(value: float, *, metric: Metric) -> float:
    """Return the cost of a metric's value: its logarithm, signed so that greater is worse."""
    if metric.direction is Direction.HIGHER:
        return -math.log(value)
    return math.log(value)


def cost_of_loss(percent: float, *, metric: Metric) -> float:
    """Return the cost that a loss in percent of the metric adds; the percentage is below 100."""
    if metric.direction is Direction.HIGHER:
        return -math.log1p(-percent / 100.0)
    return math.log1p(percent / 100.0)


def loss_of_cost(difference: float, *, metric: Metric) -> float:
    """Return the loss in percent of the metric for a difference of costs; the inverse of cost_of_loss."""
    if metric.direction is Direction.HIGHER:
        return -100.0 * math.expm1(-difference)
    return 100.0 * math.expm1(min(difference, 700.0))  # a double overflows beyond


def winsorized_mean(values: Sequence[float], *, tolerance: float) -> float:
    """Return the mean cost of runs, a single stalled launch winsorized: brought near the next slowest."""
    return statistics.fmean(_winsorize(values, tolerance=tolerance))


def resolution(
    baseline_costs: Sequence[float],
    *,
    rule: SequentialRule,
    num_runs: int | None = None,
    tolerance: float = math.inf,
) -> float:
    """Return the smallest difference of costs that a case resolves at the rule's error rates and launches.

    Args:
        baseline_costs: Costs of the baseline's runs, for their scatter.
        rule: The sequential rule.
        num_runs: Baseline runs to assume; None for as many as there are.
        tolerance: Limits a single stalled launch, see winsorized_mean.
    """
    if num_runs is None:
        num_runs = max(len(baseline_costs), 1)
    return sum(_final_bounds_for(num_runs, baseline_costs=baseline_costs, tolerance=tolerance, rule=rule))


def runs_needed(
    baseline_costs: Sequence[float], *, tolerance: float, rule: SequentialRule
) -> tuple[int | None, int | None]:
    """Return the numbers of baseline runs that allow a verdict at all, and that resolve the tolerance.

    None stands for more than MAX_BASELINE_RUNS.
    """
    enough = None
    for num_runs in range(max(len(baseline_costs), 1), MAX_BASELINE_RUNS + 1):
        found, ruled_out = _final_bounds_for(num_runs, baseline_costs=baseline_costs, tolerance=tolerance, rule=rule)
        if enough is None and found <= tolerance:
            enough = num_runs
        if found + ruled_out <= tolerance:
            return enough, num_runs
    return enough, None


def decide(
    baseline_costs: Sequence[float], run_costs: Sequence[float], *, tolerance: float, rule: SequentialRule
) -> SequentialResult:
    """Test this session's runs against the baseline's.

    A slower run in this session never turns the decision towards better: see docs/verdicts.md.

    Args:
        baseline_costs: Costs of the baseline's runs, at least one.
        run_costs: Costs of this session's runs, at least one.
        tolerance: Smallest loss that matters, as a cost.
        rule: The sequential rule.
    """
    winsorized = _winsorize(baseline_costs, tolerance=tolerance)
    mean = statistics.fmean(winsorized)
    losses = [value - mean for value in run_costs]
    return _decide(
        losses,
        winsorized=_winsorize(losses, tolerance=tolerance),
        noise=_noise_of(winsorized, rule=rule),
        share_of_baseline=1.0 / len(baseline_costs),
        tolerance=tolerance,
        rule=rule,
    )


def decide_ratio(ratios: Sequence[float], *, tolerance: float, rule: SequentialRule) -> SequentialResult:
    """Test independent ratios of two sides, as logarithms, positive for worse.

    Without a baseline the scatter is that of the ratios themselves. A stall of one side makes a ratio too large, one
    of the other side makes it too small, so the furthest at either end is brought near the next.
    """
    winsorized = list(ratios)
    if len(ratios) >= _MIN_RATIOS_TO_SEE_STALLS:
        winsorized = [-ratio for ratio in _winsorize(winsorized, tolerance=tolerance)]
        winsorized = [-ratio for ratio in _winsorize(winsorized, tolerance=tolerance)]
    return _decide(
        ratios,
        winsorized=winsorized,
        noise=_noise_of(winsorized, rule=rule),
        share_of_baseline=0.0,
        tolerance=tolerance,
        rule=rule,
    )


def _decide(
    losses: Sequence[float],
    *,
    winsorized: Sequence[float],
    noise: _Noise,
    share_of_baseline: float,
    tolerance: float,
    rule: SequentialRule,
) -> SequentialResult:
    """Decide at this look.

    Args:
        losses: Differences from the baseline's mean, by run.
        winsorized: The same without stalls.
        noise: Scatter of a run.
        share_of_baseline: Variance of the baseline's mean, as a share of a run's.
        tolerance: Smallest loss that matters, as a cost.
        rule: The sequential rule.
    """
    worsening = statistics.fmean(winsorized)
    error = noise.shrunk * math.sqrt(share_of_baseline + 1.0 / len(losses))
    num_runs = max(rule.max_runs, len(losses))
    final = _final_bounds(noise, share_of_baseline=share_of_baseline, num_runs=num_runs, rule=rule)
    harmless = max(0.0, min(HARMLESS_SHARE * tolerance, tolerance - sum(final)))
    is_below_noise_floor = final[0] > tolerance
    is_last = len(losses) >= rule.max_runs
    found, ruled_out = _bounds_in_errors(noise.dof, rule=rule, is_last=is_last)
    is_beyond = abs(worsening) - harmless > found * error
    is_small = abs(worsening) <= HARMLESS_SHARE * tolerance
    is_ruled_out = tolerance - worsening > ruled_out * error
    decision = Decision.UNDECIDED
    if is_beyond and _is_confirmed(losses, sign=math.copysign(1.0, worsening), tolerance=tolerance, rule=rule):
        decision = Decision.WORSE if worsening > 0 else Decision.BETTER
    elif is_ruled_out and not is_below_noise_floor and (is_small or is_last):
        decision = Decision.SAME
    seen_noise_pct = None
    if noise.seen is not None:
        seen_noise_pct = 100.0 * noise.seen
    reach = _quantile((1.0 + _INTERVAL) / 2.0, dof=noise.dof) * error
    return SequentialResult(
        decision=decision,
        worsening=worsening,
        low=worsening - reach,
        high=worsening + reach,
        noise_pct=100.0 * noise.shrunk,
        seen_noise_pct=seen_noise_pct,
        harmless=harmless,
        resolution_pct=100.0 * sum(final),
        is_below_noise_floor=is_below_noise_floor,
        is_ruled_out=is_ruled_out,
    )


def _is_confirmed(losses: Sequence[float], *, sign: float, tolerance: float, rule: SequentialRule) -> bool:
    """Return whether a second launch agrees: a single one may have been slow for a reason other than noise."""
    needed = min(_MIN_RUNS_FOR_WORSE, rule.max_runs)
    agreeing = [loss for loss in losses if sign * loss > HARMLESS_SHARE * tolerance]
    return len(agreeing) >= needed


def _winsorize(values: Sequence[float], *, tolerance: float) -> list[float]:
    """Return the costs, sorted, the slowest brought near the second slowest, as one stalled launch is no noise."""
    ordered = sorted(values)
    if len(ordered) > 1:
        ordered[-1] = min(ordered[-1], ordered[-2] + STALL_SHARE * tolerance)
    return ordered


def _noise_of(values: Sequence[float], *, rule: SequentialRule) -> _Noise:
    """Return the scatter of the values, shrunk towards the rule's."""
    prior = _PRIOR_DOF * (rule.noise_pct / 100.0) ** 2
    dof = len(values) - 1
    if dof < 1:
        return _Noise(seen=None, shrunk=math.sqrt(prior / _PRIOR_DOF), dof=_PRIOR_DOF)
    mean = statistics.fmean(values)
    squares = math.fsum((value - mean) ** 2 for value in values)
    return _Noise(
        seen=math.sqrt(squares / dof),
        shrunk=math.sqrt((prior + squares) / (_PRIOR_DOF + dof)),
        dof=_PRIOR_DOF + dof,
    )


def _final_bounds_for(
    num_runs: int, *, baseline_costs: Sequence[float], tolerance: float, rule: SequentialRule
) -> tuple[float, float]:
    """Return _final_bounds beside num_runs baseline runs, further ones scattering as the given (else as the prior)."""
    noise = _noise_of(_winsorize(baseline_costs, tolerance=tolerance), rule=rule)
    prior = rule.noise_pct / 100.0
    seen = prior if noise.seen is None else noise.seen
    dof = num_runs - 1
    shrunk = math.sqrt((_PRIOR_DOF * prior**2 + dof * seen**2) / (_PRIOR_DOF + dof))
    grown = replace(noise, shrunk=shrunk, dof=_PRIOR_DOF + dof)
    return _final_bounds(grown, share_of_baseline=1.0 / num_runs, num_runs=rule.max_runs, rule=rule)


def _final_bounds(
    noise: _Noise, *, share_of_baseline: float, num_runs: int, rule: SequentialRule
) -> tuple[float, float]:
    """Return the bounds at the last launch: the loss found half of the time, and the margin to rule one out."""
    error = noise.shrunk * math.sqrt(share_of_baseline + 1.0 / num_runs)
    found, ruled_out = _bounds_in_errors(noise.dof, rule=rule, is_last=True)
    return found * error, ruled_out * error


def _bounds_in_errors(dof: float, *, rule: SequentialRule, is_last: bool) -> tuple[float, float]:
    """Return the bounds of a look in standard errors: to find a loss, and to rule one out.

    Each look after a launch may decide by chance. The level of each look is the rule's divided by
    max_runs**0.6, near Pocock's constants (1.7, 2.5, 3.3, 5.4 and 7.3 for 2, 3, 5, 10 and 20 looks) less the
    correlation of the looks through their common baseline. After the last look there is no further try, so it spends
    half of the level. benchmarks/verdicts measures the resulting rates.
    """
    divisor = rule.max_runs**_LOOKS_EXPONENT
    if is_last:
        divisor = min(divisor, _LAST_LOOK_DIVISOR)
    return _quantile(1.0 - rule.alpha / divisor, dof=dof), _quantile(1.0 - rule.beta / divisor, dof=dof)


@cache
def _quantile(probability: float, *, dof: float) -> float:
    from scipy.special import stdtrit  # noqa: PLC0415 (a tenth of a second that only a verdict needs)

    return float(stdtrit(dof, probability))
