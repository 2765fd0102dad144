"""What an engineer is told about evidence that is not clear: what is certain, and what would make it clearer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_nemoperf.metrics import PEAK_MEMORY_GIB, Metric
from pytest_nemoperf.plurals import count_text
from pytest_nemoperf.sequential import (
    HARMLESS_SHARE,
    MAX_BASELINE_RUNS,
    STALL_SHARE,
    SequentialResult,
    SequentialRule,
    cost_of_loss,
    loss_of_cost,
    runs_needed,
)

_MIN_STALL_RATIO = 1.1  # what counts as nearly what it was needs no words


def certain_loss_note(evidence: SequentialResult, *, allowed_pct: float, metric: Metric) -> str:
    """Return what is known of a loss below the tolerance that is more than harmless."""
    harmless = loss_of_cost(evidence.harmless, metric=metric)
    is_half = math.isclose(evidence.harmless, HARMLESS_SHARE * cost_of_loss(allowed_pct, metric=metric))
    half = " (half of the tolerance)" if is_half else ""
    certain = f"a loss above {harmless:.2g}%{half} is certain" if harmless > 0 else "some loss is certain"
    return certain if evidence.is_ruled_out else f"{certain}, {allowed_pct:g}% is possible"


def stall_note(values: Sequence[float], *, allowed_pct: float, metric: Metric) -> str:
    """Return which of today's launches counts for less than it showed, being alone so slow; empty for none."""
    if len(values) < 2:  # noqa: PLR2004 (nothing to compare the slowest with)
        return ""
    *_, second, worst = sorted(values)
    most = STALL_SHARE * cost_of_loss(allowed_pct, metric=metric)
    if worst - second <= _MIN_STALL_RATIO * most:
        return ""
    seen, counted = (loss_of_cost(each, metric=metric) for each in (worst - second, most))
    word = "larger" if metric is PEAK_MEMORY_GIB else "slower"
    return f"run {values.index(worst) + 1} was {seen:.0f}% {word} than the next and counts as {counted:.2g}%"


def finer_tolerance_hint(
    values: Sequence[float], *, evidence: SequentialResult, allowed_pct: float, metric: Metric, rule: SequentialRule
) -> str:
    """Return why runs of such costs can't resolve a tolerance, and how many would; empty if they can.

    Args:
        values: Costs of the baseline's runs.
        evidence: What they resolve.
        allowed_pct: The tolerance.
        metric: The metric.
        rule: The sequential rule; a single launch is what the test process measures, which has no --perf-ab.
    """
    tolerance = cost_of_loss(allowed_pct, metric=metric)
    if evidence.resolution_pct <= 100.0 * tolerance:
        return ""
    _, needed = runs_needed(values, tolerance=tolerance, rule=rule)
    ab = "" if rule.max_runs == 1 else ", or compare with --perf-ab"
    more_runs_hint = f"{needed} runs would" if needed else f"none up to {MAX_BASELINE_RUNS} would; raise it{ab}"
    return (
        f"tolerance {allowed_pct:g}% of {metric.label} is finer than the "
        f"{loss_of_cost(evidence.resolution_pct / 100.0, metric=metric):.1f}% that "
        f"{count_text(len(values), 'run')} with {evidence.noise_pct:.2g}% noise can resolve; {more_runs_hint}"
    )


def noise_floor_message(evidence: SequentialResult, *, allowed_pct: float, metric: Metric, runs: str) -> str:
    """Return why a tolerance is refused: the noise floor, and from how many runs it follows (``5 baseline runs``)."""
    resolved = loss_of_cost(evidence.resolution_pct / 100.0, metric=metric)
    return (
        f"the tolerance {allowed_pct:g}% is below the noise floor: {runs} with {evidence.noise_pct:.2g}% noise "
        f"can resolve {resolved:.2g}%"
    )


def more_runs_hint(
    before: Sequence[float], *, allowed_pct: float, metric: Metric, rule: SequentialRule, is_once: bool
) -> str:
    """Return how many baseline runs would do for a tolerance that is refused.

    Args:
        before: Costs of the baseline's runs.
        allowed_pct: The tolerance.
        metric: The metric.
        rule: The sequential rule.
        is_once: The case is measured once a session, so its baseline gathers a run a session.
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
    return few if resolving is None else f"{few}; {resolving} would resolve the tolerance"
