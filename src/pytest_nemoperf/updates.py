"""What an update does to a stored baseline, and why: pure decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from pytest_nemoperf.baseline import Anchor, Baseline
from pytest_nemoperf.comparison import Comparison, Terms, VerdictKind
from pytest_nemoperf.holding import wants_more_runs
from pytest_nemoperf.verdict import Verdict

NEEDS_ACCEPTANCE = frozenset({VerdictKind.REGRESSED, VerdictKind.INCONCLUSIVE})


class Action(StrEnum):
    """What happens to a case's file."""

    WRITE = "write"
    KEEP = "keep"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What an update does to one case.

    Attributes:
        action: Write the file, keep it because there is no need to, or refuse to write it.
        why: Half a sentence for the report.
    """

    action: Action
    why: str


def plan_update(
    verdict: Verdict, *, old: Baseline | None, new: Baseline, terms: Terms, is_accepted: bool, is_new_only: bool
) -> Step:
    """Return what an update does to a case.

    Args:
        verdict: On this session's runs, judged against old where that compares.
        old: The committed baseline, None if there is none.
        new: What these runs would be stored as.
        terms: What must be resolved.
        is_accepted: A loss is accepted, with a reason.
        is_new_only: What is stored already stays.
    """
    kind = verdict.kind
    if kind is VerdictKind.INVALID:
        return Step(action=Action.REFUSE, why="an INVALID case is never stored")
    if is_new_only and old is not None:
        return Step(action=Action.KEEP, why="it is there already (--perf-update-new-only)")
    if kind in NEEDS_ACCEPTANCE and not is_accepted:
        return Step(
            action=Action.REFUSE,
            why=f"{kind} is stored only with --perf-accept-regression --perf-reason=TEXT",
        )
    if kind is VerdictKind.PASSED and old is not None and compares(new, old=old):
        return _step_of_same(verdict, old=old, new=new, terms=terms)
    return Step(action=Action.WRITE, why="")


def next_anchor(verdict: Verdict, *, old: Baseline | None, new: Baseline, release: str) -> Anchor | None:
    """Return what slow decay is measured from once new is stored; None where new itself is that.

    A gain, an accepted loss, other hardware and workloads begin afresh; a release is an anchor by its name.
    """
    if release:
        return Anchor(name=release, runs=new.runs, provenance=new.provenance)
    if old is None or verdict.kind is not VerdictKind.PASSED or not compares(new, old=old):
        return None
    return old.anchor or Anchor(
        name=f"of {old.provenance.date.partition('T')[0]}", runs=old.runs, provenance=old.provenance
    )


def grown(old: Baseline, *, new: Baseline, runs: int) -> Baseline | None:
    """Return old with new's runs beside its own, or None if it has as many as it needs.

    What is measured once a session learns its noise between sessions only so.
    """
    if len(old.runs) >= runs or not compares(new, old=old):
        return None
    return replace(old, runs=(*old.runs, *new.runs))


def compares(new: Baseline, *, old: Baseline) -> bool:
    """Tell whether two baselines are of the same machine and workload, and count FLOPs alike.

    Not only by name: a formula may be mended, and runs that were counted by the old one break the new one's identity.
    """
    keys = ("machine", "workload", "flops_convention", "flops_per_token")
    return all(getattr(new, key) == getattr(old, key) for key in keys)


def _step_of_same(verdict: Verdict, *, old: Baseline, new: Baseline, terms: Terms) -> Step:
    if wants_more_runs(old.runs, terms=terms) and len(new.runs) > len(old.runs):
        return Step(action=Action.WRITE, why=f"{len(new.runs)} runs instead of {len(old.runs)} resolve more")
    if _has_moved(verdict.comparisons):
        return Step(action=Action.WRITE, why="it moved more than its noise")
    return Step(action=Action.KEEP, why="nothing moved more than its own noise")


def _has_moved(comparisons: Sequence[Comparison]) -> bool:
    """Tell whether the interval of some change leaves out zero."""
    newest = (comparison for comparison in comparisons if not comparison.anchor)
    return any(
        comparison.low_pct is None or comparison.high_pct is None or comparison.low_pct > 0 or comparison.high_pct < 0
        for comparison in newest
    )
