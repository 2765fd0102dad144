"""Comparison of one metric with its baseline: change, 95% interval, resolution, kind."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from pytest_nemoperf.baselines.baseline import Baseline, counts_flops_alike
from pytest_nemoperf.errors import RecipeError, count_text
from pytest_nemoperf.measure.measurement import Measurement, Run
from pytest_nemoperf.measure.steady_state import drift_noise_pct
from pytest_nemoperf.recipes.recipe import check_tolerances
from pytest_nemoperf.recipes.systems import System
from pytest_nemoperf.records.metrics import (
    JUDGED,
    METRICS,
    PEAK_MEMORY_GIB,
    TFLOPS_PER_SEC_PER_GPU,
    TOKENS_PER_SEC_PER_GPU,
    Direction,
    Judged,
    Metric,
)
from pytest_nemoperf.verdict import advice
from pytest_nemoperf.verdict.sequential import (
    Decision,
    SequentialResult,
    SequentialRule,
    cost,
    cost_of_loss,
    decide,
    loss_of_cost,
    winsorized_mean,
)
from pytest_nemoperf.verdict.workload import is_in_process


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

_ROUNDING = 1.0 - 1e-9
KIND_OF: Final[Mapping[Decision, VerdictKind]] = {
    Decision.SAME: VerdictKind.PASSED,
    Decision.WORSE: VerdictKind.REGRESSED,
    Decision.BETTER: VerdictKind.IMPROVED,
    Decision.UNDECIDED: VerdictKind.INCONCLUSIVE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictPolicy:
    """Tolerances and error rates of a verdict.

    Attributes:
        tolerances: Smallest worsening that matters, percent, by name of metric; see tolerance_pct for those of phases.
        run_noise_pct: Expected scatter of rates and times between launches, percent; of the system class.
        memory_noise_pct: Expected scatter of peak memory, percent.
        alpha: Probability to call a harmless case REGRESSED.
        beta: Probability to pass a loss as large as the tolerance.
        max_runs: Launches after which a case is INCONCLUSIVE.
    """

    tolerances: Mapping[str, float]
    run_noise_pct: float
    memory_noise_pct: float
    alpha: float
    beta: float
    max_runs: int

    def judged_metrics(self) -> list[Metric]:
        """Return the metrics that have a tolerance, in printed order."""
        judged = []
        for metric in JUDGED:
            if metric.judged is not Judged.WHEN_NAMED or metric.name in self.tolerances:
                judged.append(metric)
        return judged

    def tolerance_pct(self, metric: Metric) -> float:
        """Return the tolerance of a judged metric, percent: its own, or that of tokens/sec/GPU."""
        if self.follows_tokens_per_sec(metric):
            return self.tolerances[TOKENS_PER_SEC_PER_GPU.name]
        return self.tolerances[metric.name]

    def follows_tokens_per_sec(self, metric: Metric) -> bool:
        """Return whether the metric has the tolerance of tokens/sec/GPU, since none is named for it."""
        return metric.judged is Judged.AS_TOKENS_PER_SEC and metric.name not in self.tolerances

    def rule(self, metric: Metric, *, runs: Sequence[Run]) -> SequentialRule:
        """Return the sequential rule of a metric; drifts within the runs widen its noise."""
        if metric is PEAK_MEMORY_GIB:
            noise_pct = self.memory_noise_pct
        else:
            noise_pct = max(self.run_noise_pct, drift_noise_pct(run.drift_pct for run in runs))
        return SequentialRule(noise_pct=noise_pct, alpha=self.alpha, beta=self.beta, max_runs=self.max_runs)


def parse_tolerances(texts: Sequence[str], *, subject: str) -> dict[str, float]:
    """Return tolerances in percent by metric name from ``[METRIC=]PCT``; ``all`` stands for a missing name.

    Raises:
        RecipeError: If a text has another form, a metric is not judged, or a percentage is not within (0, 100).
    """
    parsed = {}
    for text in texts:
        name, _, percent = text.rpartition("=")
        try:
            parsed[name.strip() or "all"] = float(percent.strip().removesuffix("%"))
        except ValueError:
            raise RecipeError(f"{subject}={text!r} is not [METRIC=]PCT; write e.g. 5% or peak_memory_gib=10") from None
    check_tolerances(parsed, subject=subject)
    return parsed


def default_tolerances(system: System) -> dict[str, float]:
    """Return a system's default tolerances in percent, by name of each metric that has one of its own by default."""
    tolerances = {}
    for metric in JUDGED:
        if metric.judged is Judged.BY_DEFAULT:
            tolerances[metric.name] = system.tolerance_pct
    tolerances[PEAK_MEMORY_GIB.name] = system.memory_tolerance_pct
    return tolerances


