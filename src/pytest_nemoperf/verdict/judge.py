"""Verdicts: a measurement judged against a baseline. Pure; the result holds every number it used."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_nemoperf.baselines.baseline import Baseline, PublishedSource, find_mismatches
from pytest_nemoperf.measure.figures import figure_over_runs
from pytest_nemoperf.measure.measurement import Measurement, Run, identity_problem
from pytest_nemoperf.measure.steady_state import drift_noise_pct
from pytest_nemoperf.records.metrics import (
    BESIDE_STEPS,
    JUDGED,
    METRICS,
    TOKENS_PER_SEC_PER_GPU,
    Metric,
)
from pytest_nemoperf.verdict.advice import session_note
from pytest_nemoperf.verdict.comparison import NEEDS_ACCEPTANCE, Comparison, VerdictKind, compare_runs, describe
from pytest_nemoperf.verdict.phases import with_causes, without_noisy_phases
from pytest_nemoperf.verdict.policy import VerdictPolicy
from pytest_nemoperf.verdict.repeated_metrics import distinct_comparisons
from pytest_nemoperf.verdict.rollout_bands import band_problems, has_pinned_lengths, is_rl
from pytest_nemoperf.verdict.sick_devices import sick_devices
from pytest_nemoperf.verdict.slow_steps import find_slow_steps, with_slow_steps

LOSS_REL_TOL = 0.02
_COARSE_PCT = 0.2  # a tenth of what sessions differ by or less does not count beside it

_RESTLESS = (
    "the machine was restless: its speed changed within {drifts}, one way or the other from try to try, so "
    "{noise_pct:.2g}% noise is reckoned with"
)
_RESTLESS_BASELINE = (
    "the baseline is from a restless machine: its speed changed within {drifts}, so {noise_pct:.2g}% noise is "
    "reckoned with until it is recorded anew on a quiet one"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The outcome of a case.

    Attributes:
        kind: One of the seven outcomes.
        case: Case id.
        comparisons: Judged metrics; empty if nothing was compared.
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
    why_none: str = "",
) -> Verdict:
    """Judge a measurement; while the verdict is INCONCLUSIVE, a further launch may decide.

    Every judged metric is compared with the newest baseline, and with its anchor if it has one, to catch slow decay in
    steps that each pass.

    Args:
        measurement: This session's runs.
        baseline: The stored baseline of the case, or None.
        machine: Key of this machine.
        policy: Tolerances and error rates.
        looked_in: Folder without a baseline, for the reason of NO BASELINE.
        why_none: That reason, where the baseline is not looked for in a folder.
    """
    problems = [*measurement.problems, *_identity_problems(measurement), *_impossible_values(measurement)]
    if problems or not measurement.runs:
        return _verdict(VerdictKind.INVALID, measurement, reasons=problems or ["no run was measured"])
    if baseline is None:
        missing = "nothing is stored for this case"
        if looked_in:
            missing += f" in {looked_in}"
        missing = why_none or missing
        return _verdict(
            VerdictKind.NO_BASELINE,
            measurement,
            reasons=[missing, *_restless_notes(measurement.runs, sentence=_RESTLESS)],
        )
    differences = _incomparable(measurement, baseline=baseline, machine=machine)
    if differences:
        if baseline.published is not None:
            page = baseline.published
            differences += [f"beside one published value: row {page.row} of {page.title}", page.place]
        return _verdict(VerdictKind.NOT_COMPARABLE, measurement, reasons=differences)
    if baseline.published is not None:
        return _judge_by_page(measurement, baseline=baseline, page=baseline.published, policy=policy)
    return _judge_by_runs(measurement, baseline=baseline, machine=machine, policy=policy)


def _judge_by_runs(
    measurement: Measurement, *, baseline: Baseline, machine: Mapping[str, str | int], policy: VerdictPolicy
) -> Verdict:
    """Judge a sound measurement by stored runs of the same machine and workload."""
    loss_problem = _loss_problem(measurement, baseline=baseline)
    spoiled = [loss_problem] if loss_problem else sick_devices(measurement.runs, baseline.runs, machine=machine)
    if spoiled:
        return _verdict(VerdictKind.INVALID, measurement, reasons=spoiled)
    comparisons = compare_runs(measurement, baseline=baseline, policy=policy)
    if not comparisons:
        return _verdict(VerdictKind.NOT_COMPARABLE, measurement, reasons=["the baseline has none of these metrics"])
    reasons = []
    if overall_kind(comparisons) is not VerdictKind.REGRESSED:  # a regression of the medians needs no slow steps
        slow = find_slow_steps(measurement, baseline=baseline.runs, comparisons=comparisons, policy=policy)
        if slow is not None:
            reasons.append(slow.text)
            comparisons = with_slow_steps(comparisons, slow=slow)
    comparisons = without_noisy_phases(comparisons, baseline=baseline, policy=policy)
    comparisons = with_causes(comparisons, runs=measurement.runs, baseline=baseline)
    kind = overall_kind(comparisons)
    reasons += _comparison_reasons(comparisons, kind=kind)
    reasons += _session_note(comparisons, kind=kind)
    labels = ("the baseline", "this session")
    judged = policy.judged_metrics()
    reasons += missing_metrics(measurement.runs, other=baseline.runs, labels=labels, metrics=judged)
    reasons += _without_stored_side(measurement.runs, other=baseline.runs, metrics=judged)
    reasons += _unknown_metrics(measurement.runs, metrics=judged)
    reasons += _restless_notes(measurement.runs, sentence=_RESTLESS)
    reasons += _restless_notes(baseline.runs, sentence=_RESTLESS_BASELINE)
    return Verdict(kind=kind, case=measurement.case, comparisons=comparisons, reasons=tuple(reasons))


def _judge_by_page(
    measurement: Measurement, *, baseline: Baseline, page: PublishedSource, policy: VerdictPolicy
) -> Verdict:
    """Judge a measurement by the printed figures of a page.

    It prints neither losses, phases, slow steps and clocks nor the scatter of its runs, so none of these is compared.
    """
    policy = replace(policy, has_published_value=True)
    comparisons = compare_runs(measurement, baseline=baseline, policy=policy)
    if not comparisons:
        printed = ", ".join(baseline.runs[0].metrics) or "nothing that compares"
        reason = f"none of these metrics is printed by {page.title} (row {page.row}), which prints {printed}"
        return _verdict(VerdictKind.NOT_COMPARABLE, measurement, reasons=[reason, *page.notes])
    kind = overall_kind(comparisons)
    reasons = _comparison_reasons(comparisons, kind=kind)
    reasons.append(
        f"compared with one published value without spread: row {page.row} of {page.title}; how far sessions and "
        "launches differ is not printed, so it is taken from the class of the system: "
        f"{policy.session_noise_pct:.2g}% and {policy.run_noise_pct:.2g}%; its machine is not named, and how far "
        "machines differ is not counted"
    )
    reasons.append(page.place)
    reasons += _rounding_notes(page)
    reasons += page.notes
    reasons += _restless_notes(measurement.runs, sentence=_RESTLESS)
    return Verdict(kind=kind, case=measurement.case, comparisons=comparisons, reasons=tuple(reasons))


def _rounding_notes(page: PublishedSource) -> list[str]:
    """Return a sentence for each figure that is printed so coarsely that the noise of its comparison is larger."""
    notes = []
    for name, percent in page.rounding_pct.items():
        if percent >= _COARSE_PCT:
            notes.append(
                f"{METRICS[name].label} is printed rounded, up to {percent:.2g}% off; that is reckoned with as noise"
            )
    return notes


def is_same_loss(loss: float, *, expected: float) -> bool:
    """Return whether two losses at the same step are of the same computation."""
    return abs(loss - expected) <= LOSS_REL_TOL * abs(expected)


def losses_by_step(runs: Sequence[Run]) -> dict[int | None, list[float]]:
    """Return the losses of the runs by their last step; those of other last steps don't compare."""
    losses: dict[int | None, list[float]] = {}
    for run in runs:
        if run.loss is not None:
            losses.setdefault(run.last_step, []).append(run.loss)
    return losses


