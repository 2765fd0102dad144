"""Decisions of --update-baselines on a stored baseline. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from pytest_nemoperf.baselines.baseline import Anchor, Baseline, counts_flops_alike, find_mismatches
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.records.metrics import METRICS, Direction
from pytest_nemoperf.verdict.comparison import NEEDS_ACCEPTANCE, WITHOUT_LOSS, Comparison, VerdictKind
from pytest_nemoperf.verdict.judge import Verdict
from pytest_nemoperf.verdict.policy import VerdictPolicy
from pytest_nemoperf.verdict.remedies import remedies_of
from pytest_nemoperf.verdict.repeated_metrics import distinct_metrics
from pytest_nemoperf.verdict.resolution import judging_metrics, limits_of, runs_to_judge, wants_more_runs
from pytest_nemoperf.verdict.sequential import loss_of_cost

MAX_SESSIONS: Final = 10
"""Sessions that a baseline holds at most: more hardly change what it knows of the noise between them."""


class Action(StrEnum):
    """Action on a case's file."""

    WRITE = "write"
    KEEP = "keep"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateOptions:
    """Values of ``--update-baselines`` and the options that go with it.

    Attributes:
        is_accepted: Regressed and inconclusive cases are stored too.
        reason: Reason for the new baselines; empty if none was given.
        is_new_only: Only cases without a baseline are stored.
        is_pruning: Stored cases that no test asks for are deleted.
        anchor: Release whose anchor these runs become; empty for none.
        adds_session: Runs stand beside the stored ones as another session's.
    """

    is_accepted: bool = False
    reason: str = ""
    is_new_only: bool = False
    is_pruning: bool = False
    anchor: str = ""
    adds_session: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateDecision:
    """Decision of an update on one case.

    Attributes:
        action: Write the file, keep it since nothing changed, or refuse to write it.
        why: Reason for the report, half a sentence; may be empty.
    """

    action: Action
    why: str


def plan_update(
    verdict: Verdict,
    *,
    old: Baseline | None,
    new: Baseline,
    policy: VerdictPolicy,
    runs: int,
    is_accepted: bool,
    is_new_only: bool,
    release: str = "",
) -> UpdateDecision:
    """Decide the update of one case.

    Args:
        verdict: Verdict on this session's runs, judged against old if that compares.
        old: The committed baseline, None if there is none.
        new: The baseline to be stored.
        policy: Tolerances and error rates.
        runs: Launches that make a baseline.
        is_accepted: A loss is accepted, with a reason.
        is_new_only: Existing files are kept.
        release: Release to record new's runs for as the anchor; empty for none.
    """
    kind = verdict.kind
    if kind is VerdictKind.INVALID:
        return UpdateDecision(action=Action.REFUSE, why="an INVALID case is never stored")
    if is_new_only and old is not None:
        return UpdateDecision(action=Action.KEEP, why="it is there already (--perf-update-new-only)")
    if kind in NEEDS_ACCEPTANCE and not is_accepted:
        if old is not None and _had_too_few_runs(verdict, old=old, new=new, policy=policy):
            return UpdateDecision(
                action=Action.WRITE, why=f"{len(new.runs)} runs instead of {len(old.runs)}, which were too few"
            )
        return UpdateDecision(action=Action.REFUSE, why=_refusal(verdict, old=old, policy=policy))
    if kind is VerdictKind.PASSED and old is not None and _is_comparable(new, old=old):
        return _update_passed(verdict, old=old, new=new, policy=policy, runs=runs, release=release)
    return UpdateDecision(action=Action.WRITE, why="")


