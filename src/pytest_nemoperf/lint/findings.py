"""Checks of stored baselines and profiles without measuring; one finding per fault."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

from pytest_nemoperf.baselines.baseline import Baseline, find_mismatches
from pytest_nemoperf.errors import NemoPerfError, RecordError, count_text
from pytest_nemoperf.flops.count import FLOPS_REL_TOL
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.measure.stored_workload import is_in_process
from pytest_nemoperf.recipes.other_framework import without_framework
from pytest_nemoperf.records.metrics import (
    METRICS,
    STEP_TIME_SEC,
    TOKENS_PER_SEC_PER_GPU,
    Metric,
)
from pytest_nemoperf.records.profile import Profile
from pytest_nemoperf.records.provenance import Provenance, utc_day
from pytest_nemoperf.report.cells import percent
from pytest_nemoperf.report.resolution import LOOSE_RATIO
from pytest_nemoperf.results.dry_run import DryRun
from pytest_nemoperf.verdict import advice
from pytest_nemoperf.verdict.defaults import CONFIRMING_ROUNDS
from pytest_nemoperf.verdict.judge import is_same_loss, losses_by_step
from pytest_nemoperf.verdict.policy import VerdictPolicy
from pytest_nemoperf.verdict.repeated_metrics import distinct_metrics
from pytest_nemoperf.verdict.resolution import limits_of, self_test, unmet_tolerance_message
from pytest_nemoperf.verdict.sequential import loss_of_cost
from pytest_nemoperf.verdict.workload import WorkloadFacts, facts_of

_MIN_RUNS = 3  # fewer show next to nothing of the noise between them

# The median rate is not exactly tokens / median time, and medians of phases don't add up to the median step, unless all
# steps are alike: allowed difference in percent, and more per percent of the steps' median absolute deviation.
_RATE_PCT = 2.0
_RATE_PER_MAD = 0.25
_PHASES_PCT = 10.0
_PHASES_PER_MAD = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault.

    Attributes:
        path: File or folder, as it was given.
        level: An error is wrong; a warning may be intended.
        rule: Name of the check.
        message: Fault and remedy.
    """

    path: str
    level: Literal["error", "warning"]
    rule: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LooseTolerance:
    """A tolerance far above the noise of a case.

    Attributes:
        metric: Metric name.
        tolerance_pct: Worsening that is allowed, percent.
        beyond_pct: Percentage points beyond any tolerance at which a loss is found for certain.
    """

    metric: str
    tolerance_pct: float
    beyond_pct: float


def lint_baseline(
    baseline: Baseline, *, path: str, policy: VerdictPolicy, today: date, max_age_days: int
) -> tuple[list[Finding], list[LooseTolerance]]:
    """Return the findings on one baseline, and its loose tolerances.

    Args:
        baseline: As stored.
        path: Its file, for the findings.
        policy: Tolerances and error rates.
        today: The day, UTC.
        max_age_days: Older ones are stale.
    """
    findings = []
    for message in _arithmetic_problems(baseline):
        findings.append(_error(path, "arithmetic", message))
    for message in _anchor_problems(baseline):
        findings.append(_error(path, "anchor", message))
    findings += _origin_findings(baseline, path=path, today=today, max_age_days=max_age_days)
    if is_in_process(baseline.workload):
        policy = replace(policy, max_runs=1, min_runs=1)
    for message in _refused_anchors(baseline, policy=policy):
        findings.append(_warning(path, "tight", message))
    if not _code_problem(baseline.provenance):  # a suspect can be compared with that commit, side by side
        policy = replace(policy, confirming_rounds=CONFIRMING_ROUNDS)
    loose: list[LooseTolerance] = []
    for metric in distinct_metrics(baseline.runs, policy=policy):
        result = _check_tolerance(baseline, metric=metric, path=path, policy=policy)
        if isinstance(result, Finding):
            findings.append(result)
        elif result is not None:
            loose.append(result)
    return findings, loose


def lint_loose(loose: Sequence[LooseTolerance], *, folder: str) -> list[Finding]:
    """Return one warning for each metric and tolerance that is loose for some of a system's cases."""
    groups: dict[tuple[str, float], list[float]] = {}
    for each in loose:
        groups.setdefault((each.metric, each.tolerance_pct), []).append(each.beyond_pct)
    findings = []
    for (metric, tolerance), distances in groups.items():
        message = (
            f"{METRICS[metric].label} allows {tolerance:.3g}%, and {count_text(len(distances), 'case')} would find a "
            f"loss {percent(max(distances))} beyond any tolerance; lower it"
        )
        findings.append(_warning(folder, "loose", message))
    return findings


