"""One metric beside its baseline: what changed, how sure that is, and what the case can resolve."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from pytest_nemoperf import remarks
from pytest_nemoperf.baseline import Baseline, counts_flops_alike
from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.measure import Measurement, Run
from pytest_nemoperf.metrics import (
    JUDGED,
    METRICS,
    PEAK_MEMORY_GIB,
    TFLOPS_PER_SEC_PER_GPU,
    Direction,
    Metric,
)
from pytest_nemoperf.plurals import count_text
from pytest_nemoperf.recipe import check_tolerances
from pytest_nemoperf.sequential import (
    Decision,
    SequentialResult,
    SequentialRule,
    cost,
    cost_of_loss,
    decide,
    loss_of_cost,
    usual_cost,
)
from pytest_nemoperf.steadiness import drift_noise_pct
from pytest_nemoperf.systems import System
from pytest_nemoperf.workloads import is_in_process


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

_ROUNDED = 1.0 - 1e-9
KIND_OF: Final[Mapping[Decision, VerdictKind]] = {
    Decision.SAME: VerdictKind.PASSED,
    Decision.WORSE: VerdictKind.REGRESSED,
    Decision.BETTER: VerdictKind.IMPROVED,
    Decision.UNDECIDED: VerdictKind.INCONCLUSIVE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictPolicy:
    """What a verdict allows, and how often it may be wrong.

    Attributes:
        tolerances: The smallest worsening that matters in percent for every judged metric, by name.
        run_noise_pct: Expected scatter of rates and times between launches, percent; of the system class.
        memory_noise_pct: The same of peak memory.
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

    def rule(self, metric: Metric, *, runs: Sequence[Run]) -> SequentialRule:
        """Return the rule by which runs are judged in a metric; a restless machine under them widens its noise."""
        if metric is PEAK_MEMORY_GIB:
            noise_pct = self.memory_noise_pct
        else:
            noise_pct = max(self.run_noise_pct, drift_noise_pct(run.drift_pct for run in runs))
        return SequentialRule(noise_pct=noise_pct, alpha=self.alpha, beta=self.beta, max_runs=self.max_runs)


def parse_tolerances(texts: Sequence[str], *, subject: str) -> dict[str, float]:
    """Return tolerances in percent by metric name from ``[METRIC=]PCT``; ``all`` where no metric is named.

    Raises:
        RecipeError: If a text is none, a metric is not judged, or a percentage is not within (0, 100).
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
    """Return the tolerances of a system's judged metrics where nobody says otherwise."""
    return {
        metric.name: system.memory_tolerance_pct if metric is PEAK_MEMORY_GIB else system.tolerance_pct
        for metric in JUDGED
    }