def missing_metrics(
    runs: Sequence[Run], *, other: Sequence[Run], labels: tuple[str, str], metrics: Sequence[Metric]
) -> list[str]:
    """Return a sentence for each judged metric that the other runs have and these lack.

    Args:
        runs: Judged runs.
        other: Runs they are compared with.
        labels: Names of the other runs and of these.
        metrics: Judged metrics.
    """
    notes = []
    for metric in metrics:
        is_missing = figure_over_runs(runs, metric=metric.name) is None
        if is_missing and figure_over_runs(other, metric=metric.name) is not None:
            notes.append(f"{metric.label} is not judged: {labels[0]} has it, {labels[1]} lacks it")
    return notes


def _without_stored_side(runs: Sequence[Run], *, other: Sequence[Run], metrics: Sequence[Metric]) -> list[str]:
    """Return a sentence for each judged metric of a launch that these runs have and the baseline lacks.

    It needs no new baseline to be measured, and no workload says that it was asked for.
    """
    notes = []
    for metric in metrics:
        value = figure_over_runs(runs, metric=metric.name)
        if metric in BESIDE_STEPS and value is not None and figure_over_runs(other, metric=metric.name) is None:
            notes.append(f"{metric.label} {metric.format(value)}: no baseline for it; --update-baselines stores one")
    return notes


def _unknown_metrics(runs: Sequence[Run], *, metrics: Sequence[Metric]) -> list[str]:
    """Return a sentence for each judged metric of a launch that is not known, with the reason."""
    reasons: dict[str, str] = {}
    for run in runs:
        reasons |= run.unknown
    notes = []
    for metric in metrics:
        if metric.name in reasons and figure_over_runs(runs, metric=metric.name) is None:
            notes.append(f"{metric.label} is not judged: {reasons[metric.name]}")
    return notes


