"""Limits of a judged metric: the loss that is allowed, and the loss that is found for certain. Pure.

One follows from the other by the noise of the case: a tolerance says what is allowed, and `perf_find` the other way
round what must be found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pytest_nemoperf.records.metrics import Metric
from pytest_nemoperf.verdict.policy import VerdictPolicy
from pytest_nemoperf.verdict.sequential import (
    SequentialRule,
    cost_of_loss,
    loss_of_cost,
    margin,
    margin_of_ratios,
    runs_needed,
)

_STALL_SHARE: Final = 0.5
"""Part of the tolerance by which a single stalled launch counts as worse than the next, at most."""
FLOOR_FACTOR: Final = 3.0
"""A pass rules out a loss of so many tolerances, even where only a larger one is found: less would say too little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Losses of one metric as costs.

    Attributes:
        allowed: Largest loss that is allowed.
        found: Smallest loss that is found for certain.
        must_find: Loss that a pass has to rule out: found, or less where that is too much to pass.
        stall_limit: Most by which a single stalled launch counts as worse than the next.
        is_below_noise_floor: Only more than must_find is found, so that little passes, and nothing in still more noise.
    """

    allowed: float
    found: float
    must_find: float
    stall_limit: float
    is_below_noise_floor: bool


def stored_limits(
    baseline_costs: Sequence[float],
    *,
    sessions: Sequence[str],
    metric: Metric,
    policy: VerdictPolicy,
    rule: SequentialRule,
) -> Limits:
    """Return the limits of a metric beside a stored baseline.

    Where rounds side by side decide on what the baseline does not pass, the loss that those find is the one that must
    not pass.

    Args:
        baseline_costs: Costs of the baseline's runs.
        sessions: Session of each of them.
        metric: The metric.
        policy: Tolerances, losses to be found, error rates.
        rule: The sequential rule beside the baseline.
    """
    if policy.confirming_rounds:
        return _limits(margin_of_ratios((), rule=policy.round_rule(metric)), metric=metric, policy=policy)
    stall_limit = _stall_limit(metric, policy=policy)
    beyond = margin(baseline_costs, sessions=sessions, stall_limit=stall_limit, rule=rule)
    return _limits(beyond, metric=metric, policy=policy)


def round_limits(ratios: Sequence[float], *, metric: Metric, policy: VerdictPolicy, rule: SequentialRule) -> Limits:
    """Return the limits of a metric side by side, by the scatter of the rounds so far."""
    return _limits(margin_of_ratios(ratios, rule=rule), metric=metric, policy=policy)


def allowed_pct(limits: Limits, *, metric: Metric, policy: VerdictPolicy) -> float:
    """Return the allowed loss in percent: the tolerance as it was given, or the rest that a loss to be found leaves."""
    if policy.find_pct(metric) is None:
        return policy.tolerance_pct(metric)
    return loss_of_cost(limits.allowed, metric=metric)


def runs_to_pass(
    baseline_costs: Sequence[float],
    *,
    sessions: Sequence[str],
    metric: Metric,
    policy: VerdictPolicy,
    rule: SequentialRule,
    is_once: bool = False,
) -> int | None:
    """Return the number of baseline runs that lift a metric above the noise floor; None for more than can be recorded.

    Args:
        baseline_costs: Costs of the baseline's runs.
        sessions: Session of each of them.
        metric: The metric.
        policy: Tolerances and losses to be found.
        rule: The sequential rule beside the baseline.
        is_once: Each further run is of a session of its own; if not, of the same sessions.
    """
    stall_limit = _stall_limit(metric, policy=policy)
    find_pct = policy.find_pct(metric)
    if find_pct is not None:
        goal = cost_of_loss(find_pct, metric=metric)
    else:
        goal = (FLOOR_FACTOR - 1.0) * cost_of_loss(policy.tolerance_pct(metric), metric=metric)
    return runs_needed(
        baseline_costs, sessions=sessions, stall_limit=stall_limit, goal=goal, rule=rule, is_once=is_once
    )


def _limits(beyond: float, *, metric: Metric, policy: VerdictPolicy) -> Limits:
    """Return the limits of a metric.

    Args:
        beyond: Distance from what is allowed to what is found.
        metric: The metric.
        policy: Tolerances and losses to be found.
    """
    stall_limit = _stall_limit(metric, policy=policy)
    find_pct = policy.find_pct(metric)
    if find_pct is not None:
        asked = cost_of_loss(find_pct, metric=metric)
        return Limits(
            allowed=max(0.0, asked - beyond),
            found=max(asked, beyond),
            must_find=asked,
            stall_limit=stall_limit,
            is_below_noise_floor=beyond > asked,
        )
    allowed = cost_of_loss(policy.tolerance_pct(metric), metric=metric)
    found = allowed + beyond
    most = FLOOR_FACTOR * allowed
    return Limits(
        allowed=allowed,
        found=found,
        must_find=min(found, most),
        stall_limit=stall_limit,
        is_below_noise_floor=found > most,
    )


def _stall_limit(metric: Metric, *, policy: VerdictPolicy) -> float:
    return _STALL_SHARE * cost_of_loss(policy.tolerance_pct(metric), metric=metric)