def merge_tolerances(layers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return one tolerance per judged metric; later layers win, and ``all`` in a layer stands for every metric."""
    merged: dict[str, float] = {}
    for layer in layers:
        if "all" in layer:
            merged |= {metric.name: layer["all"] for metric in JUDGED}
        merged |= {name: percent for name, percent in layer.items() if name != "all"}
    return merged


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One metric beside its baseline.

    Attributes:
        metric: Metric name.
        baseline: What the baseline's runs stand for: their geometric mean, a single stalled launch left aside.
        now: The same of this session's runs.
        delta_pct: Signed change in percent of the baseline.
        allowed_pct: The tolerance: the smallest worsening that matters, percent.
        kind: PASSED, REGRESSED, IMPROVED, INCONCLUSIVE or NOT COMPARABLE for this metric alone.
        note: Why, where the numbers don't say it.
        low_pct: Lower end of the 95% interval of delta_pct.
        high_pct: Upper end.
        resolution_pct: The smallest worsening that this baseline resolves, percent.
        noise_pct: Scatter between runs that was reckoned with, percent: that of the runs, shrunk towards expected_pct.
        seen_noise_pct: Scatter between the runs themselves; None where there are too few.
        expected_noise_pct: What the system class is expected to scatter.
        num_baseline_runs: Launches of the baseline.
        num_runs: Launches of this session.
        anchor: Name of the older baseline this is judged against; empty for the newest.
        slow_steps_loss_pct: Loss with slow steps counted, where they decided the kind, percent.
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


def compare_runs(measurement: Measurement, *, baseline: Baseline, policy: VerdictPolicy) -> tuple[Comparison, ...]:
    """Return every judged metric beside the newest baseline, then beside the anchor where there is one.

    Args:
        measurement: This session's runs.
        baseline: What is stored.
        policy: What is allowed.
    """
    is_once = is_in_process(measurement.workload)
    sides = [("", baseline.runs)]
    if baseline.anchor is not None:
        sides.append((baseline.anchor.name, baseline.anchor.runs))
    has_same_flops = counts_flops_alike(measurement, other=baseline)
    return tuple(
        comparison if has_same_flops or metric is not TFLOPS_PER_SEC_PER_GPU else _other_flops(comparison)
        for name, runs in sides
        for metric in JUDGED
        if (
            comparison := _compare(metric, then=runs, now=measurement.runs, policy=policy, anchor=name, is_once=is_once)
        )
    )


def metric_costs(runs: Sequence[Run], *, metric: Metric) -> list[float]:
    """Return the logarithm of what each run costs in a metric; runs without it are left out."""
    return [cost(run.metrics[metric.name], metric=metric) for run in runs if metric.name in run.metrics]


def delta_pct(worsening: float, *, metric: Metric) -> float:
    """Return the signed change in percent that a difference of logarithms of costs makes in a metric's value."""
    loss = loss_of_cost(worsening, metric=metric)
    return -loss if metric.direction is Direction.HIGHER else loss


def describe(comparison: Comparison, *, other: str = "", evidence: str = "") -> str:
    """Return the sentence that says what one metric did, e.g. how far it is below the baseline.

    Args:
        comparison: Of the metric.
        other: What it is compared with; empty for the baseline or its anchor.
        evidence: What else is said of the numbers; empty for nothing.
    """
    metric = METRICS[comparison.metric]
    side = "below" if comparison.delta_pct < 0 else "above"
    other = other or (f"the anchor {comparison.anchor}" if comparison.anchor else "the baseline")
    numbers = f"{metric.format(comparison.now)} against {metric.format(comparison.baseline)}"
    facts = "; ".join(filter(None, [numbers, _limit_text(comparison), evidence]))
    sentence = f"{metric.label} is {abs(comparison.delta_pct):.1f}% {side} {other} ({facts})"
    return f"{sentence}; {comparison.note}" if comparison.note else sentence


def _limit_text(comparison: Comparison) -> str:
    """Return the tolerance, as what is allowed only where more was lost: less may be REGRESSED. A gain has none."""
    loss = METRICS[comparison.metric].worsening_pct(comparison.now, baseline=comparison.baseline)
    if loss <= 0:
        return ""
    return f"{'allowed' if loss >= _ROUNDED * comparison.allowed_pct else 'tolerance'} {comparison.allowed_pct:.1f}%"


def _compare(
    metric: Metric, *, then: Sequence[Run], now: Sequence[Run], policy: VerdictPolicy, anchor: str, is_once: bool
) -> Comparison | None:
    before, after = metric_costs(then, metric=metric), metric_costs(now, metric=metric)
    if not before or not after:
        return None
    allowed = policy.tolerances[metric.name]
    rule = max((policy.rule(metric, runs=runs) for runs in (then, now)), key=lambda each: each.noise_pct)
    tolerance = cost_of_loss(allowed, metric=metric)
    evidence = decide(before, after, tolerance=tolerance, rule=rule)
    usual = usual_cost(before, tolerance=tolerance)
    low, high = sorted(delta_pct(end, metric=metric) for end in (evidence.low, evidence.high))
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
    notes = _notes(comparison, evidence=evidence, before=before, metric=metric, rule=rule, is_once=is_once)
    stalled = "" if anchor else remarks.stall_note(after, allowed_pct=allowed, metric=metric)
    return replace(comparison, note="; ".join(filter(None, [*notes, stalled])))


def _kind_of(evidence: SequentialResult, *, is_anchor: bool) -> VerdictKind:
    """An anchor is there to catch decay: faster than it is no news, and one that can't tell is left aside."""
    if is_anchor and evidence.decision is Decision.UNDECIDED:
        if evidence.is_refused:
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
    """Yield what an engineer can do about a comparison that is not clear."""
    allowed = comparison.allowed_pct
    is_within = evidence.worsening < _ROUNDED * cost_of_loss(allowed, metric=metric)
    if comparison.kind is VerdictKind.REGRESSED and is_within:
        yield remarks.certain_loss_note(evidence, allowed_pct=allowed, metric=metric)
    if comparison.kind is VerdictKind.PASSED and not comparison.anchor:
        yield remarks.finer_tolerance_hint(before, evidence=evidence, allowed_pct=allowed, metric=metric, rule=rule)
    word = "anchor" if comparison.anchor else "baseline"
    runs = count_text(len(before), f"{word} run")
    floor = remarks.noise_floor_message(evidence, allowed_pct=allowed, metric=metric, runs=runs)
    if comparison.kind is VerdictKind.NOT_COMPARABLE:
        yield f"{floor}, so the anchor decides nothing; --update-baselines --perf-anchor=RELEASE makes another"
    if comparison.kind is not VerdictKind.INCONCLUSIVE:
        return
    if not evidence.is_refused:
        launches = "the one run of a session" if is_once else f"{comparison.num_runs} of {rule.max_runs} launches"
        yield f"undecided after {launches}: 95% interval {comparison.low_pct:+.1f}% to {comparison.high_pct:+.1f}%"
        return
    yield f"{floor}; {remarks.more_runs_hint(before, allowed_pct=allowed, metric=metric, rule=rule, is_once=is_once)}"


def _other_flops(comparison: Comparison) -> Comparison:
    return replace(comparison, kind=VerdictKind.NOT_COMPARABLE, note="FLOPs are counted otherwise in the baseline")


def _value(cost_of_value: float, *, metric: Metric) -> float:
    """Return the metric's value that costs so much."""
    return math.exp(-cost_of_value if metric.direction is Direction.HIGHER else cost_of_value)