def _restless_notes(runs: Sequence[Run], *, sentence: str) -> list[str]:
    """Return a sentence with the drifts of the runs and their noise; none if every run has settled."""
    drifts = _drifts_text(runs)
    if not drifts:
        return []
    return [sentence.format(drifts=drifts, noise_pct=drift_noise_pct(run.drift_pct for run in runs))]


def _drifts_text(runs: Sequence[Run]) -> str:
    """Return the change of speed within each run that has not settled; empty if every run has."""
    texts = []
    for number, run in enumerate(runs, start=1):
        if run.drift_pct:
            texts.append(f"run {number} by {run.drift_pct:+.0f}%")
    return ", ".join(texts)


def _comparison_reasons(comparisons: Sequence[Comparison], *, kind: VerdictKind) -> list[str]:
    """Return sentences on the deciding comparisons, then on anchors and phases that decide nothing.

    A PASSED case has only notes instead of the former, e.g. that it finds little beyond its tolerance.
    """
    deciding = []
    powerless = []
    notes = []
    for each in distinct_comparisons(comparisons):
        if each.told_with:
            continue
        if each.kind is VerdictKind.NOT_COMPARABLE and (each.anchor or METRICS[each.metric].phases):
            powerless.append(describe(each))
        elif each.kind is kind and kind is not VerdictKind.PASSED:
            deciding.append(describe(each))
        elif each.kind is kind and each.note:
            notes.append(each.note)
    return [*deciding, *powerless, *notes]


def _session_note(comparisons: Sequence[Comparison], *, kind: VerdictKind) -> list[str]:
    """Return a sentence if a loss, or nothing, was found against runs of one session only; else none."""
    if kind in NEEDS_ACCEPTANCE:
        for each in comparisons:
            if each.kind is kind and session_note(each):
                return [session_note(each)]
    return []


def overall_kind(comparisons: Sequence[Comparison]) -> VerdictKind:
    """Return the verdict of all metrics: faster than an anchor is ignored, slower is not."""
    for kind in (VerdictKind.REGRESSED, VerdictKind.INCONCLUSIVE):
        if any(comparison.kind is kind for comparison in comparisons):
            return kind
    for comparison in comparisons:
        if comparison.kind is VerdictKind.IMPROVED and not comparison.anchor:
            return VerdictKind.IMPROVED
    return VerdictKind.PASSED


def _incomparable(measurement: Measurement, *, baseline: Baseline, machine: Mapping[str, str | int]) -> list[str]:
    """Return the differences in machine and workload or, if there are none, in the lengths of sequences."""
    mismatches = find_mismatches(baseline, machine=machine, workload=measurement.workload)
    if mismatches:
        return [mismatch.text for mismatch in mismatches]
    # A page's lengths are not those that a plan pins.
    is_pinned = has_pinned_lengths(measurement.workload) and baseline.published is None
    problems = band_problems(measurement.runs, baseline=baseline.runs, is_pinned=is_pinned)
    rate = TOKENS_PER_SEC_PER_GPU
    now = figure_over_runs(measurement.runs, metric=rate.name)
    then = figure_over_runs(baseline.runs, metric=rate.name)
    if problems and now is not None and then is not None:
        figures = f"{rate.format(now)} now, {rate.format(then)} in the baseline"
        problems.append(f"so {rate.label} don't compare: {figures}")
    return problems


def _identity_problems(measurement: Measurement) -> list[str]:
    problems = []
    for run in measurement.runs:
        problem = identity_problem(run, flops_per_token=measurement.flops_per_token)
        if problem:
            problems.append(problem)
    return problems


def _impossible_values(measurement: Measurement) -> list[str]:
    problems = []
    for number, run in enumerate(measurement.runs, start=1):
        for metric in JUDGED:
            value = run.metrics.get(metric.name, 1.0)
            if not (math.isfinite(value) and value > 0):
                problems.append(
                    f"run {number}: {metric.label} is {value:g}; only positive, finite figures can be judged"
                )
    return problems


def _loss_problem(measurement: Measurement, *, baseline: Baseline) -> str | None:
    """Return a sentence if the loss is not the baseline's: a fast wrong run must not pass.

    Seed and steps are the same, so the loss must be. Not in reinforcement learning: its loss is near zero by
    construction, and depends on the sampled tokens.
    """
    if is_rl(measurement.workload):
        return None
    before = losses_by_step(baseline.runs)
    for last_step, losses in losses_by_step(measurement.runs).items():
        if last_step not in before:
            continue
        expected = statistics.median(before[last_step])
        worst = max(losses, key=lambda loss: abs(loss - expected))
        if not is_same_loss(worst, expected=expected):
            return (
                f"loss {worst:g} is not the baseline's {expected:g} at step {last_step} "
                f"(allowed {LOSS_REL_TOL:.0%}): the run computes something else, its speed says nothing"
            )
    return None


def _verdict(kind: VerdictKind, measurement: Measurement, *, reasons: Sequence[str]) -> Verdict:
    return Verdict(kind=kind, case=measurement.case, reasons=tuple(reasons))
