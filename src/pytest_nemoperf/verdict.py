"""Verdicts: a measurement judged against a baseline. Pure; every number it used is in the result."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_nemoperf.bands import band_problems, has_pinned_lengths, is_rl
from pytest_nemoperf.baseline import Baseline, find_mismatches
from pytest_nemoperf.comparison import Comparison, VerdictKind, VerdictPolicy, compare_runs, describe
from pytest_nemoperf.distinct import distinct_comparisons
from pytest_nemoperf.measure import Measurement, Run, identity_problem, median_over_runs
from pytest_nemoperf.metrics import JUDGED, TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.slowsteps import find_slow_steps, mark_rates
from pytest_nemoperf.steadiness import drift_noise_pct

LOSS_REL_TOL = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The outcome of a case.

    Attributes:
        kind: Which of the seven.
        case: Case id.
        comparisons: Judged metrics; empty where there was nothing to compare with.
        reasons: Sentences that explain the kind, the most important first.
    """

    kind: VerdictKind
    case: str
    comparisons: tuple[Comparison, ...] = ()
    reasons: tuple[str, ...] = ()


def judge(
    measurement: Measurement,
    *,
    baseline: Baseline | None,
    machine: Mapping[str, str | int],
    policy: VerdictPolicy,
    looked_in: str = "",
) -> Verdict:
    """Return the verdict on a measurement; while it is INCONCLUSIVE, a further launch may decide.

    Every judged metric is compared with the newest baseline and, where there is one, with the anchor, so that slow
    decay in steps that each pass is caught.

    Args:
        measurement: This session's runs.
        baseline: What is stored for the case, or None.
        machine: Key of this machine.
        policy: What is allowed, and how often a verdict may be wrong.
        looked_in: Folder in which a baseline was looked for, for the reason that there is none.
    """
    problems = [*measurement.problems, *_identity_problems(measurement), *_impossible_values(measurement)]
    if problems or not measurement.runs:
        return _verdict(VerdictKind.INVALID, measurement, reasons=problems or ["no run was measured"])
    if baseline is None:
        where = f" in {looked_in}" if looked_in else ""
        reasons = [f"nothing is stored for this case{where}", *_restless_notes(measurement)]
        return _verdict(VerdictKind.NO_BASELINE, measurement, reasons=reasons)
    if differences := _incomparable(measurement, baseline=baseline, machine=machine):
        return _verdict(VerdictKind.NOT_COMPARABLE, measurement, reasons=differences)
    if loss := _loss_problem(measurement, baseline=baseline):
        return _verdict(VerdictKind.INVALID, measurement, reasons=[loss])
    comparisons = compare_runs(measurement, baseline=baseline, policy=policy)
    if not comparisons:
        return _verdict(VerdictKind.NOT_COMPARABLE, measurement, reasons=["the baseline has none of these metrics"])
    slow = None
    if _overall(comparisons) is not VerdictKind.REGRESSED:  # where medians say so, nothing is hidden behind them
        slow = find_slow_steps(measurement, baseline=baseline.runs, policy=policy)
    comparisons = mark_rates(comparisons, slow=slow)
    kind = _overall(comparisons)
    return Verdict(
        kind=kind,
        case=measurement.case,
        comparisons=comparisons,
        reasons=(
            *([slow.text] if slow is not None else []),
            *map(describe, [*_decisive(comparisons, kind=kind), *_left_aside(comparisons)]),
            *_passed_notes(comparisons, kind=kind),
            *missing_metrics(measurement.runs, other=baseline.runs, labels=("the baseline", "this session")),
            *_restless_notes(measurement),
            *_restless_baseline_notes(baseline),
        ),
    )


def is_same_loss(loss: float, *, expected: float) -> bool:
    """Return whether two losses at the same step are of the same computation."""
    return abs(loss - expected) <= LOSS_REL_TOL * abs(expected)


def missing_metrics(runs: Sequence[Run], *, other: Sequence[Run], labels: tuple[str, str]) -> list[str]:
    """Return a sentence for each judged metric that the other runs have and these lack.

    Args:
        runs: That are judged.
        other: What they are compared with.
        labels: Of the other runs and of these.
    """
    notes = []
    for metric in JUDGED:
        is_missing = median_over_runs(runs, metric=metric.name) is None
        if is_missing and median_over_runs(other, metric=metric.name) is not None:
            notes.append(f"{metric.label} is not judged: {labels[0]} has it, {labels[1]} lacks it")
    return notes


def _restless_notes(measurement: Measurement) -> list[str]:
    """Return how restless the machine was under this session's runs; nothing if every run has settled."""
    seen = _drifts_text(measurement.runs)
    if not seen:
        return []
    noise_pct = drift_noise_pct(run.drift_pct for run in measurement.runs)
    return [
        f"the machine was restless: its speed changed within {seen}, one way or the other from try to try, so "
        f"{noise_pct:.2g}% noise is reckoned with"
    ]