def merge_tolerances(layers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the tolerances by metric; later layers win.

    ``all`` in a layer stands for every metric that is judged by default, and replaces the tolerances that weaker layers
    name for these. A metric that is judged only when named keeps the tolerance that named it.
    """
    merged: dict[str, float] = {}
    for layer in layers:
        if "all" in layer:
            for metric in JUDGED:
                if metric.judged is Judged.BY_DEFAULT:
                    merged[metric.name] = layer["all"]
                elif metric.judged is Judged.AS_TOKENS_PER_SEC:
                    merged.pop(metric.name, None)
        merged |= layer
    merged.pop("all", None)
    return merged


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One metric compared with its baseline.

    Attributes:
        metric: Metric name.
        baseline: Geometric mean of the baseline's runs, a single stalled launch brought near the next one.
        now: The same of this session's runs.
        delta_pct: Signed change in percent of the baseline.
        allowed_pct: Tolerance: the smallest worsening that matters, percent.
        kind: PASSED, REGRESSED, IMPROVED, INCONCLUSIVE or NOT COMPARABLE for this metric alone.
        note: Explanation that the numbers don't give; may be empty.
        low_pct: Lower end of the 95% interval of delta_pct.
        high_pct: Upper end.
        resolution_pct: Smallest worsening that this baseline resolves, percent.
        noise_pct: Scatter between runs that the test used, percent: measured, shrunk towards expected_noise_pct.
        seen_noise_pct: Scatter of the runs alone, percent; None if they are too few.
        expected_noise_pct: Expected scatter of the system class, percent.
        num_baseline_runs: Launches of the baseline.
        num_runs: Launches of this session.
        anchor: Name of the anchor it is compared with; empty for the newest baseline.
        slow_steps_loss_pct: Loss with slow steps counted, percent; None unless they decided the kind.
        cause: Phases that caused the change of a whole step, with their figures; empty if unknown.
        told_with: Metric whose change has the same cause, and in whose sentence this one is told; empty if it is told
            in one of its own.
    """

    metric: str
    baseline: float
    now: float
    delta_pct: float
    allowed_pct: float
    kind: VerdictKind
    note: str = ""
    low_pct: float | None = None
    high_pct: float | None = None
    resolution_pct: float | None = None
    noise_pct: float | None = None
    seen_noise_pct: float | None = None
    expected_noise_pct: float | None = None
    num_baseline_runs: int = 0
    num_runs: int = 0
    anchor: str = ""
    slow_steps_loss_pct: float | None = None
    cause: str = ""
    told_with: str = ""

    @property
    def reference(self) -> str:
        """The other side in messages: the baseline or its anchor."""
        if self.anchor:
            return f"the anchor {self.anchor}"
        return "the baseline"


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
    for anchor, baseline_runs in sides:
        for metric in policy.judged_metrics():
            comparison = _compare(
                metric,
                baseline_runs=baseline_runs,
                runs=measurement.runs,
                policy=policy,
                anchor=anchor,
                is_once=is_once,
            )
            if comparison is None:
                continue
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
    """Return the tolerance of a loss, empty for a gain.

    It is "allowed" only beside a larger loss: a smaller one may be REGRESSED too.
    """
    loss = METRICS[comparison.metric].worsening_pct(comparison.now, baseline=comparison.baseline)
    if loss <= 0:
        return ""
    word = "allowed" if loss >= _ROUNDING * comparison.allowed_pct else "tolerance"
    return f"{word} {comparison.allowed_pct:.1f}%"


def _compare(
    metric: Metric,
    *,
    baseline_runs: Sequence[Run],
    runs: Sequence[Run],
    policy: VerdictPolicy,
    anchor: str,
    is_once: bool,
) -> Comparison | None:
    """Compare one metric; None if either side lacks it."""
    before = metric_costs(baseline_runs, metric=metric)
    after = metric_costs(runs, metric=metric)
    if not before or not after:
        return None
    allowed = policy.tolerance_pct(metric)
    rule = policy.rule(metric, runs=baseline_runs)
    rule_now = policy.rule(metric, runs=runs)
    if rule_now.noise_pct > rule.noise_pct:
        rule = rule_now
    tolerance = cost_of_loss(allowed, metric=metric)
    evidence = decide(before, after, tolerance=tolerance, rule=rule)
    usual = winsorized_mean(before, tolerance=tolerance)
    low, high = sorted([delta_pct(evidence.low, metric=metric), delta_pct(evidence.high, metric=metric)])
    comparison = Comparison(
        metric=metric.name,
        baseline=_value(usual, metric=metric),
        now=_value(usual + evidence.worsening, metric=metric),
        delta_pct=delta_pct(evidence.worsening, metric=metric),
        allowed_pct=allowed,
        kind=_kind_of(evidence, is_anchor=bool(anchor)),
        low_pct=low,
        high_pct=high,
        resolution_pct=loss_of_cost(evidence.resolution_pct / 100.0, metric=metric),
        noise_pct=evidence.noise_pct,
        seen_noise_pct=evidence.seen_noise_pct,
        expected_noise_pct=rule.noise_pct,
        num_baseline_runs=len(before),
        num_runs=len(after),
        anchor=anchor,
    )
    notes = list(_notes(comparison, evidence=evidence, before=before, metric=metric, rule=rule, is_once=is_once))
    if not anchor:
        notes.append(advice.stall_note(after, allowed_pct=allowed, metric=metric))
    return replace(comparison, note="; ".join(filter(None, notes)))


def _kind_of(evidence: SequentialResult, *, is_anchor: bool) -> VerdictKind:
    """Return the kind of one comparison.

    Anchors only detect slow decay. Undecided against one is NOT COMPARABLE if its runs are too few for the tolerance,
    and PASSED if the case is faster and a loss is ruled out.
    """
    if is_anchor and evidence.decision is Decision.UNDECIDED:
        if evidence.is_below_noise_floor:
            return VerdictKind.NOT_COMPARABLE
        if evidence.worsening < 0 and evidence.is_ruled_out:
            return VerdictKind.PASSED
    return KIND_OF[evidence.decision]


def _notes(
    comparison: Comparison,
    *,
    evidence: SequentialResult,
    before: Sequence[float],
    metric: Metric,
    rule: SequentialRule,
    is_once: bool,
) -> Iterator[str]:
    """Yield explanations and remedies for a comparison that is not clear; some may be empty."""
    allowed = comparison.allowed_pct
    word = "anchor" if comparison.anchor else "baseline"
    runs = count_text(len(before), f"{word} run")
    floor = advice.noise_floor_message(evidence, allowed_pct=allowed, metric=metric, runs=runs)
    if comparison.kind is VerdictKind.REGRESSED:
        if evidence.worsening < _ROUNDING * cost_of_loss(allowed, metric=metric):
            yield advice.certain_loss_note(evidence, allowed_pct=allowed, metric=metric)
    elif comparison.kind is VerdictKind.PASSED:
        if not comparison.anchor:
            yield advice.finer_tolerance_hint(before, evidence=evidence, allowed_pct=allowed, metric=metric, rule=rule)
    elif comparison.kind is VerdictKind.NOT_COMPARABLE:
        yield f"{floor}, so the anchor decides nothing; --update-baselines --perf-anchor=RELEASE makes another"
    elif comparison.kind is VerdictKind.INCONCLUSIVE and evidence.is_below_noise_floor:
        hint = advice.more_runs_hint(before, allowed_pct=allowed, metric=metric, rule=rule, is_once=is_once)
        yield f"{floor}; {hint}"
    elif comparison.kind is VerdictKind.INCONCLUSIVE:
        launches = f"{comparison.num_runs} of {rule.max_runs} launches"
        if is_once:
            launches = "the one run of a session"
        yield f"undecided after {launches}: 95% interval {comparison.low_pct:+.1f}% to {comparison.high_pct:+.1f}%"


def _value(cost_of_value: float, *, metric: Metric) -> float:
    """Return the metric's value with this cost; the inverse of sequential.cost."""
    if metric.direction is Direction.HIGHER:
        return math.exp(-cost_of_value)
    return math.exp(cost_of_value)
