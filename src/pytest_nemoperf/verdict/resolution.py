"""Losses that runs find once they are a baseline, and the runs that would find smaller ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.records.metrics import Metric
from pytest_nemoperf.verdict.advice import floor_note
from pytest_nemoperf.verdict.comparison import Comparison, compare_metric, metric_costs, metric_sessions
from pytest_nemoperf.verdict.limits import Limits, runs_to_pass, stored_limits
from pytest_nemoperf.verdict.policy import VerdictPolicy
from pytest_nemoperf.verdict.repeated_metrics import distinct_metrics


def wants_more_runs(runs: Sequence[Run], *, policy: VerdictPolicy) -> bool:
    """Return whether a baseline of these runs would pass nothing, and one of more runs would."""
    for metric in policy.judged_metrics():
        limits = limits_of(runs, metric=metric, policy=policy)
        if limits is not None and limits.is_below_noise_floor and _runs_to_pass(runs, metric=metric, policy=policy):
            return True
    return False


def runs_to_judge(runs: Sequence[Run], *, policy: VerdictPolicy) -> int | None:
    """Return the number of runs that lets every metric pass, estimated from these; None if too many."""
    most = None
    for metric in policy.judged_metrics():
        if metric_costs(runs, metric=metric):
            enough = _runs_to_pass(runs, metric=metric, policy=policy)
            if enough is None:
                return None
            most = max(most or enough, enough)
    return most


def unmet_tolerance_message(runs: Sequence[Run], *, metric: Metric, policy: VerdictPolicy) -> str:
    """Return a note that a baseline of these runs passes nothing, with a remedy; empty if it can."""
    limits = limits_of(runs, metric=metric, policy=policy)
    if limits is None:
        return ""
    return floor_note(
        metric_costs(runs, metric=metric),
        sessions=metric_sessions(runs, metric=metric),
        limits=limits,
        metric=metric,
        policy=policy,
        rule=policy.rule(metric, runs=runs),
    )


def unmet_tolerance_messages(runs: Sequence[Run], *, policy: VerdictPolicy) -> list[str]:
    """Return `unmet_tolerance_message` of each metric that does not repeat another, one for metrics alike."""
    labels: dict[str, list[str]] = {}
    for metric in distinct_metrics(runs, policy=policy):
        message = unmet_tolerance_message(runs, metric=metric, policy=policy)
        if message:
            labels.setdefault(message.removeprefix(f"{metric.label}: "), []).append(metric.label)
    return [f"{', '.join(alike)}: {message}" for message, alike in labels.items()]


def judging_metrics(runs: Sequence[Run], *, policy: VerdictPolicy) -> frozenset[str]:
    """Return the names of the metrics that a baseline of these runs can pass: not below the noise floor."""
    names = set()
    for metric in policy.judged_metrics():
        limits = limits_of(runs, metric=metric, policy=policy)
        if limits is not None and not limits.is_below_noise_floor:
            names.add(metric.name)
    return frozenset(names)


def limits_of(runs: Sequence[Run], *, metric: Metric, policy: VerdictPolicy) -> Limits | None:
    """Return the limits of a baseline of these runs; None if they lack the metric."""
    values = metric_costs(runs, metric=metric)
    if not values:
        return None
    return stored_limits(
        values,
        sessions=metric_sessions(runs, metric=metric),
        metric=metric,
        policy=policy,
        rule=policy.rule(metric, runs=runs),
    )


def self_test(runs: Sequence[Run], *, metric: Metric, policy: VerdictPolicy) -> Comparison | None:
    """Compare runs with themselves, for their noise and limits; None if they lack the metric."""
    return compare_metric(
        metric,
        baseline_runs=runs,
        runs=runs[: policy.num_launches],
        policy=replace(policy, confirming_rounds=0),
        anchor="",
        is_once=False,
    )


def _runs_to_pass(runs: Sequence[Run], *, metric: Metric, policy: VerdictPolicy) -> int | None:
    return runs_to_pass(
        metric_costs(runs, metric=metric),
        sessions=metric_sessions(runs, metric=metric),
        metric=metric,
        policy=policy,
        rule=policy.rule(metric, runs=runs),
    )
