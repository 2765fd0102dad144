"""Decide from independent runs whether something got slower: a sequential t test with a shrunk variance.

Pure, and free of units: everything is computed from natural logarithms, so a ratio is a difference. docs/verdicts.md
is the page about it: assumptions, error rates, and why this method.

The question is put between two losses. One is the tolerance, the smallest loss that matters; the other is the largest
that is called harmless: half of it, or less (down to none) where the noise allows no finer question. After each launch
the likelihoods of both are compared. The mean of the baseline and the variance are not known: the mean is integrated
out, and the variance too, with a prior from the class of machines that weighs as much as PRIOR_DOF runs. At the last
launch that is allowed, a test of fixed size closes.

References:
    Wald 1945, Sequential tests of statistical hypotheses, https://doi.org/10.1214/aoms/1177731118
    Rushton 1950, On a sequential t-test, https://doi.org/10.1093/biomet/37.3-4.326
    Smyth 2004, Linear models and empirical Bayes methods (the shrunk variance), https://doi.org/10.2202/1544-6115.1027
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pytest_nemoperf.metrics import Direction, Metric

PRIOR_DOF: Final = 10.0
"""How many runs' worth of scatter the prior of a system class counts for."""
MAX_BASELINE_RUNS: Final = 100
_INTERVAL = 0.95
_MIN_RUNS_TO_CONDEMN = 2


class Decision(StrEnum):
    """What the runs so far say."""

    SAME = "same"
    WORSE = "worse"
    BETTER = "better"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a decision may cost and how often it may be wrong.

    Attributes:
        noise_pct: Expected scatter between runs (standard deviation, percent): the prior of the system class.
        alpha: Probability to call a harmless case worse.
        beta: Probability to pass a loss as large as the tolerance.
        max_runs: Launches after which the test closes.
    """

    noise_pct: float
    alpha: float = 0.002
    beta: float = 0.01
    max_runs: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was found, and how sure that is.

    Attributes:
        decision: What the runs so far say.
        worsening: Loss as a difference of logarithms, positive for worse.
        low: Lower end of its 95% interval.
        high: Upper end.
        noise_pct: Scatter between runs that was reckoned with, percent: seen and prior together.
        seen_noise_pct: Scatter that the runs themselves show, percent; None where no side has two.
        resolution_pct: The smallest loss that is found and, where there is none, ruled out at the rule's error rates
            within its launches, percent.
        is_refused: The tolerance is below the noise floor: even at the last launch a loss as large as the tolerance
            would be found less than half of the time, so nothing is passed.
    """

    decision: Decision
    worsening: float
    low: float
    high: float
    noise_pct: float
    seen_noise_pct: float | None
    resolution_pct: float
    is_refused: bool


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


def resolution(then: Sequence[float], *, rule: Rule, num_runs: int | None = None) -> float:
    """Return the smallest difference of costs that a case resolves at the rule's error rates and launches.

    Args:
        then: Costs of the baseline's runs; empty for the prior alone.
        rule: The rule.
        num_runs: Baseline runs to reckon with, with the noise as it is now; None for those there are.
    """
    runs = max(len(then), 1) if num_runs is None else num_runs
    dof = max(len(then), 1) - 1
    noise, _ = _noise(_squares(then), dof=dof, rule=rule)
    all_dof = PRIOR_DOF + max(dof, runs - 1)
    return _reach(all_dof, rule=rule)[1] * noise * math.sqrt(1.0 / runs + 1.0 / rule.max_runs)


def runs_to_resolve(then: Sequence[float], *, tolerance: float, rule: Rule) -> int | None:
    """Return how many baseline runs would make a tolerance (a cost) hold; None if none would."""
    counts = range(max(len(then), 1), MAX_BASELINE_RUNS + 1)
    return next((n for n in counts if resolution(then, rule=rule, num_runs=n) <= tolerance), None)


def decide(then: Sequence[float], now: Sequence[float], *, tolerance: float, rule: Rule) -> Evidence:
    """Return what this session's runs say beside the baseline's.

    Args:
        then: Costs of the baseline's runs, at least one.
        now: Costs of this session's, at least one.
        tolerance: The smallest loss that matters, as a cost.
        rule: The rule.
    """
    return _decide(
        statistics.fmean(now) - statistics.fmean(then),
        share=1.0 / len(then) + 1.0 / len(now),
        squares=_squares(then) + _squares(now),
        dof=len(then) + len(now) - 2,
        num_now=len(now),
        tolerance=tolerance,
        resolved=resolution(then, rule=rule),
        rule=rule,
    )


