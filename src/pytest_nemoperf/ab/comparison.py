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

from pytest_nemoperf.ab.ratios import measured_ratio
from pytest_nemoperf.errors import count_text
from pytest_nemoperf.measure.measurement import Measurement, Run
from pytest_nemoperf.records.metrics import (
    FLOPS_PER_TFLOP,
    METRICS,
    PEAK_MEMORY_GIB,
    TFLOPS_PER_SEC_PER_GPU,
    TIME_PER_CALL_SEC,
    TOKENS_PER_SEC_PER_GPU,
    WHOLE_STEP,
    Direction,
    Metric,
)
from pytest_nemoperf.verdict.comparison import KIND_OF, Comparison, VerdictKind, delta_pct, describe
from pytest_nemoperf.verdict.judge import LOSS_REL_TOL, Verdict, is_same_loss, missing_metrics
from pytest_nemoperf.verdict.limits import allowed_pct, round_limits
from pytest_nemoperf.verdict.policy import VerdictPolicy
from pytest_nemoperf.verdict.rollout_bands import band_problems, has_pinned_lengths, is_rl
from pytest_nemoperf.verdict.sequential import (
    Decision,
    SequentialRule,
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
    is_by_turns: bool,
    phases: Sequence[Metric] = (),
) -> Verdict:
    """Return the verdict of the rounds so far; while it is INCONCLUSIVE, a further round may decide.

    Args:
        old: All rounds of the old side that count.
        new: All rounds of the new side that count.
        rounds: All rounds.
        policy: Tolerances and error rates.
        max_rounds: Rounds that there is time for; after the last one a test of fixed size decides.
        labels: Labels of old and new.
        is_by_turns: The sides take turns; if not, whole launches alternate.
        phases: Metrics of phases that are judged too.
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
    counted = _with_phases(counted, old=old, new=new, phases=phases)
    comparisons: list[Comparison] = []
    for metric in (*JUDGED_IN_ROUNDS, *phases):
        own = [round_ for round_ in counted if metric.name in round_.ratios]
        if own:
            comparisons.append(
                _compare(
                    metric,
                    old=old,
                    new=new,
                    rounds=own,
                    policy=policy,
                    max_rounds=max_rounds,
                    is_by_turns=is_by_turns,
                )
            )
    reasons = []
    if VerdictKind.REGRESSED not in [each.kind for each in comparisons]:
        slow = find_slow_steps(
            new,
            baseline=old.runs,
            comparisons=comparisons,
            policy=replace(policy, max_runs=max_rounds, min_runs=MIN_ROUNDS),
            other=labels[0],
        )
        if slow is not None:
            reasons.append(slow.text)
            comparisons = list(with_slow_steps(comparisons, slow=slow))
    comparisons = _without_undecided_phases(comparisons, policy=policy)
    kind = min([each.kind for each in comparisons if each.kind in _WORST_FIRST], key=_WORST_FIRST.index)
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


def _without_undecided_phases(comparisons: Sequence[Comparison], *, policy: VerdictPolicy) -> list[Comparison]:
    """Return the comparisons; phases without limits of their own that are undecided decide nothing.

    Phases scatter more than the whole step, and further rounds are for what the step itself leaves open.
    """
    decided = []
    for each in comparisons:
        if each.kind is VerdictKind.INCONCLUSIVE and policy.follows_tokens_per_sec(METRICS[each.metric]):
            decided.append(replace(each, kind=VerdictKind.NOT_COMPARABLE))
        else:
            decided.append(each)
    return decided


def _with_phases(
    counted: Sequence[ABRound], *, old: Measurement, new: Measurement, phases: Sequence[Metric]
) -> list[ABRound]:
    """Return the rounds that count with the ratios of phases, of the medians of both sides' runs."""
    rounds = []
    for round_, before, after in zip(counted, old.runs, new.runs, strict=True):
        ratios = dict(round_.ratios)
        for metric in phases:
            ratio = measured_ratio(before, after, metric=metric)
            if ratio is not None:
                ratios[metric.name] = ratio
        rounds.append(replace(round_, ratios=ratios))
    return rounds


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


def least_noise_pct(errors: Sequence[float]) -> float:
    """Return the least noise of the rounds' ratios that their own steps show, percent.

    On a machine noisier than others of its class this keeps two rounds that agree by chance from deciding.

    Args:
        errors: Standard error of each round's ratio from its own steps.
    """
    if not errors:
        return 0.0
    return 100.0 * math.sqrt(statistics.fmean(error**2 for error in errors))


def _compare(
    metric: Metric,
    *,
    old: Measurement,
    new: Measurement,
    rounds: Sequence[ABRound],
    policy: VerdictPolicy,
    max_rounds: int,
    is_by_turns: bool,
) -> Comparison:
    ratios: list[float] = []
    errors: list[float] = []
    for round_ in rounds:
        ratios.append(round_.ratios[metric.name])
        if metric is speed_metric(round_) and round_.error is not None:
            errors.append(round_.error)
    rule = policy.round_rule(
        metric, is_by_turns=is_by_turns, num_rounds=max_rounds, least_noise_pct=least_noise_pct(errors)
    )
    limits = round_limits(ratios, metric=metric, policy=policy, rule=rule)
    result = decide_ratio(
        ratios,
        tolerance=limits.allowed,
        must_find=limits.must_find,
        stall_limit=limits.stall_limit,
        rule=rule,
    )
    note = ""
    if result.decision is Decision.UNDECIDED:
        rounds_text = count_text(len(ratios), "round")
        advice = _advice(rule, most_rounds=policy.confirming_rounds or MAX_ROUNDS)
        note = f"undecided after {rounds_text} that scatter by {result.noise_pct:.1f}%, {advice}"
    before, after = metric_around_median(old.runs, new.runs, worsening=result.worsening, metric=metric)
    low, high = sorted([delta_pct(result.low, metric=metric), delta_pct(result.high, metric=metric)])
    return Comparison(
        metric=metric.name,
        baseline=before,
        now=after,
        delta_pct=delta_pct(result.worsening, metric=metric),
        allowed_pct=allowed_pct(limits, metric=metric, policy=policy),
        kind=KIND_OF[result.decision],
        note=note,
        low_pct=low,
        high_pct=high,
        finds_pct=loss_of_cost(limits.found, metric=metric),
        noise_pct=result.noise_pct,
        seen_noise_pct=result.seen_noise_pct,
        expected_noise_pct=rule.noise_pct,
        num_runs=len(ratios),
    )


def _advice(rule: SequentialRule, *, most_rounds: int) -> str:
    """Return the way to a decision: more rounds, or a larger tolerance.

    A loss between what is allowed and what is found may stay undecided in any number of rounds.

    Args:
        rule: The sequential rule, for the rounds that there is time for.
        most_rounds: Rounds that are made at most, whatever the time.
    """
    if rule.max_runs < most_rounds:
        option = "--perf-ab-limit" if most_rounds == MAX_ROUNDS else "--perf-confirm-limit"
        return (
            f"of {rule.max_runs} that there is time for: raise the limit in time ({option}) or the tolerance, "
            "or run it on a quieter machine"
        )
    if most_rounds < MAX_ROUNDS:
        return "and no more are made: raise the tolerance, run it on a quieter machine, or longer by --perf-ab"
    return "and no more are made: raise the tolerance, or run it on a quieter machine"


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
