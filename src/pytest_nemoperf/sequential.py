"""Decide from independent runs whether something got slower: bounds on the loss, looked at after every launch.

Pure, and free of units: everything is computed from natural logarithms, so a ratio is a difference. docs/verdicts.md
is the page about it: assumptions, error rates, and why this method.

The question is put between two losses. One is the tolerance, the smallest loss that matters; the other is the largest
that is called harmless: half of it, or less (down to none) where the noise allows no finer question. After each launch
there is an estimate of the loss and its standard error. A case is the same once a loss as large as the tolerance is
ruled out, and worse once a harmless one is. The standard error comes from the scatter of the baseline's runs, shrunk
towards what the class of machines usually shows, and never from today's runs: so a slower launch today can only make
a verdict worse, never blur it.

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

from pytest_nemoperf.defaults import DEFAULT_ALPHA, DEFAULT_BETA, DEFAULT_MAX_RUNS
from pytest_nemoperf.metrics import Direction, Metric

_PRIOR_DOF: Final = 8.0
"""How many degrees of freedom the prior of a system class counts for: as much as nine baseline runs."""
HARMLESS_SHARE: Final = 0.5
"""The part of the tolerance that is called harmless where the noise is small enough to ask that finely."""
MAX_BASELINE_RUNS: Final = 100
_INTERVAL = 0.95
_MIN_RUNS_TO_CONDEMN = 2
STALL_SHARE: Final = 0.5  # of the tolerance: by so much the slowest launch counts as worse than the next at most
_MIN_RATIOS_TO_SEE_STALLS = 5
_LOOKS_EXPONENT = 0.6
_LAST_LOOK_DIVISOR = 2.0


class Decision(StrEnum):
    """What the runs so far say."""

    SAME = "same"
    WORSE = "worse"
    BETTER = "better"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialRule:
    """What a decision may cost and how often it may be wrong.

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
    """What was found, and how sure that is.

    Attributes:
        decision: What the runs so far say.
        worsening: Loss as a difference of logarithms, positive for worse.
        low: Lower end of its 95% interval.
        high: Upper end.
        noise_pct: Scatter between runs that was reckoned with, percent: seen and prior together.
        seen_noise_pct: Scatter that the runs themselves show, percent; None where they are too few.
        harmless: The largest loss that is called harmless, as such a difference.
        resolution_pct: The smallest loss that is found and, where there is none, ruled out at the rule's error rates
            within its launches, percent.
        is_refused: The tolerance is below the noise floor: even at the last launch a loss as large as the tolerance
            would be found less than half of the time, so nothing is passed.
        is_ruled_out: A loss as large as the tolerance is ruled out, at this look.
    """

    decision: Decision
    worsening: float
    low: float
    high: float
    noise_pct: float
    seen_noise_pct: float | None
    harmless: float
    resolution_pct: float
    is_refused: bool
    is_ruled_out: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Noise:
    """Scatter of a run: what was seen and what was expected, weighed by degrees of freedom."""

    seen: float | None
    shrunk: float
    dof: float


def cost(value: float, *, metric: Metric) -> float:
    """Return the logarithm of what a value costs: greater is worse, whatever the metric's direction."""
    return -math.log(value) if metric.direction is Direction.HIGHER else math.log(value)


def cost_of_loss(percent: float, *, metric: Metric) -> float:
    """Return what a loss of so many percent of the metric adds to its cost; the percentage is below 100."""
    if metric.direction is Direction.HIGHER:
        return -math.log1p(-percent / 100.0)
    return math.log1p(percent / 100.0)


def loss_of_cost(difference: float, *, metric: Metric) -> float:
    """Return the worsening in percent of the metric that a difference of costs is: cost_of_loss turned round."""
    if metric.direction is Direction.HIGHER:
        return -100.0 * math.expm1(-difference)
    return 100.0 * math.expm1(min(difference, 700.0))  # beyond, a float has no room


def usual_cost(values: Sequence[float], *, tolerance: float) -> float:
    """Return the cost that runs stand for: their mean, a single stalled launch brought near the next one."""
    return statistics.fmean(_without_stall(values, tolerance=tolerance))