def decide_ratio(ratios: Sequence[float], *, tolerance: float, rule: Rule) -> Evidence:
    """Return what ratios say that each compare both sides already: independent, as logarithms, positive for worse."""
    noise, dof = _noise(_squares(ratios), dof=len(ratios) - 1, rule=rule)
    return _decide(
        statistics.fmean(ratios),
        share=1.0 / len(ratios),
        squares=_squares(ratios),
        dof=len(ratios) - 1,
        num_now=len(ratios),
        tolerance=tolerance,
        resolved=_reach(dof, rule=rule)[1] * noise / math.sqrt(rule.max_runs),
        rule=rule,
    )


def _decide(
    worsening: float,
    *,
    share: float,
    squares: float,
    dof: int,
    num_now: int,
    tolerance: float,
    resolved: float,
    rule: Rule,
) -> Evidence:
    """Share is the variance of the worsening in units of the variance of a run."""
    noise, all_dof = _noise(squares, dof=dof, rule=rule)
    error = noise * math.sqrt(share)
    harmless = max(0.0, min(tolerance / 2.0, tolerance - resolved))
    scatter = all_dof * noise**2

    def surprise(loss: float) -> float:
        return math.log(scatter + (worsening - loss) ** 2 / share)

    exponent = (all_dof + 1.0) / 2.0
    for_worse = exponent * (surprise(harmless) - surprise(tolerance))
    for_better = exponent * (surprise(-harmless) - surprise(-tolerance))
    is_last = num_now >= rule.max_runs
    sure, clear = math.log((1.0 - rule.beta) / rule.alpha), math.log(rule.beta / (1.0 - rule.alpha))
    beyond, below = (_quantile(1.0 - wrong, dof=all_dof) * error for wrong in (rule.alpha, rule.beta))
    floor_share, resolved_share = _reach(all_dof, rule=rule)
    is_refused = resolved * floor_share / resolved_share > tolerance
    may_condemn = num_now >= min(_MIN_RUNS_TO_CONDEMN, rule.max_runs)
    if may_condemn and (for_better >= sure or (is_last and -worsening - harmless > beyond)):
        decision = Decision.BETTER
    elif not is_refused and (for_worse <= clear or (is_last and tolerance - worsening > below)):
        decision = Decision.SAME
    elif may_condemn and (for_worse >= sure or (is_last and worsening - harmless > beyond)):
        decision = Decision.WORSE
    else:
        decision = Decision.UNDECIDED
    reach = _quantile((1.0 + _INTERVAL) / 2.0, dof=all_dof) * error
    return Evidence(
        decision=decision,
        worsening=worsening,
        low=worsening - reach,
        high=worsening + reach,
        noise_pct=100.0 * noise,
        seen_noise_pct=100.0 * math.sqrt(squares / dof) if dof > 0 else None,
        resolution_pct=100.0 * resolved,
        is_refused=is_refused,
    )


def _noise(squares: float, *, dof: int, rule: Rule) -> tuple[float, float]:
    """Return the shrunk standard deviation and its degrees of freedom."""
    prior = PRIOR_DOF * (rule.noise_pct / 100.0) ** 2
    return math.sqrt((prior + squares) / (PRIOR_DOF + dof)), PRIOR_DOF + dof


def _squares(values: Sequence[float]) -> float:
    """Return the sum of squared deviations from the mean."""
    if len(values) < 2:  # noqa: PLR2004 (one value does not scatter)
        return 0.0
    middle = statistics.fmean(values)
    return math.fsum((value - middle) ** 2 for value in values)


def _reach(dof: float, *, rule: Rule) -> tuple[float, float]:
    """Return in standard errors what is found half of the time, and what is found and ruled out as often as asked."""
    found = _quantile(1.0 - rule.alpha, dof=dof)
    return found, found + _quantile(1.0 - rule.beta, dof=dof)


def _quantile(probability: float, *, dof: float) -> float:
    from scipy.special import stdtrit  # noqa: PLC0415 (a tenth of a second that only a verdict needs)

    return float(stdtrit(dof, probability))
