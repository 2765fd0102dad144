"""Which tolerances runs can hold once they are a baseline."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_nemoperf.comparison import VerdictPolicy, metric_costs
from pytest_nemoperf.distinct import distinct_metrics
from pytest_nemoperf.measure import Run
from pytest_nemoperf.metrics import JUDGED, Metric
from pytest_nemoperf.remarks import finer_tolerance_hint
from pytest_nemoperf.sequential import SequentialResult, cost_of_loss, decide, runs_needed


def wants_more_runs(runs: Sequence[Run], *, policy: VerdictPolicy) -> bool:
    """Tell whether a baseline of these runs could not hold the tolerances, which further runs would allow."""
    return any(
        _needed(runs, metric=metric, policy=policy)[1]
        for metric in JUDGED
        if unmet_tolerance_message(runs, metric=metric, policy=policy)
    )


def runs_to_judge(runs: Sequence[Run], *, policy: VerdictPolicy) -> int | None:
    """Return how many runs let every metric's tolerance be judged, as far as these tell; None if too many would."""
    counts = [_needed(runs, metric=metric, policy=policy)[0] for metric in JUDGED if metric_costs(runs, metric=metric)]
    known = [count for count in counts if count is not None]
    return max(known) if known and len(known) == len(counts) else None


def unmet_tolerance_message(runs: Sequence[Run], *, metric: Metric, policy: VerdictPolicy) -> str:
    """Return why a baseline of these runs can't hold a metric's tolerance, and what would; empty if it can."""
    allowed, rule = policy.tolerances[metric.name], policy.rule(metric, runs=runs)
    evidence = self_test(runs, metric=metric, policy=policy)
    if evidence is None:
        return ""
    return finer_tolerance_hint(
        metric_costs(runs, metric=metric), evidence=evidence, allowed_pct=allowed, metric=metric, rule=rule
    )


def unmet_tolerance_messages(runs: Sequence[Run], *, policy: VerdictPolicy) -> list[str]:
    """Return `unmet_tolerance_message` of each metric that does not repeat another."""
    texts = (
        unmet_tolerance_message(runs, metric=metric, policy=policy) for metric in distinct_metrics(runs, policy=policy)
    )
    return [text for text in texts if text]


def judging_metrics(runs: Sequence[Run], *, policy: VerdictPolicy) -> frozenset[str]:
    """Return the names of the metrics that a baseline of these runs can pass anything in: not below the noise floor."""
    return frozenset(
        metric.name
        for metric in JUDGED
        if (evidence := self_test(runs, metric=metric, policy=policy)) is not None and not evidence.is_refused
    )


def self_test(runs: Sequence[Run], *, metric: Metric, policy: VerdictPolicy) -> SequentialResult | None:
    """Return what runs say of a metric beside themselves, for its noise and resolution; None if they don't have it."""
    values, rule = metric_costs(runs, metric=metric), policy.rule(metric, runs=runs)
    tolerance = cost_of_loss(policy.tolerances[metric.name], metric=metric)
    return decide(values, values[: rule.max_runs], tolerance=tolerance, rule=rule) if values else None


def _needed(runs: Sequence[Run], *, metric: Metric, policy: VerdictPolicy) -> tuple[int | None, int | None]:
    tolerance = cost_of_loss(policy.tolerances[metric.name], metric=metric)
    return runs_needed(metric_costs(runs, metric=metric), tolerance=tolerance, rule=policy.rule(metric, runs=runs))