def resolution(
    then: Sequence[float], *, rule: SequentialRule, num_runs: int | None = None, tolerance: float = math.inf
) -> float:
    """Return the smallest difference of costs that a case resolves at the rule's error rates and launches.

    Beside num_runs baseline runs, or those there are; tolerance says how far a single stalled launch counts.
    """
    runs = max(len(then), 1) if num_runs is None else num_runs
    return sum(_last_look_with(runs, then=then, tolerance=tolerance, rule=rule))


def runs_needed(then: Sequence[float], *, tolerance: float, rule: SequentialRule) -> tuple[int | None, int | None]:
    """Return how many baseline runs let a tolerance be judged at all, and how many resolve it; None if too many would.

    Too many are more than MAX_BASELINE_RUNS.
    """
    counts = range(max(len(then), 1), MAX_BASELINE_RUNS + 1)
    looks = [(n, *_last_look_with(n, then=then, tolerance=tolerance, rule=rule)) for n in counts]
    enough = next((n for n, found, _ in looks if found <= tolerance), None)
    return enough, next((n for n, found, ruled_out in looks if found + ruled_out <= tolerance), None)


def decide(then: Sequence[float], now: Sequence[float], *, tolerance: float, rule: SequentialRule) -> SequentialResult:
    """Return what this session's runs say beside the baseline's.

    Slowing any of today's runs never turns the decision towards better: see docs/verdicts.md.

    Args:
        then: Costs of the baseline's runs, at least one.
        now: Costs of this session's, at least one.
        tolerance: The smallest loss that matters, as a cost.
        rule: The rule.
    """
    usual = _without_stall(then, tolerance=tolerance)
    middle = statistics.fmean(usual)
    losses = [value - middle for value in now]
    return _decide(
        losses,
        usual=_without_stall(losses, tolerance=tolerance),
        noise=_noise_of(usual, rule=rule),
        share_of_baseline=1.0 / len(then),
        tolerance=tolerance,
        rule=rule,
    )


def decide_ratio(ratios: Sequence[float], *, tolerance: float, rule: SequentialRule) -> SequentialResult:
    """Return what ratios say that each compare both sides already: independent, as logarithms, positive for worse.

    There is no baseline whose scatter could be used, so the scatter is that of the ratios themselves. A stall of one
    side makes a ratio too large and one of the other makes it too small, so the furthest at either end is brought near.
    """
    usual = list(ratios)
    if len(ratios) >= _MIN_RATIOS_TO_SEE_STALLS:
        usual = [-ratio for ratio in _without_stall(usual, tolerance=tolerance)]
        usual = [-ratio for ratio in _without_stall(usual, tolerance=tolerance)]
    return _decide(
        ratios,
        usual=usual,
        noise=_noise_of(usual, rule=rule),
        share_of_baseline=0.0,
        tolerance=tolerance,
        rule=rule,
    )


def _decide(
    losses: Sequence[float],
    *,
    usual: Sequence[float],
    noise: _Noise,
    share_of_baseline: float,
    tolerance: float,
    rule: SequentialRule,
) -> SequentialResult:
    """Return what losses say that are beside a mean with share_of_baseline of a run's variance; usual has no stalls."""
    worsening = statistics.fmean(usual)
    error = noise.shrunk * math.sqrt(share_of_baseline + 1.0 / len(losses))
    num_runs = max(rule.max_runs, len(losses))
    last = _last_look(noise, share_of_baseline=share_of_baseline, num_runs=num_runs, rule=rule)
    harmless = max(0.0, min(HARMLESS_SHARE * tolerance, tolerance - sum(last)))
    is_refused = last[0] > tolerance
    is_last = len(losses) >= rule.max_runs
    found, ruled_out = _bounds(noise.dof, rule=rule, is_last=is_last)
    is_beyond = abs(worsening) - harmless > found * error
    is_small = abs(worsening) <= HARMLESS_SHARE * tolerance
    is_ruled_out = tolerance - worsening > ruled_out * error
    if is_beyond and _is_confirmed(losses, sign=math.copysign(1.0, worsening), tolerance=tolerance, rule=rule):
        decision = Decision.WORSE if worsening > 0 else Decision.BETTER
    elif is_ruled_out and not is_refused and (is_small or is_last):
        decision = Decision.SAME
    else:
        decision = Decision.UNDECIDED
    reach = _quantile((1.0 + _INTERVAL) / 2.0, dof=noise.dof) * error
    return SequentialResult(
        decision=decision,
        worsening=worsening,
        low=worsening - reach,
        high=worsening + reach,
        noise_pct=100.0 * noise.shrunk,
        seen_noise_pct=None if noise.seen is None else 100.0 * noise.seen,
        harmless=harmless,
        resolution_pct=100.0 * sum(last),
        is_refused=is_refused,
        is_ruled_out=is_ruled_out,
    )


