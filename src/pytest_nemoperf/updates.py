"""What an update does to a stored baseline, and why: pure decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from pytest_nemoperf.baseline import Anchor, Baseline, counts_flops_alike, find_mismatches
from pytest_nemoperf.comparison import NEEDS_ACCEPTANCE, Comparison, VerdictKind, VerdictPolicy
from pytest_nemoperf.holding import judging_metrics, runs_to_judge, wants_more_runs
from pytest_nemoperf.metrics import METRICS, Direction
from pytest_nemoperf.sequential import HARMLESS_SHARE
from pytest_nemoperf.verdict import Verdict


class Action(StrEnum):
    """What happens to a case's file."""

    WRITE = "write"
    KEEP = "keep"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateDecision:
    """What an update does to one case.

    Attributes:
        action: Write the file, keep it because there is no need to, or refuse to write it.
        why: Half a sentence for the report.
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
    """Return what an update does to a case.

    Args:
        verdict: On this session's runs, judged against old where that compares.
        old: The committed baseline, None if there is none.
        new: What would be stored.
        policy: What must be resolved.
        runs: Launches that make a baseline.
        is_accepted: A loss is accepted, with a reason.
        is_new_only: What is stored already stays.
        release: Whose anchor new's runs become; empty for none.
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
        return _step_of_same(verdict, old=old, new=new, policy=policy, runs=runs, release=release)
    return UpdateDecision(action=Action.WRITE, why="")


def next_anchor(
    verdict: Verdict, *, old: Baseline | None, new: Baseline, policy: VerdictPolicy, release: str = ""
) -> Anchor | None:
    """Return what slow decay is measured from once new is stored; None where new itself is that.

    A gain, an accepted loss, other hardware and workloads begin afresh; a release is an anchor by its name. Of what
    was kept so far and what is replaced now, the older one is taken, unless it can judge less.
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
    anchors = [replaced] if old.anchor is None else [old.anchor, replaced]
    best = max(anchors, key=lambda anchor: len(judging_metrics(anchor.runs, policy=policy)))
    return best if judging_metrics(best.runs, policy=policy) else None


def _had_too_few_runs(verdict: Verdict, *, old: Baseline, new: Baseline, policy: VerdictPolicy) -> bool:
    """Tell whether a case is undecided only because old has too few runs for the tolerance, and new mends that.

    No change for the worse may be certain: the interval of each that is undecided holds none.
    """
    if (
        verdict.kind is not VerdictKind.INCONCLUSIVE
        or not _is_comparable(new, old=old)
        or len(new.runs) <= len(old.runs)
    ):
        return False
    undecided = [each for each in verdict.comparisons if each.kind is VerdictKind.INCONCLUSIVE]
    return _are_refused(undecided, old=old, policy=policy) and not any(map(_is_certain_loss, undecided))


def can_append_runs(verdict: Verdict, *, old: Baseline, new: Baseline, policy: VerdictPolicy) -> bool:
    """Tell whether new's runs may stand beside old's: they are the same, as far as can be told.

    PASSED says so. So few runs that the tolerance is refused pass nothing, and would stay so few for ever: there no
    more than half of the tolerance may be lost.
    """
    if not _is_comparable(new, old=old):
        return False
    if verdict.kind is not VerdictKind.INCONCLUSIVE:
        return verdict.kind is VerdictKind.PASSED
    undecided = [each for each in verdict.comparisons if each.kind is VerdictKind.INCONCLUSIVE]
    is_small = all(_loss_pct(each) <= HARMLESS_SHARE * each.allowed_pct for each in undecided)
    return is_small and _are_refused(undecided, old=old, policy=policy)


def join_runs(old: Baseline, *, new: Baseline, runs: int) -> Baseline:
    """Return new with the newest of old's runs before its own: as many as a baseline needs, or as old has.

    What is measured once a session learns its noise between sessions only so.
    """
    return replace(new, runs=(*old.runs, *new.runs)[-max(runs, len(old.runs)) :])


def _is_comparable(new: Baseline, *, old: Baseline) -> bool:
    """Return whether two baselines are of the same machine and workload, and count FLOPs alike.

    Runs with FLOPs of an older formula would break the identity TFLOP/s = FLOPs per token x tokens/s of the new ones.
    """
    return counts_flops_alike(new, other=old) and not find_mismatches(old, machine=new.machine, workload=new.workload)


def _step_of_same(
    verdict: Verdict, *, old: Baseline, new: Baseline, policy: VerdictPolicy, runs: int, release: str
) -> UpdateDecision:
    num_new, num_old = len(new.runs), len(old.runs)
    if num_new < num_old:
        why = f"{num_old} runs that show no loss are not replaced by fewer; launch as many with --perf-runs={num_old}"
        return UpdateDecision(action=Action.KEEP, why=why)
    if num_new > num_old and (num_old < runs or wants_more_runs(old.runs, policy=policy)):
        return UpdateDecision(action=Action.WRITE, why=f"{num_new} runs instead of {num_old} resolve more")
    if _has_moved(verdict.comparisons):
        return UpdateDecision(action=Action.WRITE, why="it moved more than its noise")
    if release:
        return UpdateDecision(action=Action.WRITE, why="nothing moved more than its own noise")
    return UpdateDecision(action=Action.KEEP, why="nothing moved more than its own noise")


def _refusal(verdict: Verdict, *, old: Baseline | None, policy: VerdictPolicy) -> str:
    """Return how a case that may hide a loss is stored, and what would spare saying that it has none."""
    why = f"{verdict.kind} is stored only with --perf-accept-regression --perf-reason=TEXT"
    undecided = [each for each in verdict.comparisons if each.kind is VerdictKind.INCONCLUSIVE]
    if (
        verdict.kind is not VerdictKind.INCONCLUSIVE
        or old is None
        or not _are_refused(undecided, old=old, policy=policy)
    ):
        return why
    needed = runs_to_judge(old.runs, policy=policy)
    more = len(old.runs) + 1 if needed is None else needed
    return f"{why}, or with more runs that show no certain loss: --update-baselines --perf-runs={more}"


def _are_refused(undecided: Sequence[Comparison], *, old: Baseline, policy: VerdictPolicy) -> bool:
    judging = judging_metrics(old.runs, policy=policy)
    return all(not each.anchor and each.metric not in judging for each in undecided)


def _is_certain_loss(comparison: Comparison) -> bool:
    """Tell whether the interval of a change holds nothing but losses; without one there is nothing to go by."""
    low, high = comparison.low_pct, comparison.high_pct
    if low is None or high is None:
        return True
    return high < 0 if METRICS[comparison.metric].direction is Direction.HIGHER else low > 0


def _loss_pct(comparison: Comparison) -> float:
    return METRICS[comparison.metric].worsening_pct(comparison.now, baseline=comparison.baseline)


def _has_moved(comparisons: Sequence[Comparison]) -> bool:
    """Tell whether the interval of some change leaves out zero."""
    newest = (comparison for comparison in comparisons if not comparison.anchor)
    return any(
        comparison.low_pct is None or comparison.high_pct is None or comparison.low_pct > 0 or comparison.high_pct < 0
        for comparison in newest
    )
