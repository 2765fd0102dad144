"""Verdicts: a measurement judged against a baseline. Pure; every number it used is in the result."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pytest_nemoperf.bands import band_problems, has_pinned_lengths
from pytest_nemoperf.baseline import Baseline
from pytest_nemoperf.measure import Measurement, Run, identity_problem, median_over_runs
from pytest_nemoperf.metrics import JUDGED, METRICS, TFLOPS_PER_SEC_PER_GPU, TOKENS_PER_SEC_PER_GPU, Metric

LOSS_REL_TOL = 0.02
_MIN_RUNS_TO_SEE_NOISE = 2
_MIN_RUNS_TO_TRIM = 5


class VerdictKind(StrEnum):
    """The seven ends of a case."""

    PASSED = "PASSED"
    REGRESSED = "REGRESSED"
    IMPROVED = "IMPROVED"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID = "INVALID"
    NOT_COMPARABLE = "NOT COMPARABLE"
    NO_BASELINE = "NO BASELINE"


FAILING_BY_DEFAULT = frozenset({VerdictKind.REGRESSED, VerdictKind.INVALID})


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One metric beside its baseline.

    Attributes:
        metric: Metric name.
        baseline: Median over the baseline's runs.
        now: Median over this session's runs.
        delta_pct: Signed change in percent of the baseline.
        allowed_pct: Worsening in percent that still passes.
        kind: PASSED, REGRESSED, IMPROVED, INCONCLUSIVE or NOT COMPARABLE for this metric alone.
        note: Why, where the numbers don't say it.
    """

    metric: str
    baseline: float
    now: float
    delta_pct: float
    allowed_pct: float
    kind: VerdictKind
    note: str = ""


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
    tolerances: Mapping[str, float],
) -> Verdict:
    """Return the verdict on a measurement.

    Args:
        measurement: This session's runs.
        baseline: What is stored for the case, or None.
        machine: Key of this machine.
        tolerances: Allowed worsening in percent for every judged metric, by name.
    """
    problems = [*measurement.problems, *_identity_problems(measurement)]
    if problems or not measurement.runs:
        return _verdict(VerdictKind.INVALID, measurement, reasons=problems or ["no run was measured"])
    if baseline is None:
        return _verdict(VerdictKind.NO_BASELINE, measurement, reasons=["nothing is stored for this case"])
    if differences := _incomparable(measurement, baseline=baseline, machine=machine):
        return _verdict(VerdictKind.NOT_COMPARABLE, measurement, reasons=differences)
    if loss := _loss_problem(measurement, baseline=baseline):
        return _verdict(VerdictKind.INVALID, measurement, reasons=[loss])
    comparisons = tuple(
        comparison
        for metric in JUDGED
        if (comparison := _compare(metric, measurement=measurement, baseline=baseline, tolerances=tolerances))
    )
    if not comparisons:
        return _verdict(VerdictKind.NOT_COMPARABLE, measurement, reasons=["the baseline has none of these metrics"])
    kind = _overall(comparisons)
    return Verdict(
        kind=kind,
        case=measurement.case,
        comparisons=comparisons,
        reasons=tuple(describe(comparison) for comparison in comparisons if comparison.kind is kind)
        if kind is not VerdictKind.PASSED
        else (),
    )


def describe(comparison: Comparison) -> str:
    """Return the sentence that says what one metric did, e.g. how far it is below the baseline."""
    metric = METRICS[comparison.metric]
    side = "below" if comparison.delta_pct < 0 else "above"
    numbers = f"{metric.format(comparison.now)} against {metric.format(comparison.baseline)}"
    sentence = (
        f"{metric.label} is {abs(comparison.delta_pct):.1f}% {side} "
        f"the baseline ({numbers}; allowed {comparison.allowed_pct:.1f}%)"
    )
    return f"{sentence}; {comparison.note}" if comparison.note else sentence


