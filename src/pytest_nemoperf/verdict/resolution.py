"""Tolerances that runs can hold once they are a baseline."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.records.metrics import Metric
from pytest_nemoperf.verdict.advice import finer_tolerance_hint
from pytest_nemoperf.verdict.comparison import VerdictPolicy, metric_costs
from pytest_nemoperf.verdict.repeated_metrics import distinct_metrics
from pytest_nemoperf.verdict.sequential import SequentialResult, cost_of_loss, decide, runs_needed


def wants_more_runs(runs: Sequence[Run], *, policy: VerdictPolicy) -> bool:
    """Return whether a baseline of these runs can't hold a tolerance that more runs would hold."""
    for metric in policy.judged_metrics():
        if unmet_tolerance_message(runs, metric=metric, policy=policy):
            _, resolving = _needed(runs, metric=metric, policy=policy)
            if resolving:
                return True
    return False


def runs_to_judge(runs: Sequence[Run], *, policy: VerdictPolicy) -> int | None:
    """Return the number of runs that lets every tolerance be judged, estimated from these; None if too many."""
    most = None
    for metric in policy.judged_metrics():
        if metric_costs(runs, metric=metric):
            enough, _ = _needed(runs, metric=metric, policy=policy)
            if enough is None:
                return None
            most = max(most or enough, enough)
    return most


def unmet_tolerance_message(runs: Sequence[Run], *, metric: Metric, policy: VerdictPolicy) -> str:
    """Return a note that a baseline of these runs can't hold a tolerance, with a remedy; empty if it can."""
    evidence = self_test(runs, metric=metric, policy=policy)
    if evidence is None:
        return ""
    return finer_tolerance_hint(
        metric_costs(runs, metric=metric),
        evidence=evidence,
        allowed_pct=policy.tolerance_pct(metric),
        metric=metric,
        rule=policy.rule(metric, runs=runs),
    )


def unmet_tolerance_messages(runs: Sequence[Run], *, policy: VerdictPolicy) -> list[str]:
    """Return `unmet_tolerance_message` of each metric that does not repeat another."""
    messages = []
    for metric in distinct_metrics(runs, policy=policy):
        message = unmet_tolerance_message(runs, metric=metric, policy=policy)
        if message:
            messages.append(message)
    return messages


def judging_metrics(runs: Sequence[Run], *, policy: VerdictPolicy) -> frozenset[str]:
    """Return the names of the metrics that a baseline of these runs can pass: not below the noise floor."""
    names = set()
    for metric in policy.judged_metrics():
        evidence = self_test(runs, metric=metric, policy=policy)
        if evidence is not None and not evidence.is_below_noise_floor:
            names.add(metric.name)
    return frozenset(names)


def self_test(runs: Sequence[Run], *, metric: Metric, policy: VerdictPolicy) -> SequentialResult | None:
    """Test runs against themselves, for their noise and resolution; None if they lack the metric."""
    values = metric_costs(runs, metric=metric)
    if not values:
        return None
    rule = policy.rule(metric, runs=runs)
    tolerance = cost_of_loss(policy.tolerance_pct(metric), metric=metric)
    return decide(values, values[: rule.max_runs], tolerance=tolerance, rule=rule)


def _needed(runs: Sequence[Run], *, metric: Metric, policy: VerdictPolicy) -> tuple[int | None, int | None]:
    """Return the numbers of runs that allow a verdict, and that resolve the tolerance; see runs_needed."""
    tolerance = cost_of_loss(policy.tolerance_pct(metric), metric=metric)
    return runs_needed(metric_costs(runs, metric=metric), tolerance=tolerance, rule=policy.rule(metric, runs=runs))