def next_anchor(
    verdict: Verdict, *, old: Baseline | None, new: Baseline, policy: VerdictPolicy, release: str = ""
) -> Anchor | None:
    """Return the anchor to store with new; None if slow decay is measured from new itself.

    A gain, an accepted loss, other hardware and other workloads start without an anchor; with a release, new's runs
    become the anchor of that name. Otherwise it is the older of the present anchor and the replaced runs, unless the
    older can judge fewer metrics.
    """
    if release:
        return Anchor(name=release, runs=new.runs, provenance=new.provenance)
    if old is None or not _is_comparable(new, old=old):
        return None
    if new.runs[: len(old.runs)] == old.runs:
        return old.anchor  # nothing is replaced
    if verdict.kind is not VerdictKind.PASSED and not _had_too_few_runs(verdict, old=old, new=new, policy=policy):
        return None
    replaced = Anchor(name=f"of {old.provenance.date.partition('T')[0]}", runs=old.runs, provenance=old.provenance)
    best = None
    most = 0
    for anchor in (old.anchor, replaced):
        if anchor is None:
            continue
        num_judging = len(judging_metrics(anchor.runs, policy=replace(policy, confirming_rounds=0)))
        if num_judging > most:
            best = anchor
            most = num_judging
    return best


def _had_too_few_runs(verdict: Verdict, *, old: Baseline, new: Baseline, policy: VerdictPolicy) -> bool:
    """Return whether a case is undecided only because old has too few runs for the tolerance, and new has more.

    No change for the worse may be certain: the interval of each undecided metric includes a gain.
    """
    if (
        verdict.kind is not VerdictKind.INCONCLUSIVE
        or not _is_comparable(new, old=old)
        or len(new.runs) <= len(old.runs)
    ):
        return False
    undecided = _undecided(verdict)
    return _are_refused(undecided, old=old, policy=policy) and not any(map(_is_certain_loss, undecided))


def can_append_runs(verdict: Verdict, *, old: Baseline, new: Baseline, policy: VerdictPolicy) -> bool:
    """Return whether new's runs can be added to old's.

    They can after PASSED. If old has too few runs to judge the tolerance, little can pass, and it would never get more;
    then no more than half of the tolerance, or of the loss to be found, may be lost.
    """
    if not _is_comparable(new, old=old):
        return False
    if verdict.kind is not VerdictKind.INCONCLUSIVE:
        return verdict.kind is VerdictKind.PASSED
    undecided = _undecided(verdict)
    for each in undecided:
        metric = METRICS[each.metric]
        asked_pct = policy.find_pct(metric)
        if asked_pct is None:
            asked_pct = each.allowed_pct
        if metric.worsening_pct(each.now, baseline=each.baseline) > asked_pct / 2.0:
            return False
    return _are_refused(undecided, old=old, policy=policy)


def join_runs(old: Baseline, *, new: Baseline, runs: int) -> Baseline:
    """Return old with the newest of its runs and new's: as many as a baseline needs, or as old has.

    For cases that are measured once a session: runs of several sessions show the noise between them. Commit and date
    stay old's, see add_session.
    """
    return replace(old, runs=(*old.runs, *new.runs)[-max(runs, len(old.runs)) :])


def can_add_session(verdict: Verdict, *, old: Baseline, new: Baseline, is_same_code: bool) -> bool:
    """Return whether new's runs can stand beside old's as another session's.

    They can if they passed; those of the very code of old also if they are faster or slower: how far days differ is
    what they are to tell.
    """
    if not _is_comparable(new, old=old):
        return False
    if is_same_code:
        return verdict.kind in WITHOUT_LOSS or verdict.kind is VerdictKind.INCONCLUSIVE
    return verdict.kind is VerdictKind.PASSED


def add_session(old: Baseline, *, new: Baseline) -> Baseline:
    """Return old with new's runs after its own, without the oldest sessions beyond MAX_SESSIONS.

    Commit and date stay old's: were they new's, a small loss at each addition would never be compared with the first.
    """
    runs = (*old.runs, *new.runs)
    kept: list[str] = []
    for run in reversed(runs):
        if run.session not in kept and len(kept) < MAX_SESSIONS:
            kept.append(run.session)
    return replace(old, runs=tuple(run for run in runs if run.session in kept))


def _is_comparable(new: Baseline, *, old: Baseline) -> bool:
    """Return whether two baselines are of the same machine and workload, and count FLOPs alike.

    Runs with FLOPs of an older formula would break the identity TFLOP/s = FLOPs per token x tokens/s of the new ones.
    """
    return counts_flops_alike(new, other=old) and not find_mismatches(old, machine=new.machine, workload=new.workload)


