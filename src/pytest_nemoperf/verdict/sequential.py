"""Sequential test of a slowdown from independent runs, repeated after every launch.

Pure and without units: all values are natural logarithms of costs, so a ratio is a difference. docs/verdicts.md has
the assumptions, the error rates and the reasons for this method.

A tolerance is what is allowed. A case is worse once a loss beyond the tolerance is certain, and the same once a loss
that must be found is ruled out and the estimate is allowed. That loss, `finds`, follows from the noise: it is what is
called worse with certainty at the last launch. The standard error has two parts, within and between sessions, both from
the scatter of the baseline's runs, shrunk towards the prior of the class of machines, and never from this session's
runs: a slower launch can only make a verdict worse, never less certain.

References:
    Pocock 1977, Group sequential methods (the same bound at every look), https://doi.org/10.1093/biomet/64.2.191
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Final

from pytest_nemoperf.records.metrics import Direction, Metric
from pytest_nemoperf.verdict.defaults import DEFAULT_ALPHA, DEFAULT_BETA, DEFAULT_MAX_RUNS
from pytest_nemoperf.verdict.noise import Noise, assumed_noise, by_session, noise_of, noise_of_ratios

MAX_BASELINE_RUNS: Final = 100
_INTERVAL = 0.95
MIN_RUNS_FOR_WORSE: Final = 2
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
        noise_pct: Expected scatter between runs of a session (standard deviation, percent): the prior of the class.
        session_noise_pct: Expected scatter between sessions, percent; 0 where both sides are of one session.
        alpha: Probability to call a loss as large as the tolerance worse.
        beta: Probability not to find a loss that must be found.
        max_runs: Launches after which no more are made.
        min_runs: Launches that must agree on a change; one alone may have been slow for a reason other than noise.
    """

    noise_pct: float
    session_noise_pct: float = 0.0
    alpha: float = DEFAULT_ALPHA
    beta: float = DEFAULT_BETA
    max_runs: int = DEFAULT_MAX_RUNS
    min_runs: int = MIN_RUNS_FOR_WORSE


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialResult:
    """Result of the sequential test, with its uncertainty.

    Attributes:
        decision: Decision after the runs so far.
        worsening: Loss as a difference of logarithms, positive for worse.
        low: Lower end of its 95% interval.
        high: Upper end.
        noise_pct: Scatter between runs of a session that the test used, percent: measured and prior together.
        seen_noise_pct: That scatter of the baseline's runs alone, percent; None if they are too few.
        session_noise_pct: Scatter between sessions that the test used, percent.
        num_sessions: Sessions of the baseline; 0 for ratios.
        is_ruled_out: A loss that must be found is ruled out at this look.
    """

    decision: Decision
    worsening: float
    low: float
    high: float
    noise_pct: float
    seen_noise_pct: float | None
    session_noise_pct: float
    num_sessions: int
    is_ruled_out: bool


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
        difference = -difference
    loss = 100.0 * math.expm1(min(difference, 700.0))  # a double overflows beyond
    return -loss if metric.direction is Direction.HIGHER else loss


def winsorized_mean(values: Sequence[float], *, stall_limit: float) -> float:
    """Return the mean cost of runs, a single stalled launch winsorized: brought near the next slowest.

    Args:
        values: Costs of runs.
        stall_limit: Most by which the slowest counts as worse than the next.
    """
    return statistics.fmean(_winsorize(values, stall_limit=stall_limit))


