"""Comparison of one metric with its baseline: change, 95% interval, allowed and found losses, kind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from pytest_nemoperf.baselines.baseline import Baseline, counts_flops_alike
from pytest_nemoperf.errors import count_text
from pytest_nemoperf.measure.measurement import Measurement, Run
from pytest_nemoperf.measure.stored_workload import is_in_process
from pytest_nemoperf.records.figures import Count, Finite, Positive
from pytest_nemoperf.records.metrics import METRICS, TFLOPS_PER_SEC_PER_GPU, Direction, Metric
from pytest_nemoperf.verdict import advice
from pytest_nemoperf.verdict.limits import Limits, allowed_pct, stored_limits
from pytest_nemoperf.verdict.policy import VerdictPolicy
from pytest_nemoperf.verdict.remedies import remedies_of
from pytest_nemoperf.verdict.sequential import (
    Decision,
    SequentialResult,
    SequentialRule,
    cost,
    decide,
    loss_of_cost,
    winsorized_mean,
)


class VerdictKind(StrEnum):
    """The seven outcomes of a case."""

    PASSED = "PASSED"
    REGRESSED = "REGRESSED"
    IMPROVED = "IMPROVED"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID = "INVALID"
    NOT_COMPARABLE = "NOT COMPARABLE"
    NO_BASELINE = "NO BASELINE"


FAILING_BY_DEFAULT: Final = frozenset({VerdictKind.REGRESSED, VerdictKind.INVALID})
"""Verdicts that fail a test unless ``--perf-fail-on`` names others."""
LOCALLY_RECORDED: Final = frozenset({VerdictKind.NO_BASELINE, VerdictKind.NOT_COMPARABLE})
"""Verdicts after which the runs are stored for this machine alone, to compare its next session with."""
NEEDS_ACCEPTANCE: Final = frozenset({VerdictKind.REGRESSED, VerdictKind.INCONCLUSIVE})
"""Verdicts that may hide a loss: an update stores the runs only with ``--perf-accept-regression``."""
WITHOUT_LOSS: Final = frozenset({VerdictKind.PASSED, VerdictKind.IMPROVED})
"""Verdicts that need no waiver."""

KIND_OF: Final[Mapping[Decision, VerdictKind]] = {
    Decision.SAME: VerdictKind.PASSED,
    Decision.WORSE: VerdictKind.REGRESSED,
    Decision.BETTER: VerdictKind.IMPROVED,
    Decision.UNDECIDED: VerdictKind.INCONCLUSIVE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One metric compared with its baseline.

    Attributes:
        metric: Metric name.
        baseline: Geometric mean of the baseline's runs, a single stalled launch brought near the next one.
        now: The same of this session's runs.
        delta_pct: Signed change in percent of the baseline.
        allowed_pct: Largest worsening that is allowed, percent.
        kind: PASSED, REGRESSED, IMPROVED, INCONCLUSIVE or NOT COMPARABLE for this metric alone.
        note: Explanation that the numbers don't give; may be empty.
        low_pct: Lower end of the 95% interval of delta_pct.
        high_pct: Upper end.
        finds_pct: Smallest worsening that is found for certain, percent.
        noise_pct: Scatter between runs that the test used, percent: measured, shrunk towards expected_noise_pct.
        seen_noise_pct: Scatter of the runs alone, percent; None if they are too few.
        expected_noise_pct: Expected scatter of the system class, percent.
        session_noise_pct: Scatter between sessions that the test used, percent; None where both sides are of one.
        num_baseline_runs: Launches of the baseline.
        num_baseline_sessions: Sessions that they are of.
        num_runs: Launches of this session.
        anchor: Name of the anchor it is compared with; empty for the newest baseline.
        slow_steps_loss_pct: Loss with slow steps counted, percent; None unless they decided the kind.
        side_by_side_pct: Change beside the commit of the stored runs, percent; None unless it was compared in rounds.
        cause: Phases that caused the change of a whole step, with their figures; empty if unknown.
        published: Page and release whose printed value it is compared with; empty for runs of this project.
        told_with: Metric whose change has the same cause, and in whose sentence this one is told; empty if it is told
            in one of its own.
    """

    metric: str
    baseline: Positive
    now: Positive
    delta_pct: Finite
    allowed_pct: Finite
    kind: VerdictKind
    note: str = ""
    low_pct: Finite | None = None
    high_pct: Finite | None = None
    finds_pct: Finite | None = None
    noise_pct: Finite | None = None
    seen_noise_pct: Finite | None = None
    expected_noise_pct: Finite | None = None
    session_noise_pct: Finite | None = None
    num_baseline_runs: Count = 0
    num_baseline_sessions: Count = 0
    num_runs: Count = 0
    anchor: str = ""
    slow_steps_loss_pct: Finite | None = None
    side_by_side_pct: Finite | None = None
    cause: str = ""
    published: str = ""
    told_with: str = ""

    @property
    def reference(self) -> str:
        """The other side in messages: the baseline, its anchor, or the value of a page."""
        if self.published:
            return f"the value published in {self.published}"
        if self.anchor:
            return f"the anchor {self.anchor}"
        return "the baseline"

    @property
    def worsening(self) -> float:
        """Difference of the costs, positive for worse; see sequential.cost."""
        metric = METRICS[self.metric]
        return cost(self.now, metric=metric) - cost(self.baseline, metric=metric)