def environment_changes(then: Mapping[str, str], *, now: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return (name, then, now) for what differs between two environments, by name; absent is ``-``."""
    names = sorted({*then, *now})
    return [(name, then.get(name, "-"), now.get(name, "-")) for name in names if then.get(name) != now.get(name)]


def _compare(
    metric: Metric, *, measurement: Measurement, baseline: Baseline, tolerances: Mapping[str, float]
) -> Comparison | None:
    then = median_over_runs(baseline.runs, metric=metric.name)
    now = median_over_runs(measurement.runs, metric=metric.name)
    if then is None or now is None:
        return None
    allowed = tolerances[metric.name]
    kind, note = _kind_of(metric, then=baseline.runs, now=measurement.runs, allowed_pct=allowed)
    if metric is TFLOPS_PER_SEC_PER_GPU and measurement.flops_convention != baseline.flops_convention:
        kind = VerdictKind.NOT_COMPARABLE
        note = f"FLOPs are counted as {measurement.flops_convention}, the baseline's as {baseline.flops_convention}"
    return Comparison(
        metric=metric.name,
        baseline=then,
        now=now,
        delta_pct=metric.delta_pct(now, baseline=then),
        allowed_pct=allowed,
        kind=kind,
        note=note,
    )


def _kind_of(metric: Metric, *, then: Sequence[Run], now: Sequence[Run], allowed_pct: float) -> tuple[VerdictKind, str]:
    """A change beyond the tolerance counts only if the runs of the two sides do not overlap."""
    before, after = _usual_values(then, metric=metric), _usual_values(now, metric=metric)
    worsening = metric.worsening_pct(statistics.median(after), baseline=statistics.median(before))
    if abs(worsening) <= allowed_pct:
        return VerdictKind.PASSED, ""
    overlap = min(before) <= max(after) and min(after) <= max(before)
    sees_noise = min(len(before), len(after)) >= _MIN_RUNS_TO_SEE_NOISE
    if worsening < 0:
        return (VerdictKind.PASSED if overlap and sees_noise else VerdictKind.IMPROVED), ""
    if overlap and sees_noise:
        return VerdictKind.INCONCLUSIVE, (
            f"but runs overlap: {metric.format(min(after))} to {metric.format(max(after))} now, "
            f"{metric.format(min(before))} to {metric.format(max(before))} in the baseline; raise --perf-runs"
        )
    return VerdictKind.REGRESSED, ""


def _usual_values(runs: Sequence[Run], *, metric: Metric) -> list[float]:
    """From five runs on without the lowest and the highest: one launch that stalled must not hide a change."""
    values = sorted(run.metrics[metric.name] for run in runs if metric.name in run.metrics)
    return values[1:-1] if len(values) >= _MIN_RUNS_TO_TRIM else values


def _overall(comparisons: Sequence[Comparison]) -> VerdictKind:
    kinds = {comparison.kind for comparison in comparisons}
    for kind in (VerdictKind.REGRESSED, VerdictKind.INCONCLUSIVE, VerdictKind.IMPROVED):
        if kind in kinds:
            return kind
    return VerdictKind.PASSED


def _incomparable(measurement: Measurement, *, baseline: Baseline, machine: Mapping[str, str | int]) -> list[str]:
    """Return what the two were not alike in: machine, workload, and of what is generated how much it was."""
    differences = [
        *_differences("machine", then=baseline.machine, now=machine),
        *_differences("workload", then=baseline.workload, now=measurement.workload),
    ]
    if differences or not _is_rl(measurement):
        return differences
    is_pinned = has_pinned_lengths(measurement.workload)
    problems = band_problems(measurement.runs, baseline=baseline.runs, is_pinned=is_pinned)
    now, then = (
        median_over_runs(runs, metric=TOKENS_PER_SEC_PER_GPU.name) for runs in (measurement.runs, baseline.runs)
    )
    if problems and now is not None and then is not None:
        after, before = (TOKENS_PER_SEC_PER_GPU.format(value) for value in (now, then))
        problems.append(f"so {TOKENS_PER_SEC_PER_GPU.label} don't compare: {after} now, {before} in the baseline")
    return problems


def _is_rl(measurement: Measurement) -> bool:
    return "rl" in measurement.workload


def _differences(subject: str, *, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    found = []
    for key in sorted({*then, *now}):
        before, after = then.get(key), now.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += _differences(f"{subject}: {key}", then=before, now=after)
        elif before != after:
            stored = repr(before) if key in then else "the default"  # stored workloads leave defaults out
            shown = repr(after) if key in now else "the default"
            found.append(f"other {subject}: {key} is {shown}, {stored} in the baseline")
    return found


def _identity_problems(measurement: Measurement) -> list[str]:
    problems = (identity_problem(run, flops_per_token=measurement.flops_per_token) for run in measurement.runs)
    return [problem for problem in problems if problem]


def _loss_problem(measurement: Measurement, *, baseline: Baseline) -> str | None:
    """A fast wrong run must not pass: same seed and steps, so the loss must be the baseline's.

    Not in reinforcement learning: its loss is near zero by construction, and follows from which tokens were drawn.
    """
    now = measurement.runs
    before = [run.loss for run in baseline.runs if run.loss is not None and run.last_step == now[0].last_step]
    after = [run.loss for run in now if run.loss is not None]
    if _is_rl(measurement) or not before or not after:
        return None
    expected, worst = (
        statistics.median(before),
        max(after, key=lambda loss: abs(loss - statistics.median(before))),
    )
    if abs(worst - expected) <= LOSS_REL_TOL * abs(expected):
        return None
    return (
        f"loss {worst:g} is not the baseline's {expected:g} at step {now[0].last_step} "
        f"(allowed {LOSS_REL_TOL:.0%}): the run computes something else, its speed says nothing"
    )


def _verdict(kind: VerdictKind, measurement: Measurement, *, reasons: Sequence[str]) -> Verdict:
    return Verdict(kind=kind, case=measurement.case, reasons=tuple(reasons))