def margin(
    baseline_costs: Sequence[float],
    *,
    sessions: Sequence[str] = (),
    stall_limit: float,
    rule: SequentialRule,
    num_runs: int | None = None,
    num_sessions: int | None = None,
) -> float:
    """Return the distance from the tolerance to the smallest loss that is found, as a cost.

    Args:
        baseline_costs: Costs of the baseline's runs, for their scatter.
        sessions: Session of each of them; empty for one session.
        stall_limit: Limit of a single stalled launch, see winsorized_mean.
        rule: The sequential rule.
        num_runs: Baseline runs to assume; None for as many as there are.
        num_sessions: Sessions to assume that they are of; None for as many as there are.
    """
    noise = noise_of(_winsorize(baseline_costs, stall_limit=stall_limit), sessions=sessions, rule=rule)
    if num_runs is not None or num_sessions is not None:
        noise = assumed_noise(noise, num_runs=num_runs or len(baseline_costs), num_sessions=num_sessions, rule=rule)
    return sum(_final_bounds(noise, num_runs=rule.max_runs, rule=rule))


def margin_of_ratios(ratios: Sequence[float], *, rule: SequentialRule) -> float:
    """Return the distance from the tolerance to the smallest loss that the rule's rounds find, as a cost.

    Args:
        ratios: Ratios so far, for their scatter; empty to expect what the rule does.
        rule: The sequential rule.
    """
    noise = noise_of_ratios(ratios, rule=rule)
    return sum(_final_bounds(noise, num_runs=max(rule.max_runs, len(ratios)), rule=rule))


def runs_needed(
    baseline_costs: Sequence[float],
    *,
    sessions: Sequence[str] = (),
    stall_limit: float,
    goal: float,
    rule: SequentialRule,
    is_once: bool = False,
) -> int | None:
    """Return the number of baseline runs that reach a margin; None for over MAX_BASELINE_RUNS.

    Args:
        baseline_costs: Costs of the baseline's runs, for their scatter.
        sessions: Session of each of them; empty for one session.
        stall_limit: Limit of a single stalled launch, see winsorized_mean.
        goal: Largest distance from what is allowed to what is found, as a cost.
        rule: The sequential rule.
        is_once: Each further run is of a session of its own; if not, of the same sessions.
    """
    num_recorded = len(baseline_costs)
    recorded_sessions = len(by_session(baseline_costs, sessions=sessions))
    for num_runs in range(max(num_recorded, 1), MAX_BASELINE_RUNS + 1):
        num_sessions = None
        if is_once and num_runs > num_recorded:
            num_sessions = recorded_sessions + num_runs - num_recorded
        beyond = margin(
            baseline_costs,
            sessions=sessions,
            stall_limit=stall_limit,
            rule=rule,
            num_runs=num_runs,
            num_sessions=num_sessions,
        )
        if beyond <= goal:
            return num_runs
    return None


def decide(
    baseline_costs: Sequence[float],
    run_costs: Sequence[float],
    *,
    sessions: Sequence[str] = (),
    tolerance: float,
    must_find: float,
    stall_limit: float,
    rule: SequentialRule,
) -> SequentialResult:
    """Test this session's runs against the baseline's.

    A slower run in this session never turns the decision towards better: see docs/verdicts.md.

    Args:
        baseline_costs: Costs of the baseline's runs, at least one.
        run_costs: Costs of this session's runs, at least one.
        sessions: Session of each of the baseline's runs; empty for one session.
        tolerance: Loss that is allowed, as a cost.
        must_find: Loss that must be ruled out to pass, as a cost.
        stall_limit: Limit of a single stalled launch, see winsorized_mean.
        rule: The sequential rule.
    """
    winsorized = _winsorize(baseline_costs, stall_limit=stall_limit)
    mean = statistics.fmean(winsorized)
    losses = [value - mean for value in run_costs]
    return _decide(
        losses,
        winsorized=_winsorize(losses, stall_limit=stall_limit),
        noise=noise_of(winsorized, sessions=sessions, rule=rule),
        tolerance=tolerance,
        must_find=must_find,
        rule=rule,
    )


