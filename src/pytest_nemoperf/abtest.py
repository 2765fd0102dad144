"""Judge two versions of the code by rounds in which both ran: step times to ratios, ratios to a verdict. Pure.

A round gives one number for each metric: the logarithm of new over old. Rounds are launches of their own, so their
scatter holds whatever differs from launch to launch, and the sequential test of sequential.py may take them for
independent; steps within a round may not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from pytest_nemoperf.bands import band_problems, has_pinned_lengths, is_rl
from pytest_nemoperf.comparison import KIND_OF, Comparison, VerdictKind, VerdictPolicy, delta_pct, describe
from pytest_nemoperf.measure import FLOPS_PER_TFLOP, Measurement, Run
from pytest_nemoperf.metrics import (
    PEAK_MEMORY_GIB,
    TFLOPS_PER_SEC_PER_GPU,
    TOKENS_PER_SEC_PER_GPU,
    Direction,
    Metric,
)
from pytest_nemoperf.plurals import count_text
from pytest_nemoperf.sequential import (
    Decision,
    SequentialResult,
    SequentialRule,
    cost_of_loss,
    decide_ratio,
    loss_of_cost,
)
from pytest_nemoperf.slowsteps import find_slow_steps, mark_rates
from pytest_nemoperf.verdict import LOSS_REL_TOL, Verdict, is_same_loss, missing_metrics

MIN_ROUNDS: Final = 2
"""One shows no scatter, and decides nothing."""
MAX_ROUNDS: Final = 100
"""To look more often would cost more sureness at each look than further short rounds bring."""
JUDGED_IN_ROUNDS: Final = (TOKENS_PER_SEC_PER_GPU, PEAK_MEMORY_GIB)
"""Both sides run one plan, so TFLOP/s/GPU follow from tokens/s, and would only say the same again."""
_WORST_FIRST = (VerdictKind.REGRESSED, VerdictKind.INCONCLUSIVE, VerdictKind.IMPROVED, VerdictKind.PASSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ABRound:
    """What one round said.

    Attributes:
        first: The side that began.
        ratios: Logarithm of what new costs over what old costs by metric name: positive is worse.
        error: Standard error of the ratio of tokens/sec/GPU as far as the round's own steps tell; None if not known.
        left_out: Why it does not count; empty if it does.
    """

    first: str
    ratios: Mapping[str, float]
    error: float | None = None
    left_out: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ABResult:
    """How two versions of the code were compared, as the results file keeps it.

    Attributes:
        revision: The other version as it was asked for.
        old: Label of that side.
        new: Label of the working tree's side.
        method: ``turns`` of a few steps, or whole ``launches``.
        why_launches: Why not turns; empty for turns.
        block_steps: Steps of a block of a turn; 0 for launches.
        seed: Of the order of the sides.
        rounds: In the order they ran.
        old_measurement: What was measured of the old side; the case's own measurement is the new side's.
        duration_sec: What all rounds took.
    """

    revision: str
    old: str
    new: str
    method: Literal["turns", "launches"]
    why_launches: str
    block_steps: int
    seed: int
    rounds: tuple[ABRound, ...]
    old_measurement: Measurement
    duration_sec: float


def work_problems(old: Measurement, new: Measurement, *, labels: tuple[str, str]) -> tuple[VerdictKind, list[str]]:
    """Return why the two sides' speeds say nothing of each other, and which verdict that is.

    Args:
        old: All rounds of the old side.
        new: All rounds of the new side.
        labels: Of old and new.
    """
    problems = [
        f"{label}: {problem}" for label, side in zip(labels, (old, new), strict=True) for problem in side.problems
    ]
    if problems:
        return VerdictKind.INVALID, problems
    is_pinned = has_pinned_lengths(new.workload)
    if problems := band_problems(new.runs, baseline=old.runs, is_pinned=is_pinned):
        return VerdictKind.NOT_COMPARABLE, problems
    if is_rl(new.workload):  # its loss says nothing, see verdict
        return VerdictKind.PASSED, []
    for before, after in zip(old.runs, new.runs, strict=True):
        if before.loss is None or after.loss is None or is_same_loss(before.loss, expected=after.loss):
            continue
        return VerdictKind.INVALID, [
            f"loss {after.loss:g} of {labels[1]} is not {labels[0]}'s {before.loss:g} at step {after.last_step} "
            f"(allowed {LOSS_REL_TOL:.0%}): the two compute different things, their speeds say nothing of each other"
        ]
    return VerdictKind.PASSED, []


def judge_rounds(
    old: Measurement,
    new: Measurement,
    *,
    rounds: Sequence[ABRound],
    policy: VerdictPolicy,
    max_rounds: int,
    labels: tuple[str, str],
) -> Verdict:
    """Return the verdict of the rounds so far; while it is INCONCLUSIVE, a further round may decide.

    Args:
        old: All rounds of the old side that count.
        new: All rounds of the new side that count.
        rounds: All rounds.
        policy: What is allowed, and how often a verdict may be wrong.
        max_rounds: Rounds that there is time for; at the last one a test of fixed size closes.
        labels: Of old and new.
    """
    kind, problems = work_problems(old, new, labels=labels)
    if problems:
        return Verdict(kind=kind, case=new.case, reasons=tuple(problems))
    counted = [round_ for round_ in rounds if not round_.left_out]
    if not counted:
        reasons = tuple(dict.fromkeys(round_.left_out for round_ in rounds)) or ("no round was run",)
        return Verdict(kind=VerdictKind.INCONCLUSIVE, case=new.case, reasons=reasons)
    comparisons: Sequence[Comparison] = [
        _compare(metric, old=old, new=new, rounds=own, policy=policy, max_rounds=max_rounds)
        for metric in JUDGED_IN_ROUNDS
        if (own := [round_ for round_ in counted if metric.name in round_.ratios])
    ]
    slow = None
    if all(comparison.kind is not VerdictKind.REGRESSED for comparison in comparisons):
        slow_terms = replace(policy, max_runs=max_rounds)
        slow = find_slow_steps(new, baseline=old.runs, policy=slow_terms, other=labels[0])
    comparisons = mark_rates(comparisons, slow=slow)
    kind = min((comparison.kind for comparison in comparisons), key=_WORST_FIRST.index)
    reasons = tuple(
        describe(comparison, other=labels[0], evidence=_interval_text(comparison))
        for comparison in comparisons
        if comparison.kind is kind
    )
    return Verdict(
        kind=kind,
        case=new.case,
        comparisons=(*comparisons, *_tflops(comparisons, new=new)),
        reasons=(
            *([slow.text] if slow is not None else []),
            *(reasons if kind is not VerdictKind.PASSED else ()),
            *missing_metrics(new.runs, other=old.runs, labels=labels),
        ),
    )


def metric_around_median(
    old: Sequence[Run], new: Sequence[Run], *, worsening: float, metric: Metric
) -> tuple[float, float]:
    """Return a metric of old and of new: apart by the ratio, around the median round of both together.

    Where the machine's speed changes, the two sides' own means are further apart than neighbouring steps. Rounds that
    stalled don't move a median.

    Args:
        old: Of the old side, one a round.
        new: Of the new side, in the same rounds.
        worsening: Logarithm of what new costs over what old costs.
        metric: Which.
    """
    half = (-0.5 if metric.direction is Direction.HIGHER else 0.5) * worsening
    both = [(before.metrics, after.metrics) for before, after in zip(old, new, strict=True)]
    middle = statistics.median(
        math.sqrt(before[metric.name] * after[metric.name])
        for before, after in both
        if metric.name in before and metric.name in after
    )
    return middle / math.exp(half), middle * math.exp(half)


def rule_of(
    noise_pct: float, *, alpha: float, beta: float, max_rounds: int, errors: Sequence[float] = ()
) -> SequentialRule:
    """Return the rule for the ratios of rounds.

    Rounds scatter at least as much as their own steps say. On a machine that is noisier than its class this is known
    after the first round, and two rounds that happen to agree convince nobody.

    Args:
        noise_pct: Scatter between launches to expect of each side, percent.
        alpha: Probability to call a harmless case worse.
        beta: Probability to pass a loss as large as the tolerance.
        max_rounds: Rounds that there is time for.
        errors: Standard error of each round's ratio as its own steps tell it.
    """
    expected = math.sqrt(2.0) * noise_pct
    seen = 100.0 * math.sqrt(statistics.fmean(error**2 for error in errors)) if errors else 0.0
    return SequentialRule(noise_pct=max(expected, seen), alpha=alpha, beta=beta, max_runs=max_rounds)


def rounds_to_decide(evidence: SequentialResult, *, tolerance: float, rule: SequentialRule) -> int:
    """Return about how many rounds would tell a loss as large as the tolerance from none, at the noise seen so far."""
    resolved = evidence.resolution_pct / 100.0
    return max(rule.max_runs + 1, math.ceil(rule.max_runs * (resolved / tolerance) ** 2))


def least_decidable_pct(evidence: SequentialResult, *, num_rounds: int, metric: Metric, rule: SequentialRule) -> float:
    """Return about the smallest tolerance in percent, rounded up, that so many rounds would decide."""
    resolved = evidence.resolution_pct / 100.0 * math.sqrt(rule.max_runs / num_rounds)
    return math.ceil(10.0 * loss_of_cost(resolved, metric=metric)) / 10.0


def _compare(
    metric: Metric,
    *,
    old: Measurement,
    new: Measurement,
    rounds: Sequence[ABRound],
    policy: VerdictPolicy,
    max_rounds: int,
) -> Comparison:
    ratios = [round_.ratios[metric.name] for round_ in rounds]
    is_timed = metric is TOKENS_PER_SEC_PER_GPU
    errors = [round_.error for round_ in rounds if round_.error is not None and is_timed]
    allowed = policy.tolerances[metric.name]
    tolerance = cost_of_loss(allowed, metric=metric)
    expected = policy.rule(metric, runs=())
    rule = rule_of(expected.noise_pct, alpha=policy.alpha, beta=policy.beta, max_rounds=max_rounds, errors=errors)
    evidence = decide_ratio(ratios, tolerance=tolerance, rule=rule)
    note = ""
    if evidence.decision is Decision.UNDECIDED:
        advice = _advice(evidence, metric=metric, tolerance=tolerance, rule=rule)
        note = f"undecided after {count_text(len(ratios), 'round')} that scatter by {evidence.noise_pct:.1f}%; {advice}"
    before, after = metric_around_median(old.runs, new.runs, worsening=evidence.worsening, metric=metric)
    low, high = sorted(delta_pct(end, metric=metric) for end in (evidence.low, evidence.high))
    return Comparison(
        metric=metric.name,
        baseline=before,
        now=after,
        delta_pct=delta_pct(evidence.worsening, metric=metric),
        allowed_pct=allowed,
        kind=KIND_OF[evidence.decision],
        note=note,
        low_pct=low,
        high_pct=high,
        resolution_pct=loss_of_cost(evidence.resolution_pct / 100.0, metric=metric),
        noise_pct=evidence.noise_pct,
        seen_noise_pct=evidence.seen_noise_pct,
        expected_noise_pct=rule.noise_pct,
        num_runs=len(ratios),
    )


def _advice(evidence: SequentialResult, *, metric: Metric, tolerance: float, rule: SequentialRule) -> str:
    """Return what would decide a case: more rounds, where there may be so many, or a larger tolerance."""
    needed = rounds_to_decide(evidence, tolerance=tolerance, rule=rule)
    if needed <= MAX_ROUNDS:
        return f"about {needed} would decide: raise --perf-ab-limit or the tolerance, or run it on a quieter machine"
    decidable = [
        f"{least_decidable_pct(evidence, num_rounds=number, metric=metric, rule=rule):g}% on in {number} rounds"
        for number in sorted({rule.max_runs, MAX_ROUNDS})
    ]
    return (
        f"tolerances would be decided from about {' and from '.join(decidable)}, and no more are made: raise the "
        "tolerance, or run it on a quieter machine"
    )


def _tflops(comparisons: Sequence[Comparison], *, new: Measurement) -> list[Comparison]:
    """Return TFLOP/s/GPU as tokens/s make it: no report shows the two of different steps; none without FLOPs."""
    if new.flops_per_token is None:
        return []
    factor = new.flops_per_token / FLOPS_PER_TFLOP
    return [
        replace(each, metric=TFLOPS_PER_SEC_PER_GPU.name, baseline=factor * each.baseline, now=factor * each.now)
        for each in comparisons
        if each.metric == TOKENS_PER_SEC_PER_GPU.name
    ]


def _interval_text(comparison: Comparison) -> str:
    interval = f"{comparison.low_pct:+.1f}% to {comparison.high_pct:+.1f}%"
    return f"95% interval {interval} from {count_text(comparison.num_runs, 'round')}"
