"""Notes on evidence that is not clear: the certain part of a loss, and the runs that would decide."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.records.metrics import PEAK_MEMORY_GIB, Metric
from pytest_nemoperf.verdict.sequential import (
    HARMLESS_SHARE,
    MAX_BASELINE_RUNS,
    STALL_SHARE,
    SequentialResult,
    SequentialRule,
    cost_of_loss,
    loss_of_cost,
    runs_needed,
)

_MIN_STALL_RATIO = 1.1  # a stall is reported if it was limited by more than a tenth


def certain_loss_note(evidence: SequentialResult, *, allowed_pct: float, metric: Metric) -> str:
    """Return the certain part of a loss that is below the tolerance and more than harmless."""
    harmless = loss_of_cost(evidence.harmless, metric=metric)
    if harmless > 0:
        is_half = math.isclose(evidence.harmless, HARMLESS_SHARE * cost_of_loss(allowed_pct, metric=metric))
        half = " (half of the tolerance)" if is_half else ""
        note = f"a loss above {harmless:.2g}%{half} is certain"
    else:
        note = "some loss is certain"
    if not evidence.is_ruled_out:
        note += f", {allowed_pct:g}% is possible"
    return note


def stall_note(values: Sequence[float], *, allowed_pct: float, metric: Metric) -> str:
    """Return a note on this session's single stalled launch and the limit to its loss; empty if there is none.

    Args:
        values: Costs of this session's runs.
        allowed_pct: The tolerance.
        metric: The metric.
    """
    if len(values) < 2:  # noqa: PLR2004 (nothing to compare the slowest with)
        return ""
    *_, second, worst = sorted(values)
    most = STALL_SHARE * cost_of_loss(allowed_pct, metric=metric)
    if worst - second <= _MIN_STALL_RATIO * most:
        return ""
    seen = loss_of_cost(worst - second, metric=metric)
    counted = loss_of_cost(most, metric=metric)
    word = "larger" if metric is PEAK_MEMORY_GIB else "slower"
    return f"run {values.index(worst) + 1} was {seen:.0f}% {word} than the next and counts as {counted:.2g}%"


def finer_tolerance_hint(
    values: Sequence[float], *, evidence: SequentialResult, allowed_pct: float, metric: Metric, rule: SequentialRule
) -> str:
    """Return a note that runs can't resolve a tolerance, with the number that would; empty if they can.

    Args:
        values: Costs of the baseline's runs.
        evidence: Result of the sequential test, for their resolution.
        allowed_pct: The tolerance.
        metric: The metric.
        rule: The sequential rule; max_runs is 1 for measurements of the test process, which has no --perf-ab.
    """
    tolerance = cost_of_loss(allowed_pct, metric=metric)
    if evidence.resolution_pct <= 100.0 * tolerance:
        return ""
    resolved = loss_of_cost(evidence.resolution_pct / 100.0, metric=metric)
    _, needed = runs_needed(values, tolerance=tolerance, rule=rule)
    if needed:
        remedy = f"{needed} runs would"
    else:
        remedy = f"none up to {MAX_BASELINE_RUNS} would; raise it"
        if rule.max_runs > 1:
            remedy += ", or compare with --perf-ab"
    return (
        f"tolerance {allowed_pct:g}% of {metric.label} is finer than the {resolved:.1f}% that "
        f"{count_text(len(values), 'run')} with {evidence.noise_pct:.2g}% noise can resolve; {remedy}"
    )


def noise_floor_message(evidence: SequentialResult, *, allowed_pct: float, metric: Metric, runs: str) -> str:
    """Return the sentence for a tolerance below the noise floor.

    Args:
        evidence: Result of the sequential test.
        allowed_pct: The tolerance.
        metric: The metric.
        runs: Number and kind of runs, e.g. ``5 baseline runs``.
    """
    resolved = loss_of_cost(evidence.resolution_pct / 100.0, metric=metric)
    return (
        f"the tolerance {allowed_pct:g}% is below the noise floor: {runs} with {evidence.noise_pct:.2g}% noise "
        f"can resolve {resolved:.2g}%"
    )


def more_runs_hint(
    before: Sequence[float], *, allowed_pct: float, metric: Metric, rule: SequentialRule, is_once: bool
) -> str:
    """Return the number of baseline runs that a refused tolerance needs, and the command that records them.

    Args:
        before: Costs of the baseline's runs.
        allowed_pct: The tolerance.
        metric: The metric.
        rule: The sequential rule.
        is_once: The case is measured once a session, so its baseline grows by a run a session.
    """
    enough, resolving = runs_needed(before, tolerance=cost_of_loss(allowed_pct, metric=metric), rule=rule)
    command = f"--update-baselines --perf-runs={enough}"
    if is_once and enough is None:
        return f"not even {MAX_BASELINE_RUNS} sessions would allow it: raise it"
    if is_once:
        sessions = count_text(len(before), "session")
        return f"{sessions} recorded, it decides from about {enough} on; {command} adds one a session"
    if enough is None:
        return f"none up to {MAX_BASELINE_RUNS} would allow it: raise it or --perf-max-runs, or compare with --perf-ab"
    if resolving == enough:
        return f"{enough} would resolve the tolerance: {command}"
    few = f"{enough} would allow some verdicts: {command}"
    if resolving is None:
        return few
    return f"{few}; {resolving} would resolve the tolerance"