def decide_ratio(
    ratios: Sequence[float], *, tolerance: float, must_find: float, stall_limit: float, rule: SequentialRule
) -> SequentialResult:
    """Test independent ratios of two sides, as logarithms, positive for worse.

    Without a baseline the scatter is that of the ratios themselves, so a single one decides nothing. A stall of one
    side makes a ratio too large, one of the other side makes it too small, so the furthest at either end is brought
    near the next.

    Args:
        ratios: Logarithms of new over old, at least one.
        tolerance: Loss that is allowed, as a cost.
        must_find: Loss that must be ruled out to pass, as a cost.
        stall_limit: Limit of a single stalled side, see winsorized_mean.
        rule: The sequential rule.
    """
    winsorized = list(ratios)
    if len(ratios) >= _MIN_RATIOS_TO_SEE_STALLS:
        winsorized = _winsorize(winsorized, stall_limit=stall_limit)
        winsorized = [-ratio for ratio in _winsorize([-ratio for ratio in winsorized], stall_limit=stall_limit)]
    noise = noise_of_ratios(winsorized, rule=rule)
    return _decide(
        ratios,
        winsorized=winsorized,
        noise=noise,
        tolerance=tolerance,
        must_find=must_find,
        rule=rule,
        least_runs=MIN_RUNS_FOR_WORSE,  # a single ratio shows no scatter
    )


def _decide(
    losses: Sequence[float],
    *,
    winsorized: Sequence[float],
    noise: Noise,
    tolerance: float,
    must_find: float,
    rule: SequentialRule,
    least_runs: int = 1,
) -> SequentialResult:
    """Decide at this look.

    Args:
        losses: Differences from the baseline's mean, by run.
        winsorized: The same without stalls.
        noise: Scatter within and between sessions.
        tolerance: Loss that is allowed, as a cost.
        must_find: Loss that must be ruled out to pass, as a cost.
        rule: The sequential rule.
        least_runs: Runs without which nothing passes.
    """
    worsening = statistics.fmean(winsorized)
    error, dof = noise.error(len(losses))
    is_last = len(losses) >= rule.max_runs
    found, ruled_out = _bounds_in_errors(dof, rule=rule, is_last=is_last)
    is_beyond = abs(worsening) - tolerance > found * error
    is_small = abs(worsening) <= tolerance or (is_last and worsening <= tolerance)
    is_ruled_out = must_find - worsening > ruled_out * error
    decision = Decision.UNDECIDED
    if is_beyond and _is_confirmed(losses, sign=math.copysign(1.0, worsening), tolerance=tolerance, rule=rule):
        decision = Decision.WORSE if worsening > 0 else Decision.BETTER
    elif is_ruled_out and is_small and len(losses) >= least_runs:
        decision = Decision.SAME
    seen_noise_pct = None
    if noise.seen is not None:
        seen_noise_pct = 100.0 * noise.seen
    reach = _quantile((1.0 + _INTERVAL) / 2.0, dof=dof) * error
    return SequentialResult(
        decision=decision,
        worsening=worsening,
        low=worsening - reach,
        high=worsening + reach,
        noise_pct=100.0 * noise.within,
        seen_noise_pct=seen_noise_pct,
        session_noise_pct=100.0 * noise.between,
        num_sessions=noise.num_sessions,
        is_ruled_out=is_ruled_out,
    )


def _is_confirmed(losses: Sequence[float], *, sign: float, tolerance: float, rule: SequentialRule) -> bool:
    """Return whether enough launches agree on a change."""
    agreeing = [loss for loss in losses if sign * loss > tolerance]
    return len(agreeing) >= rule.min_runs


def _winsorize(values: Sequence[float], *, stall_limit: float) -> list[float]:
    """Return the costs in their order, the slowest brought near the second slowest: one stalled launch is no noise."""
    limited = list(values)
    if len(limited) > 1:
        *_, second, worst = sorted(limited)
        limited[limited.index(worst)] = min(worst, second + stall_limit)
    return limited


def _final_bounds(noise: Noise, *, num_runs: int, rule: SequentialRule) -> tuple[float, float]:
    """Return the bounds at the last launch: over the tolerance to call a loss worse, below a loss to rule it out."""
    error, dof = noise.error(num_runs)
    found, ruled_out = _bounds_in_errors(dof, rule=rule, is_last=True)
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