def compare_runs(measurement: Measurement, *, baseline: Baseline, policy: VerdictPolicy) -> tuple[Comparison, ...]:
    """Compare every judged metric with the newest baseline, then with its anchor if it has one.

    Args:
        measurement: This session's runs.
        baseline: The stored baseline.
        policy: Tolerances and error rates.
    """
    is_once = is_in_process(measurement.workload)
    has_same_flops = counts_flops_alike(measurement, other=baseline)
    sides = [("", baseline.runs)]
    if baseline.anchor is not None:
        sides.append((baseline.anchor.name, baseline.anchor.runs))
    comparisons = []
    page = baseline.published
    for anchor, baseline_runs in sides:
        for metric in policy.judged_metrics():
            judged_by = policy
            if page is not None:
                judged_by = policy.with_rounding(page.rounding_pct.get(metric.name, 0.0))
            comparison = compare_metric(
                metric,
                baseline_runs=baseline_runs,
                runs=measurement.runs,
                policy=judged_by,
                anchor=anchor,
                is_once=is_once,
            )
            if comparison is None:
                continue
            if page is not None:
                comparison = replace(comparison, published=page.title)
            if metric is TFLOPS_PER_SEC_PER_GPU and not has_same_flops:
                note = "FLOPs are counted otherwise in the baseline"
                comparison = replace(comparison, kind=VerdictKind.NOT_COMPARABLE, note=note)
            comparisons.append(comparison)
    return tuple(comparisons)


def metric_costs(runs: Sequence[Run], *, metric: Metric) -> list[float]:
    """Return the cost of each run that has the metric, see sequential.cost."""
    costs = []
    for run in runs:
        if metric.name in run.metrics:
            costs.append(cost(run.metrics[metric.name], metric=metric))
    return costs


def metric_sessions(runs: Sequence[Run], *, metric: Metric) -> list[str]:
    """Return the session of each run that has the metric, in the order of metric_costs."""
    return [run.session for run in runs if metric.name in run.metrics]


def delta_pct(worsening: float, *, metric: Metric) -> float:
    """Return the signed change of a metric's value in percent for a difference of costs."""
    loss = loss_of_cost(worsening, metric=metric)
    if metric.direction is Direction.HIGHER:
        return -loss
    return loss


def describe(comparison: Comparison, *, other: str = "", evidence: str = "") -> str:
    """Return a sentence with a metric's change, e.g. that it is 6.2% below the baseline; its cause comes first.

    Args:
        comparison: Comparison of the metric.
        other: Name of the other side; empty for the baseline or its anchor.
        evidence: Further text after the numbers; may be empty.
    """
    metric = METRICS[comparison.metric]
    side = "below" if comparison.delta_pct < 0 else "above"
    numbers = f"{metric.format(comparison.now)} against {metric.format(comparison.baseline)}"
    facts = "; ".join(filter(None, [numbers, _limit_text(comparison), evidence]))
    sentence = f"{metric.label} is {abs(comparison.delta_pct):.1f}% {side} {other or comparison.reference} ({facts})"
    return "; ".join(filter(None, [comparison.cause, sentence, comparison.note]))


def _limit_text(comparison: Comparison) -> str:
    """Return the losses that are allowed and found, beside a loss or an undecided change; empty for a gain."""
    loss = METRICS[comparison.metric].worsening_pct(comparison.now, baseline=comparison.baseline)
    if loss <= 0 and comparison.kind not in {VerdictKind.INCONCLUSIVE, VerdictKind.NOT_COMPARABLE}:
        return ""
    text = f"allows {comparison.allowed_pct:.3g}%"
    if comparison.finds_pct is not None:
        text += f", finds {comparison.finds_pct:.3g}%"
    return text