def lint_profile(profile: Profile, *, baseline: Baseline, path: str) -> list[Finding]:
    """Return the findings on the profile stored beside a baseline."""
    if (profile.case, profile.system) != (baseline.case, baseline.system):
        message = f"holds case {profile.case!r} of system {profile.system!r}; its name must say the same: move it back"
        return [_error(path, "profile", message)]
    if find_mismatches(profile, machine=baseline.machine, workload=baseline.workload):
        return [_warning(path, "profile", "is of another machine or workload than its baseline; store it again")]
    return []


def lint_suite(dry_run: DryRun, *, paths: Mapping[str, str], folder: str) -> list[Finding]:
    """Return the baselines that no perf test asks for, and the cases that have none.

    Args:
        dry_run: Dry run of the tests on that system.
        paths: File by case.
        folder: The system's.
    """
    asked = {each.case: each for each in dry_run.asked}
    recipes = set(map(without_framework, asked))  # --perf-framework runs them in other frameworks
    findings = []
    for gap in dry_run.gaps:
        findings.append(_warning(folder, "unseen", f"a test may ask for more: {gap}"))
    for case, path in paths.items():
        if without_framework(case) in recipes:
            continue
        if dry_run.gaps:
            findings.append(_warning(path, "orphan", "no perf test that was seen asks for it, but not all were"))
        else:
            message = "no perf test asks for it; delete it, or let --update-baselines --perf-prune do so"
            findings.append(_error(path, "orphan", message))
    known = set(paths)
    for priced in dry_run.cases:
        if priced.price.unsupported:
            known.add(priced.price.plan.case)
    for case, each in asked.items():
        if case not in known:
            message = f"no baseline of {case}, which {each.nodeid} asks for; record it"
            findings.append(_warning(folder, "missing", message))
    return findings


def _arithmetic_problems(baseline: Baseline) -> Iterator[str]:
    try:
        facts = facts_of(baseline.workload, convention=baseline.flops_convention)
    except NemoPerfError as exc:
        yield f"$.workload: {exc}"
        return
    flops = facts.flops_per_token
    stored = baseline.flops_per_token
    if flops is not None and stored is not None and not math.isclose(flops, stored, rel_tol=FLOPS_REL_TOL):
        yield (
            f"$.flops_per_token is {stored:g}, and {baseline.flops_convention} counts {flops:g} for its workload; "
            "record it again"
        )
    for number, run in enumerate(baseline.runs):
        for problem in filter(None, (_rate_problem(run, facts=facts), _phases_problem(run))):
            yield f"$.runs[{number}]: {problem}"


def _rate_problem(run: Run, *, facts: WorkloadFacts) -> str:
    """Return the contradiction between tokens/s, step time and tokens per step; empty if there is none."""
    tokens = facts.tokens_per_step
    gpus = facts.num_gpus
    rate = run.metrics.get(TOKENS_PER_SEC_PER_GPU.name)
    step_time = run.metrics.get(STEP_TIME_SEC.name)
    if tokens is None or gpus is None or rate is None or step_time is None:
        return ""
    expected = tokens / (step_time * gpus)
    allowed = _RATE_PCT + _RATE_PER_MAD * run.step_time_mad_pct
    if abs(rate - expected) <= expected * allowed / 100.0:
        return ""
    return (
        f"tokens_per_sec_per_gpu={rate:g} is not tokens / (step time x GPUs) = "
        f"{tokens:,} / ({step_time:g} x {gpus}) = {expected:g}"
    )


def _phases_problem(run: Run) -> str:
    step_time = run.metrics.get(STEP_TIME_SEC.name)
    if not run.phases or step_time is None:
        return ""
    total = math.fsum(run.phases.values())
    allowed = _PHASES_PCT + _PHASES_PER_MAD * run.step_time_mad_pct
    if abs(total - step_time) <= step_time * allowed / 100.0:
        return ""
    return f"the phases sum to {total:g} s, the step takes {step_time:g} s (allowed {allowed:.0f}% apart)"


def _anchor_problems(baseline: Baseline) -> Iterator[str]:
    """Yield the faults of the anchor, which stores no workload: tokens or losses show if it is another one."""
    anchor = baseline.anchor
    if anchor is None:
        return
    subject = f"the anchor {anchor.name!r}"
    if not anchor.name.strip():
        yield "$.anchor.name is empty: name the release, or delete the anchor"
        subject = "the anchor"
    try:
        facts = facts_of(baseline.workload, convention=baseline.flops_convention)
    except NemoPerfError:
        return
    for run in anchor.runs:
        problem = _rate_problem(run, facts=facts)
        if problem:
            yield f"{subject} is of another workload: {problem}; delete it, or record the case again"
            break
    then = _losses(anchor.runs)
    now = _losses(baseline.runs)
    for step in then.keys() & now.keys():
        if "rl" not in baseline.workload and not is_same_loss(then[step], expected=now[step]):
            yield (
                f"{subject} is of another workload: loss {then[step]:g} at step {step}, {now[step]:g} in the newest "
                "runs; delete it, or record the case again"
            )
    if anchor.provenance.date > baseline.provenance.date:
        yield f"{subject} of {anchor.provenance.date} is newer than the runs of {baseline.provenance.date}"