def _is_confirmed(losses: Sequence[float], *, sign: float, tolerance: float, rule: SequentialRule) -> bool:
    """Tell whether a second launch says the same: one alone may have been unlucky in more than its noise."""
    needed = min(_MIN_RUNS_TO_CONDEMN, rule.max_runs)
    return sum(sign * loss > HARMLESS_SHARE * tolerance for loss in losses) >= needed


def _without_stall(values: Sequence[float], *, tolerance: float) -> list[float]:
    """Return the costs with the slowest one brought near the second slowest: one launch that stalled is no noise."""
    ordered = sorted(values)
    if len(ordered) < 2:  # noqa: PLR2004 (nothing to compare the slowest with)
        return ordered
    return [*ordered[:-1], min(ordered[-1], ordered[-2] + STALL_SHARE * tolerance)]


def _noise_of(values: Sequence[float], *, rule: SequentialRule) -> _Noise:
    """Return the scatter of the values, shrunk towards the rule's."""
    dof = max(len(values), 1) - 1
    middle = statistics.fmean(values) if values else 0.0
    squares = math.fsum((value - middle) ** 2 for value in values)
    prior = _PRIOR_DOF * (rule.noise_pct / 100.0) ** 2
    return _Noise(
        seen=math.sqrt(squares / dof) if dof else None,
        shrunk=math.sqrt((prior + squares) / (_PRIOR_DOF + dof)),
        dof=_PRIOR_DOF + dof,
    )


def _last_look_with(
    num_runs: int, *, then: Sequence[float], tolerance: float, rule: SequentialRule
) -> tuple[float, float]:
    """Return _last_look beside so many baseline runs, further ones scattering as those seen (else as the prior)."""
    noise = _noise_of(_without_stall(then, tolerance=tolerance), rule=rule)
    prior, dof = rule.noise_pct / 100.0, num_runs - 1
    seen = prior if noise.seen is None else noise.seen
    shrunk = math.sqrt((_PRIOR_DOF * prior**2 + dof * seen**2) / (_PRIOR_DOF + dof))
    grown = replace(noise, shrunk=shrunk, dof=_PRIOR_DOF + dof)
    return _last_look(grown, share_of_baseline=1.0 / num_runs, num_runs=rule.max_runs, rule=rule)


def _last_look(noise: _Noise, *, share_of_baseline: float, num_runs: int, rule: SequentialRule) -> tuple[float, float]:
    """Return the loss that is found half of the time at the last launch, and how far from one it is ruled out."""
    error = noise.shrunk * math.sqrt(share_of_baseline + 1.0 / num_runs)
    found, ruled_out = _bounds(noise.dof, rule=rule, is_last=True)
    return found * error, ruled_out * error


def _bounds(dof: float, *, rule: SequentialRule, is_last: bool) -> tuple[float, float]:
    """Return how many standard errors away a loss is found, and how many away it is ruled out, at a look.

    Looking after every launch gives chance as many tries. The level of each look is the rule's divided by
    max_runs**0.6, near Pocock's constants (1.7, 2.5, 3.3, 5.4 and 7.3 for 2, 3, 5, 10 and 20 looks) less what the
    looks have in common here, the baseline; after the last there is no further try, and half of the level is spent on
    it. benchmarks/verdicts measures what the rates come to.
    """
    looks = rule.max_runs**_LOOKS_EXPONENT
    divisor = min(looks, _LAST_LOOK_DIVISOR) if is_last else looks
    return _quantile(1.0 - rule.alpha / divisor, dof=dof), _quantile(1.0 - rule.beta / divisor, dof=dof)


@cache
def _quantile(probability: float, *, dof: float) -> float:
    from scipy.special import stdtrit  # noqa: PLC0415 (a tenth of a second that only a verdict needs)

    return float(stdtrit(dof, probability))