def compare_metric(
    metric: Metric,
    *,
    baseline_runs: Sequence[Run],
    runs: Sequence[Run],
    policy: VerdictPolicy,
    anchor: str,
    is_once: bool,
) -> Comparison | None:
    """Compare one metric; None if either side lacks it.

    Args:
        metric: The metric.
        baseline_runs: Runs of the baseline or of its anchor.
        runs: This session's runs.
        policy: Tolerances and error rates.
        anchor: Name of the anchor; empty for the newest baseline.
        is_once: The case is measured once a session.
    """
    before = metric_costs(baseline_runs, metric=metric)
    after = metric_costs(runs, metric=metric)
    if not before or not after:
        return None
    sessions = metric_sessions(baseline_runs, metric=metric)
    rule = policy.rule(metric, runs=baseline_runs)
    rule_now = policy.rule(metric, runs=runs)
    if rule_now.noise_pct > rule.noise_pct:
        rule = rule_now
    if anchor and not policy.confirms_anchor:  # rounds beside the baseline's commit tell nothing of the anchor's
        policy = replace(policy, confirming_rounds=0)
    limits = stored_limits(before, sessions=sessions, metric=metric, policy=policy, rule=rule)
    evidence = decide(
        before,
        after,
        sessions=sessions,
        tolerance=limits.allowed,
        must_find=limits.must_find,
        stall_limit=limits.stall_limit,
        rule=rule,
    )
    usual = winsorized_mean(before, stall_limit=limits.stall_limit)
    low, high = sorted([delta_pct(evidence.low, metric=metric), delta_pct(evidence.high, metric=metric)])
    comparison = Comparison(
        metric=metric.name,
        baseline=_value(usual, metric=metric),
        now=_value(usual + evidence.worsening, metric=metric),
        delta_pct=delta_pct(evidence.worsening, metric=metric),
        allowed_pct=allowed_pct(limits, metric=metric, policy=policy),
        kind=_kind_of(evidence, is_powerless=bool(anchor) and limits.is_below_noise_floor, is_anchor=bool(anchor)),
        low_pct=low,
        high_pct=high,
        finds_pct=loss_of_cost(limits.found, metric=metric),
        noise_pct=evidence.noise_pct,
        seen_noise_pct=evidence.seen_noise_pct,
        expected_noise_pct=rule.noise_pct,
        session_noise_pct=evidence.session_noise_pct,
        num_baseline_runs=len(before),
        num_baseline_sessions=evidence.num_sessions,
        num_runs=len(after),
        anchor=anchor,
    )
    notes = []
    if comparison.kind in {VerdictKind.INCONCLUSIVE, VerdictKind.NOT_COMPARABLE}:
        notes.append(
            _undecided_note(
                comparison, limits=limits, before=before, sessions=sessions, policy=policy, rule=rule, is_once=is_once
            )
        )
    elif comparison.kind is VerdictKind.PASSED and not anchor and not policy.confirming_rounds:
        notes.append(
            advice.floor_note(before, sessions=sessions, limits=limits, metric=metric, policy=policy, rule=rule)
        )
    if not anchor:
        notes.append(advice.stall_note(after, stall_limit=limits.stall_limit, metric=metric))
    return replace(comparison, note="; ".join(filter(None, notes)))


def _kind_of(evidence: SequentialResult, *, is_powerless: bool, is_anchor: bool) -> VerdictKind:
    """Return the kind of one comparison.

    Anchors only detect slow decay. Undecided against one is NOT COMPARABLE if its runs are too few for the tolerance,
    and PASSED if the case is faster and a loss is ruled out.
    """
    if is_anchor and evidence.decision is Decision.UNDECIDED:
        if is_powerless:
            return VerdictKind.NOT_COMPARABLE
        if evidence.worsening < 0 and evidence.is_ruled_out:
            return VerdictKind.PASSED
    return KIND_OF[evidence.decision]


def _undecided_note(
    comparison: Comparison,
    *,
    limits: Limits,
    before: Sequence[float],
    sessions: Sequence[str],
    policy: VerdictPolicy,
    rule: SequentialRule,
    is_once: bool,
) -> str:
    """Return the reason that a comparison decides nothing, with a remedy."""
    metric = METRICS[comparison.metric]
    word = "anchor" if comparison.anchor else "baseline"
    runs = "one published value" if policy.has_published_value else count_text(len(before), f"{word} run")
    floor = advice.noise_floor_message(comparison, runs=runs)
    if comparison.kind is VerdictKind.NOT_COMPARABLE:
        return f"{floor}, so the anchor decides nothing; {remedies_of(policy).anchor} makes another"
    if limits.is_below_noise_floor and not policy.confirming_rounds:
        remedy = advice.remedy_text(before, sessions=sessions, metric=metric, policy=policy, rule=rule, is_once=is_once)
        return f"{floor}; {remedy}"
    interval = f"95% interval {comparison.low_pct:+.1f}% to {comparison.high_pct:+.1f}%"
    if policy.has_given_runs:
        text = f"undecided with {count_text(comparison.num_runs, 'run')}: {interval}; add further runs"
        if comparison.num_runs < rule.min_runs:
            text += f", for one alone is never {VerdictKind.REGRESSED}"
        return text
    launches = f"{comparison.num_runs} of {count_text(rule.max_runs, 'launch')}"
    if is_once:
        launches = "the one run of a session"
    text = f"undecided after {launches}: {interval}"
    if rule.max_runs < rule.min_runs:
        text += f"; one launch alone is never {VerdictKind.REGRESSED}: allow two (--perf-max-runs=2)"
    return text


def _value(cost_of_value: float, *, metric: Metric) -> float:
    """Return the metric's value with this cost; the inverse of sequential.cost."""
    if metric.direction is Direction.HIGHER:
        return math.exp(-cost_of_value)
    return math.exp(cost_of_value)