def _update_passed(
    verdict: Verdict, *, old: Baseline, new: Baseline, policy: VerdictPolicy, runs: int, release: str
) -> UpdateDecision:
    """Decide the update of a PASSED case that compares with its baseline."""
    num_new = len(new.runs)
    num_old = len(old.runs)
    if num_new < num_old:
        as_many = remedies_of(policy).as_many.format(num=num_old)
        why = f"{num_old} runs that show no loss are not replaced by fewer; {as_many}"
        return UpdateDecision(action=Action.KEEP, why=why)
    if num_new > num_old and (num_old < runs or wants_more_runs(old.runs, policy=policy)):
        return UpdateDecision(action=Action.WRITE, why=_more_runs_text(new.runs, old=old.runs, policy=policy))
    if _has_moved(verdict.comparisons):
        return UpdateDecision(action=Action.WRITE, why="it moved more than its noise")
    if release:
        return UpdateDecision(action=Action.WRITE, why="nothing moved more than its own noise")
    return UpdateDecision(action=Action.KEEP, why="nothing moved more than its own noise")


def _more_runs_text(new: Sequence[Run], *, old: Sequence[Run], policy: VerdictPolicy) -> str:
    """Return the numbers of new and old runs, and the losses that both find if they differ.

    More runs of more noise find less.
    """
    text = f"{len(new)} runs instead of {len(old)}"
    for metric in distinct_metrics(new, policy=policy):
        now = limits_of(new, metric=metric, policy=policy)
        then = limits_of(old, metric=metric, policy=policy)
        if now is None or then is None:
            continue
        found = f"{loss_of_cost(now.found, metric=metric):.3g}%"
        found_before = f"{loss_of_cost(then.found, metric=metric):.3g}%"
        if found == found_before:
            continue
        noisier = ", for they are noisier" if now.found > then.found else ""
        return f"{text} find losses of {found} instead of {found_before} ({metric.label}){noisier}"
    return text


def _refusal(verdict: Verdict, *, old: Baseline | None, policy: VerdictPolicy) -> str:
    """Return the reason not to store a case that may hide a loss, with the options that would store it."""
    remedies = remedies_of(policy)
    why = f"{verdict.kind} is stored only with {remedies.accept}"
    if verdict.kind is not VerdictKind.INCONCLUSIVE or old is None:
        return why
    if not _are_refused(_undecided(verdict), old=old, policy=policy):
        return why
    needed = runs_to_judge(old.runs, policy=policy)
    if needed is None:
        needed = len(old.runs) + 1
    return f"{why}, or with more runs that show no certain loss: {remedies.more_runs.format(num=needed)}"


def _undecided(verdict: Verdict) -> list[Comparison]:
    return [each for each in verdict.comparisons if each.kind is VerdictKind.INCONCLUSIVE]


def _are_refused(undecided: Sequence[Comparison], *, old: Baseline, policy: VerdictPolicy) -> bool:
    """Return whether old has too few runs for the tolerances of all undecided metrics; anchors can't be refused."""
    judging = judging_metrics(old.runs, policy=replace(policy, confirming_rounds=0))
    return not any(each.anchor or each.metric in judging for each in undecided)


def _is_certain_loss(comparison: Comparison) -> bool:
    """Return whether the interval of a change holds only losses; also True without an interval."""
    if comparison.low_pct is None or comparison.high_pct is None:
        return True
    if METRICS[comparison.metric].direction is Direction.HIGHER:
        return comparison.high_pct < 0
    return comparison.low_pct > 0


def _has_moved(comparisons: Sequence[Comparison]) -> bool:
    """Return whether the interval of a change against the newest baseline leaves out zero."""
    for comparison in comparisons:
        if comparison.anchor:
            continue
        if comparison.low_pct is None or comparison.high_pct is None:
            return True
        if comparison.low_pct > 0 or comparison.high_pct < 0:
            return True
    return False
