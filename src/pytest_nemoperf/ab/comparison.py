"""Verdict on two versions of the code, from rounds of both. Pure.

A round gives one number per metric: the logarithm of new over old. Each round launches both sides anew, so that the
scatter of rounds includes all differences between launches, and the sequential test may treat rounds as independent;
steps within a round are not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.measure.measurement import Measurement, Run
from pytest_nemoperf.records.metrics import (
    FLOPS_PER_TFLOP,
    PEAK_MEMORY_GIB,
    TFLOPS_PER_SEC_PER_GPU,
    TIME_PER_CALL_SEC,
    TOKENS_PER_SEC_PER_GPU,
    WHOLE_STEP,
    Direction,
    Metric,
)
from pytest_nemoperf.verdict.comparison import KIND_OF, Comparison, VerdictKind, VerdictPolicy, delta_pct, describe
from pytest_nemoperf.verdict.judge import LOSS_REL_TOL, Verdict, is_same_loss, missing_metrics
from pytest_nemoperf.verdict.rollout_bands import band_problems, has_pinned_lengths, is_rl
from pytest_nemoperf.verdict.sequential import (
    Decision,
    SequentialResult,
    SequentialRule,
    cost_of_loss,
    decide_ratio,
    loss_of_cost,
)
from pytest_nemoperf.verdict.slow_steps import find_slow_steps, with_slow_steps

MIN_ROUNDS: Final = 2
"""A single round has no scatter and can't decide."""
MAX_ROUNDS: Final = 100
"""Each look at the data uses a part of the error rates; beyond this many that outweighs the gain of another round."""
JUDGED_IN_ROUNDS: Final = (TOKENS_PER_SEC_PER_GPU, TIME_PER_CALL_SEC, PEAK_MEMORY_GIB)
"""Without TFLOP/s/GPU, which follow from tokens/s: both sides run one plan."""
_WORST_FIRST = (VerdictKind.REGRESSED, VerdictKind.INCONCLUSIVE, VerdictKind.IMPROVED, VerdictKind.PASSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ABRound:
    """Result of one round.

    Attributes:
        first: The side that began.
        ratios: Logarithm of the cost of new over that of old, by metric name: positive is worse.
        error: Standard error of the ratio of speed_metric from the round's own steps; None if not known.
        left_out: Reason that it does not count; empty if it does.
    """

    first: str
    ratios: Mapping[str, float]
    error: float | None = None
    left_out: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ABResult:
    """Comparison of two versions of the code, as the results file keeps it.

    Attributes:
        revision: The other version as named on the command line.
        old: Label of the other version's side.
        new: Label of the working tree's side.
        method: ``turns`` of a few steps, or whole ``launches``.
        why_launches: Reason for launches; empty for turns.
        block_steps: Steps of a block of a turn; 0 for launches.
        seed: Seed of the order of the sides.
        rounds: Rounds in the order they ran.
        old_measurement: Measurement of the old side; the case's own measurement is the new side's.
        duration_sec: Duration of all rounds.
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


def speed_metric(round_: ABRound) -> Metric:
    """Return the metric of a round that tells its speed: tokens/sec/GPU, or for a benchmark test the time per call."""
    if TIME_PER_CALL_SEC.name in round_.ratios:
        return TIME_PER_CALL_SEC
    return TOKENS_PER_SEC_PER_GPU


def _work_problems(old: Measurement, new: Measurement, *, labels: tuple[str, str]) -> tuple[VerdictKind, list[str]]:
    """Return the verdict on the work of two sides and its reasons; PASSED without any if their speeds compare.

    Args:
        old: All rounds of the old side.
        new: All rounds of the new side.
        labels: Labels of old and new.
    """
    problems: list[str] = []
    for label, side in zip(labels, (old, new), strict=True):
        problems += [f"{label}: {problem}" for problem in side.problems]
    if problems:
        return VerdictKind.INVALID, problems
    is_pinned = has_pinned_lengths(new.workload)
    if problems := band_problems(new.runs, baseline=old.runs, is_pinned=is_pinned):
        return VerdictKind.NOT_COMPARABLE, problems
    if is_rl(new.workload):  # its loss is no check, see verdict
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
        policy: Tolerances and error rates.
        max_rounds: Rounds that there is time for; after the last one a test of fixed size decides.
        labels: Labels of old and new.
    """
    kind, problems = _work_problems(old, new, labels=labels)
    if problems:
        return Verdict(kind=kind, case=new.case, reasons=tuple(problems))
    counted: list[ABRound] = []
    left_out: list[str] = []
    for round_ in rounds:
        if not round_.left_out:
            counted.append(round_)
        elif round_.left_out not in left_out:
            left_out.append(round_.left_out)
    if not counted:
        reasons = left_out or ["no round was run"]
        return Verdict(kind=VerdictKind.INCONCLUSIVE, case=new.case, reasons=tuple(reasons))
    comparisons: list[Comparison] = []
    for metric in JUDGED_IN_ROUNDS:
        own = [round_ for round_ in counted if metric.name in round_.ratios]
        if own:
            comparisons.append(_compare(metric, old=old, new=new, rounds=own, policy=policy, max_rounds=max_rounds))
    reasons = []
    if VerdictKind.REGRESSED not in [each.kind for each in comparisons]:
        slow = find_slow_steps(new, baseline=old.runs, policy=replace(policy, max_runs=max_rounds), other=labels[0])
        if slow is not None:
            reasons.append(slow.text)
            comparisons = list(with_slow_steps(comparisons, slow=slow))
    kind = min([each.kind for each in comparisons], key=_WORST_FIRST.index)
    if kind is not VerdictKind.PASSED:
        for each in comparisons:
            if each.kind is kind:
                reasons.append(describe(each, other=labels[0], evidence=_interval_text(each)))
    reasons += missing_metrics(new.runs, other=old.runs, labels=labels, metrics=WHOLE_STEP)
    return Verdict(
        kind=kind,
        case=new.case,
        comparisons=(*comparisons, *_tflops(comparisons, new=new)),
        reasons=tuple(reasons),
    )


def metric_around_median(
    old: Sequence[Run], new: Sequence[Run], *, worsening: float, metric: Metric
) -> tuple[float, float]:
    """Return a metric of old and of new that differ by the ratio, around the median of all rounds.

    If the machine's speed changes, the two sides' own means can differ by more than neighbouring steps do. Rounds that
    stalled don't move a median.

    Args:
        old: Runs of the old side, one per round.
        new: Runs of the new side in the same rounds.
        worsening: Logarithm of the cost of new over that of old.
        metric: The metric.
    """
    half = worsening / 2.0
    if metric.direction is Direction.HIGHER:
        half = -half
    means: list[float] = []  # geometric, of both sides of a round
    for before, after in zip(old, new, strict=True):
        if metric.name in before.metrics and metric.name in after.metrics:
            means.append(math.sqrt(before.metrics[metric.name] * after.metrics[metric.name]))
    middle = statistics.median(means)
    return middle / math.exp(half), middle * math.exp(half)


def rule_of(
    noise_pct: float, *, alpha: float, beta: float, max_rounds: int, errors: Sequence[float] = ()
) -> SequentialRule:
    """Return the rule for the ratios of rounds.

    The noise assumed is at least the standard error that the rounds' own steps show. On a machine noisier than others
    of its class this keeps two rounds that agree by chance from deciding.

    Args:
        noise_pct: Expected scatter between launches of each side, percent.
        alpha: Probability to call a harmless case worse.
        beta: Probability to pass a loss as large as the tolerance.
        max_rounds: Rounds that there is time for.
        errors: Standard error of each round's ratio from its own steps.
    """
    expected = math.sqrt(2.0) * noise_pct
    seen = 0.0
    if errors:
        seen = 100.0 * math.sqrt(statistics.fmean(error**2 for error in errors))
    return SequentialRule(noise_pct=max(expected, seen), alpha=alpha, beta=beta, max_runs=max_rounds)


def _compare(
    metric: Metric,
    *,
    old: Measurement,
    new: Measurement,
    rounds: Sequence[ABRound],
    policy: VerdictPolicy,
    max_rounds: int,
) -> Comparison:
    ratios: list[float] = []
    errors: list[float] = []
    for round_ in rounds:
        ratios.append(round_.ratios[metric.name])
        if metric is speed_metric(round_) and round_.error is not None:
            errors.append(round_.error)
    allowed = policy.tolerances[metric.name]
    tolerance = cost_of_loss(allowed, metric=metric)
    expected = policy.rule(metric, runs=())
    rule = rule_of(expected.noise_pct, alpha=policy.alpha, beta=policy.beta, max_rounds=max_rounds, errors=errors)
    result = decide_ratio(ratios, tolerance=tolerance, rule=rule)
    note = ""
    if result.decision is Decision.UNDECIDED:
        advice = _advice(result, metric=metric, tolerance=tolerance, rule=rule)
        note = f"undecided after {count_text(len(ratios), 'round')} that scatter by {result.noise_pct:.1f}%; {advice}"
    before, after = metric_around_median(old.runs, new.runs, worsening=result.worsening, metric=metric)
    low, high = sorted([delta_pct(result.low, metric=metric), delta_pct(result.high, metric=metric)])
    return Comparison(
        metric=metric.name,
        baseline=before,
        now=after,
        delta_pct=delta_pct(result.worsening, metric=metric),
        allowed_pct=allowed,
        kind=KIND_OF[result.decision],
        note=note,
        low_pct=low,
        high_pct=high,
        resolution_pct=loss_of_cost(result.resolution_pct / 100.0, metric=metric),
        noise_pct=result.noise_pct,
        seen_noise_pct=result.seen_noise_pct,
        expected_noise_pct=rule.noise_pct,
        num_runs=len(ratios),
    )


def _advice(result: SequentialResult, *, metric: Metric, tolerance: float, rule: SequentialRule) -> str:
    """Return the way to a decision: more rounds, or a larger tolerance if more than MAX_ROUNDS were needed."""
    resolved = result.resolution_pct / 100.0  # shrinks with the square root of the number of rounds
    needed = max(rule.max_runs + 1, math.ceil(rule.max_runs * (resolved / tolerance) ** 2))
    if needed <= MAX_ROUNDS:
        return f"about {needed} would decide: raise --perf-ab-limit or the tolerance, or run it on a quieter machine"
    decidable: list[str] = []
    for num_rounds in sorted({rule.max_runs, MAX_ROUNDS}):
        cost = resolved * math.sqrt(rule.max_runs / num_rounds)
        least_pct = math.ceil(10.0 * loss_of_cost(cost, metric=metric)) / 10.0
        decidable.append(f"{least_pct:g}% on in {num_rounds} rounds")
    return (
        f"tolerances would be decided from about {' and from '.join(decidable)}, and no more are made: raise the "
        "tolerance, or run it on a quieter machine"
    )


def _tflops(comparisons: Sequence[Comparison], *, new: Measurement) -> list[Comparison]:
    """Return TFLOP/s/GPU, computed from the tokens/s of the same steps; none if FLOPs are not known."""
    if new.flops_per_token is None:
        return []
    factor = new.flops_per_token / FLOPS_PER_TFLOP
    tflops: list[Comparison] = []
    for tokens in comparisons:
        if tokens.metric == TOKENS_PER_SEC_PER_GPU.name:
            baseline = factor * tokens.baseline
            now = factor * tokens.now
            tflops.append(replace(tokens, metric=TFLOPS_PER_SEC_PER_GPU.name, baseline=baseline, now=now))
    return tflops


def _interval_text(comparison: Comparison) -> str:
    interval = f"{comparison.low_pct:+.1f}% to {comparison.high_pct:+.1f}%"
    return f"95% interval {interval} from {count_text(comparison.num_runs, 'round')}"