def _refused_anchors(baseline: Baseline, *, policy: VerdictPolicy) -> Iterator[str]:
    """Yield a message for each metric with a tolerance below the noise floor of the anchor's runs."""
    anchor = baseline.anchor
    if anchor is None:
        return
    for metric in distinct_metrics(anchor.runs, policy=policy):
        limits = limits_of(anchor.runs, metric=metric, policy=policy)
        evidence = self_test(anchor.runs, metric=metric, policy=policy)
        if evidence is not None and limits is not None and limits.is_below_noise_floor:
            runs = count_text(len(anchor.runs), "anchor run")
            floor = advice.noise_floor_message(evidence, runs=runs)
            yield (
                f"the anchor {anchor.name!r} decides nothing of {metric.label}: it allows {evidence.allowed_pct:.3g}% "
                f"and finds {evidence.finds_pct:.3g}%, with {floor}; --update-baselines --perf-anchor=RELEASE makes "
                "another"
            )


def _losses(runs: Sequence[Run]) -> dict[int, float]:
    """Return the median loss over the runs by their last step."""
    return {step: statistics.median(losses) for step, losses in losses_by_step(runs).items() if step is not None}


def _origin_findings(baseline: Baseline, *, path: str, today: date, max_age_days: int) -> Iterator[Finding]:
    origin = baseline.provenance
    try:
        age = (today - utc_day(origin.date)).days
    except RecordError as exc:
        yield _error(path, "date", f"$.provenance.date: {exc}")
    else:
        if age > max_age_days:
            message = f"is {age} days old (--max-age {max_age_days}): record it again, with what the code runs on now"
            yield _warning(path, "stale", message)
        if age < -1:
            yield _error(path, "date", f"$.provenance.date: {origin.date} lies in the future")
    if len(baseline.runs) < _MIN_RUNS:
        runs = count_text(len(baseline.runs), "run")
        yield _warning(path, "runs", f"{runs}: too few to show the noise between launches; record {_MIN_RUNS} or more")
    message = _code_problem(origin)
    if message and not (origin.source and origin.git_commit):  # all that can be stated of a log's code is its commit
        yield _warning(path, "dirty", message)
    if not baseline.reason.strip():
        yield _warning(path, "reason", "$.reason is empty: say why it was recorded (--perf-reason)")


def _code_problem(origin: Provenance) -> str:
    """Return the reason why the recorded code can't be checked out; empty if it can."""
    commit = origin.git_commit
    if origin.source and commit is None:
        return "read from logs, which don't tell their code; state its commit (nemoperf record --commit)"
    if commit is None and origin.git_dirty is None:
        return "git could not tell the commit it was recorded from, so nobody knows from which code"
    if commit is None:  # older versions stored the same where git could not tell
        return (
            "recorded outside of a git repository, before its first commit, or where git could not read it, so nobody "
            "knows from which code"
        )
    if origin.git_dirty is None:
        return f"recorded from {commit}, and git could not tell whether files had changed since"
    if origin.git_dirty:
        return f"recorded from changes on top of {commit}, which are in no commit"
    return ""


def _check_tolerance(
    baseline: Baseline, *, metric: Metric, path: str, policy: VerdictPolicy
) -> Finding | LooseTolerance | None:
    """Return a tolerance that is too fine or too loose for the noise between the baseline's own runs."""
    limits = limits_of(baseline.runs, metric=metric, policy=policy)
    if limits is None:
        return None
    allowed = loss_of_cost(limits.allowed, metric=metric)
    beyond = loss_of_cost(limits.found, metric=metric) - allowed
    if allowed > LOOSE_RATIO * beyond:
        return LooseTolerance(metric=metric.name, tolerance_pct=allowed, beyond_pct=beyond)
    message = unmet_tolerance_message(baseline.runs, metric=metric, policy=policy)
    if message and policy.follows_tokens_per_sec(metric):
        return _warning(path, "tight", f"{message}. Until then {metric.label} decides nothing")
    if message:
        return _warning(path, "tight", message)
    return None


def _error(path: str, rule: str, message: str) -> Finding:
    return Finding(path=path, level="error", rule=rule, message=message)


def _warning(path: str, rule: str, message: str) -> Finding:
    return replace(_error(path, rule, message), level="warning")