def _restless_baseline_notes(baseline: Baseline) -> list[str]:
    """Return how restless the machine was when the baseline was recorded, since every session reckons with that."""
    seen = _drifts_text(baseline.runs)
    if not seen:
        return []
    noise_pct = drift_noise_pct(run.drift_pct for run in baseline.runs)
    return [
        f"the baseline is from a restless machine: its speed changed within {seen}, so {noise_pct:.2g}% noise is "
        "reckoned with until it is recorded anew on a quiet one"
    ]


def _drifts_text(runs: Sequence[Run]) -> str:
    """Return by how much the speed changed within each run that has not settled; empty if every run has."""
    drifts_pct = {number: run.drift_pct for number, run in enumerate(runs, start=1) if run.drift_pct}
    return ", ".join(f"run {number} by {pct:+.0f}%" for number, pct in drifts_pct.items())


def _decisive(comparisons: Sequence[Comparison], *, kind: VerdictKind) -> list[Comparison]:
    """Return those that brought the verdict about; a pass needs no words."""
    return [each for each in distinct_comparisons(comparisons) if each.kind is kind is not VerdictKind.PASSED]


def _passed_notes(comparisons: Sequence[Comparison], *, kind: VerdictKind) -> list[str]:
    """Return what a pass does need words for: a tolerance finer than what the case resolves."""
    passed = distinct_comparisons(comparisons) if kind is VerdictKind.PASSED else []
    return [each.note for each in passed if each.kind is kind and each.note]


def _left_aside(comparisons: Sequence[Comparison]) -> list[Comparison]:
    return [
        each for each in distinct_comparisons(comparisons) if each.anchor and each.kind is VerdictKind.NOT_COMPARABLE
    ]


def _overall(comparisons: Sequence[Comparison]) -> VerdictKind:
    """Faster than an anchor is no news; slower than it is."""
    kinds = {comparison.kind for comparison in comparisons if not comparison.anchor}
    with_anchor = {comparison.kind for comparison in comparisons}
    for kind in (VerdictKind.REGRESSED, VerdictKind.INCONCLUSIVE):
        if kind in with_anchor:
            return kind
    return VerdictKind.IMPROVED if VerdictKind.IMPROVED in kinds else VerdictKind.PASSED


def _incomparable(measurement: Measurement, *, baseline: Baseline, machine: Mapping[str, str | int]) -> list[str]:
    """Return what the two were not alike in: machine, workload, and where lengths vary how long sequences were."""
    mismatches = find_mismatches(baseline, machine=machine, workload=measurement.workload)
    if mismatches:
        return [mismatch.text for mismatch in mismatches]
    is_pinned = has_pinned_lengths(measurement.workload)
    problems = band_problems(measurement.runs, baseline=baseline.runs, is_pinned=is_pinned)
    now, then = (
        median_over_runs(runs, metric=TOKENS_PER_SEC_PER_GPU.name) for runs in (measurement.runs, baseline.runs)
    )
    if problems and now is not None and then is not None:
        after, before = (TOKENS_PER_SEC_PER_GPU.format(value) for value in (now, then))
        problems.append(f"so {TOKENS_PER_SEC_PER_GPU.label} don't compare: {after} now, {before} in the baseline")
    return problems


def _identity_problems(measurement: Measurement) -> list[str]:
    problems = (identity_problem(run, flops_per_token=measurement.flops_per_token) for run in measurement.runs)
    return [problem for problem in problems if problem]


def _impossible_values(measurement: Measurement) -> list[str]:
    values = (
        (number, metric, run.metrics[metric.name])
        for number, run in enumerate(measurement.runs, start=1)
        for metric in JUDGED
        if metric.name in run.metrics
    )
    return [
        f"run {number}: {metric.label} is {value:g}; only positive, finite figures can be judged"
        for number, metric, value in values
        if not (math.isfinite(value) and value > 0)
    ]


def _loss_problem(measurement: Measurement, *, baseline: Baseline) -> str | None:
    """A fast wrong run must not pass: same seed and steps, so the loss must be the baseline's.

    Not in reinforcement learning: its loss is near zero by construction, and follows from which tokens were drawn.
    """
    now = measurement.runs
    before = [run.loss for run in baseline.runs if run.loss is not None and run.last_step == now[0].last_step]
    after = [run.loss for run in now if run.loss is not None]
    if is_rl(measurement.workload) or not before or not after:
        return None
    expected, worst = (
        statistics.median(before),
        max(after, key=lambda loss: abs(loss - statistics.median(before))),
    )
    if is_same_loss(worst, expected=expected):
        return None
    return (
        f"loss {worst:g} is not the baseline's {expected:g} at step {now[0].last_step} "
        f"(allowed {LOSS_REL_TOL:.0%}): the run computes something else, its speed says nothing"
    )


def _verdict(kind: VerdictKind, measurement: Measurement, *, reasons: Sequence[str]) -> Verdict:
    return Verdict(kind=kind, case=measurement.case, reasons=tuple(reasons))
