"""Notes on evidence that is not clear: stalled launches, and the runs that would decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.records.metrics import PEAK_MEMORY_GIB, Metric
from pytest_nemoperf.verdict.defaults import DEFAULT_MAX_RUNS
from pytest_nemoperf.verdict.limits import Limits, runs_to_pass, stored_limits
from pytest_nemoperf.verdict.policy import VerdictPolicy
from pytest_nemoperf.verdict.remedies import remedies_of
from pytest_nemoperf.verdict.sequential import MAX_BASELINE_RUNS, SequentialRule, loss_of_cost

if TYPE_CHECKING:
    from pytest_nemoperf.verdict.comparison import Comparison

_MIN_STALL_RATIO = 1.1  # a stall is reported if it was limited by more than a tenth


def stall_note(values: Sequence[float], *, stall_limit: float, metric: Metric) -> str:
    """Return a note on this session's single stalled launch and the limit to its loss; empty if there is none.

    Args:
        values: Costs of this session's runs.
        stall_limit: Most by which the slowest counts as worse than the next.
        metric: The metric.
    """
    if len(values) < 2:  # noqa: PLR2004 (nothing to compare the slowest with)
        return ""
    *_, second, worst = sorted(values)
    if worst - second <= _MIN_STALL_RATIO * stall_limit:
        return ""
    seen = loss_of_cost(worst - second, metric=metric)
    counted = loss_of_cost(stall_limit, metric=metric)
    word = "larger" if metric is PEAK_MEMORY_GIB else "slower"
    return f"run {values.index(worst) + 1} was {seen:.0f}% {word} than the next and counts as {counted:.2g}%"


def floor_note(
    values: Sequence[float],
    *,
    sessions: Sequence[str],
    limits: Limits,
    metric: Metric,
    policy: VerdictPolicy,
    rule: SequentialRule,
) -> str:
    """Return a note on a case that finds too little beyond its tolerance, with a remedy; empty if it finds enough.

    Args:
        values: Costs of the baseline's runs.
        sessions: Session of each of them.
        limits: What they allow and find.
        metric: The metric.
        policy: Tolerances and losses to be found.
        rule: The sequential rule; min_runs is 1 for what is measured once a session.
    """
    if not limits.is_below_noise_floor:
        return ""
    found = loss_of_cost(limits.found, metric=metric)
    evidence = count_text(len(values), "run")
    if policy.has_published_value:
        evidence = "one published value"
    remedy = f"{_raise_text(metric, policy=policy)}, or use a quieter machine"
    if policy.confirming_rounds:
        evidence = f"{count_text(policy.confirming_rounds, 'round')} side by side"
    else:
        remedy = remedy_text(
            values, sessions=sessions, metric=metric, policy=policy, rule=rule, is_once=rule.min_runs == 1
        )
    asked = policy.find_pct(metric)
    if asked is not None:
        return (
            f"{metric.label}: {asked:g}% is to be found, and with {evidence} it is {found:.3g}% at best, so no loss "
            f"is allowed; {remedy}"
        )
    allowed = policy.tolerance_pct(metric)
    at_most = loss_of_cost(limits.must_find, metric=metric)
    return (
        f"{metric.label}: {allowed:g}% is allowed, {found:.3g}% found with {evidence}, and a case passes only where "
        f"{at_most:.3g}% is ruled out; {remedy}"
    )


def remedy_text(
    values: Sequence[float],
    *,
    sessions: Sequence[str],
    metric: Metric,
    policy: VerdictPolicy,
    rule: SequentialRule,
    is_once: bool,
) -> str:
    """Return the number of baseline runs that would lift a metric above the noise floor, or another remedy.

    Args:
        values: Costs of the baseline's runs.
        sessions: Session of each of them.
        metric: The metric.
        policy: Tolerances and losses to be found.
        rule: The sequential rule.
        is_once: The case is measured once a session, so its baseline grows by a run a session.
    """
    launches = ""
    num_launches = (
        None if is_once else _launches_to_pass(values, sessions=sessions, metric=metric, policy=policy, rule=rule)
    )
    if num_launches is not None:
        launches = f"{remedies_of(policy).more_launches.format(num=num_launches)}, or "
    if policy.has_published_value:
        return f"{launches or 'a page has no further runs: '}{_raise_text(metric, policy=policy)}"
    enough = runs_to_pass(values, sessions=sessions, metric=metric, policy=policy, rule=rule, is_once=is_once)
    larger = _raise_text(metric, policy=policy)
    remedies = remedies_of(policy)
    if is_once:
        recorded = f"{count_text(len(values), 'session')} recorded"
        if enough is None:
            return f"{recorded}, and no number up to {MAX_BASELINE_RUNS} would do: {larger}"
        return f"{recorded}, {enough} would do: {remedies.more_runs.format(num=enough)} adds one a session"
    if enough is not None:
        return f"{launches}{enough} runs would do: {remedies.more_runs.format(num=enough)}"
    others = [remedies.side_by_side] if remedies.side_by_side else []
    which = "runs"
    if rule.session_noise_pct:
        which = f"runs of {_these(sessions)}"
        others.insert(0, remedies.other_days)
    if not others:
        return f"{launches}{larger}" if launches else f"no number of {which} would do: {larger}"
    return f"{launches}no number of {which} would do: {', '.join(others)}, or {larger}"


def more_launches_text(policy: VerdictPolicy) -> str:
    """Return the option that lets a session launch as often as one does by default; empty if it may already.

    Launches that a stored baseline only screens a case by are not limited by it.
    """
    if policy.confirming_rounds or policy.max_runs >= DEFAULT_MAX_RUNS:
        return ""
    return remedies_of(policy).more_launches.format(num=DEFAULT_MAX_RUNS)


def _launches_to_pass(
    values: Sequence[float], *, sessions: Sequence[str], metric: Metric, policy: VerdictPolicy, rule: SequentialRule
) -> int | None:
    """Return the launches, at most as many as by default, that lift a metric above the noise floor; None if none do."""
    if not more_launches_text(policy):
        return None
    for num_launches in range(rule.max_runs + 1, DEFAULT_MAX_RUNS + 1):
        more = replace(rule, max_runs=num_launches)
        if not stored_limits(values, sessions=sessions, metric=metric, policy=policy, rule=more).is_below_noise_floor:
            return num_launches
    return None


def _raise_text(metric: Metric, *, policy: VerdictPolicy) -> str:
    if policy.find_pct(metric) is None:
        return "raise the tolerance"
    return "ask for a larger loss to be found"


def _these(sessions: Sequence[str]) -> str:
    return "these sessions" if len(set(sessions)) > 1 else "this session"


def noise_floor_message(comparison: Comparison, *, runs: str) -> str:
    """Return the sentence on noise that hides too much.

    Args:
        comparison: Comparison of the metric.
        runs: Number and kind of runs, e.g. ``5 baseline runs``.
    """
    noise = f"{comparison.noise_pct:.2g}% between launches"
    if comparison.session_noise_pct:
        noise += f" and {comparison.session_noise_pct:.2g}% between sessions"
    return f"too much noise for {runs}: {noise}"


def session_note(comparison: Comparison) -> str:
    """Return a note that a baseline of one session does not show how far days differ; empty if it does.

    Peak memory, and two sides that take turns, have no noise between sessions.
    """
    if not comparison.session_noise_pct or comparison.num_baseline_sessions != 1 or comparison.published:
        return ""
    return (
        f"{comparison.reference} is of one session, so how far days differ is not known but taken from the class: "
        f"{comparison.session_noise_pct:.2g}%"
    )
