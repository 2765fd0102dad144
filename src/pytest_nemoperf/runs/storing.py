"""Choose the baseline that a judged case leaves: among the committed ones, for this machine alone, or none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_nemoperf.baselines.baseline import Baseline
from pytest_nemoperf.baselines.far_off import far_off_figures
from pytest_nemoperf.baselines.store import BaselineStore, StoredBaseline
from pytest_nemoperf.errors import count_text
from pytest_nemoperf.verdict.comparison import LOCALLY_RECORDED, NEEDS_ACCEPTANCE
from pytest_nemoperf.verdict.policy import VerdictPolicy
from pytest_nemoperf.verdict.remedies import remedies_of
from pytest_nemoperf.verdict.resolution import unmet_tolerance_messages
from pytest_nemoperf.verdict.updates import (
    Action,
    UpdateDecision,
    UpdateOptions,
    add_session,
    can_add_session,
    can_append_runs,
    join_runs,
    next_anchor,
    plan_update,
)

if TYPE_CHECKING:
    from pytest_nemoperf.verdict.judge import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOutcome:
    """Baseline to be stored for a case, or the reason why none is.

    Attributes:
        path: File to write; empty if none is.
        stored: Its new content; None if none is written.
        replaced: Its content at the time of the decision.
        is_local: It is in this machine's own store.
        note: Reason why it is or is not written; empty for an ordinary session.
        accepted_reason: Reason given for accepting a loss; empty if none was accepted.
    """

    path: str = ""
    stored: Baseline | None = None
    replaced: Baseline | None = None
    is_local: bool = False
    note: str = ""
    accepted_reason: str = ""


class BaselineWriter:
    """Chooses the baseline of each case; the session writes it when the test has ended.

    Args:
        store: Stored baselines.
        runs: Launches that make a baseline.
        updating: Values of ``--update-baselines``; None if committed baselines are not written.
    """

    def __init__(self, store: BaselineStore, *, runs: int, updating: UpdateOptions | None) -> None:
        self._store = store
        self._runs = runs
        self._updating = updating

    def choose(
        self,
        new: Baseline,
        *,
        verdict: Verdict,
        found: StoredBaseline,
        policy: VerdictPolicy,
        is_in_process: bool,
        is_same_code: bool = False,
    ) -> StoreOutcome:
        """Return the baseline to be stored for the runs of a sound case.

        Args:
            new: Baseline of these runs.
            verdict: Verdict on them.
            found: Baseline they were judged against.
            policy: Tolerances and error rates.
            is_in_process: The case is measured once a session, so that its baseline grows from session to session.
            is_same_code: A loss is of the very code, environment and recipe of the baseline.

        Raises:
            BaselineError: If a stored file can't be trusted.
        """
        if self._updating is not None:
            return self._update(
                new,
                verdict=verdict,
                policy=policy,
                is_in_process=is_in_process,
                is_same_code=is_same_code,
                updating=self._updating,
            )
        far_off = next(far_off_figures(new.runs), None)
        if far_off is not None:  # nobody asked to store them, so the test does not fail for it
            return StoreOutcome(note=f"not stored: run {far_off.index + 1}: {far_off.text}")
        if verdict.kind in LOCALLY_RECORDED and not found.is_comparable:
            new = replace(new, reason=f"first run here: {verdict.kind}")
            return StoreOutcome(path=str(self._store.local_path(new.case)), stored=new, is_local=True)
        if is_in_process and found.is_local and found.baseline is not None:
            more = join_runs(found.baseline, new=new, runs=self._runs)
            is_longer = len(more.runs) > len(found.baseline.runs)
            if is_longer and can_append_runs(verdict, old=found.baseline, new=new, policy=policy):
                more = replace(more, reason=_growth_note(more, runs=self._runs), anchor=found.baseline.anchor)
                path = str(self._store.local_path(more.case))
                return StoreOutcome(path=path, stored=more, is_local=True, note=more.reason)
        return StoreOutcome()

    def _update(
        self,
        new: Baseline,
        *,
        verdict: Verdict,
        policy: VerdictPolicy,
        is_in_process: bool,
        is_same_code: bool,
        updating: UpdateOptions,
    ) -> StoreOutcome:
        old = self._store.find_committed(new.case)
        if updating.adds_session and old is not None:
            return self._add_session(
                new, old=old, verdict=verdict, policy=policy, is_same_code=is_same_code, updating=updating
            )
        is_growing = False
        if is_in_process and old is not None and can_append_runs(verdict, old=old, new=new, policy=policy):
            new = join_runs(old, new=new, runs=self._runs)
            is_growing = len(new.runs) > len(old.runs) and not updating.is_new_only
        decision = plan_update(
            verdict,
            old=old,
            new=new,
            policy=policy,
            runs=self._runs,
            is_accepted=updating.is_accepted,
            is_new_only=updating.is_new_only,
            release=updating.anchor,
        )
        if is_growing:
            decision = UpdateDecision(action=Action.WRITE, why=_growth_note(new, runs=self._runs))
        if decision.action is not Action.WRITE:
            notes = [decision.why]
            if old is not None and decision.action is Action.KEEP:
                notes += unmet_tolerance_messages(old.runs, policy=policy)
            return StoreOutcome(note="; ".join(notes))
        new = replace(
            new,
            reason=updating.reason or "--update-baselines",
            anchor=next_anchor(verdict, old=old, new=new, policy=policy, release=updating.anchor),
        )
        notes = [decision.why, _anchor_note(new, old=old)]
        if not is_in_process or len(new.runs) >= self._runs:
            notes += unmet_tolerance_messages(new.runs, policy=policy)
        accepted_reason = ""
        if updating.is_accepted and verdict.kind in NEEDS_ACCEPTANCE:
            accepted_reason = updating.reason
        return StoreOutcome(
            path=str(self._store.committed_path(new.case)),
            stored=new,
            replaced=old,
            note="; ".join(filter(None, notes)),
            accepted_reason=accepted_reason,
        )

    def _add_session(
        self,
        new: Baseline,
        *,
        old: Baseline,
        verdict: Verdict,
        policy: VerdictPolicy,
        is_same_code: bool,
        updating: UpdateOptions,
    ) -> StoreOutcome:
        """Return old with new's runs as those of another session, or the reason why they are not added."""
        if not can_add_session(verdict, old=old, new=new, is_same_code=is_same_code):
            why = f"{verdict.kind} is no further session of the same speed"
            option = remedies_of(policy).add_session
            return StoreOutcome(note=f"{why}: without {option} these runs would replace the stored ones")
        joined = add_session(old, new=new)
        joined = replace(joined, reason=updating.reason or "--perf-add-session", anchor=old.anchor)
        num_sessions = len({run.session for run in joined.runs})
        return StoreOutcome(
            path=str(self._store.committed_path(new.case)),
            stored=joined,
            replaced=old,
            note=f"{count_text(len(joined.runs), 'run')} of {count_text(num_sessions, 'session')}",
        )


def _anchor_note(new: Baseline, *, old: Baseline | None) -> str:
    """Return a note on an anchor that is set or dropped; empty if it stays as it was."""
    if new.anchor == (old.anchor if old else None):
        return ""
    if new.anchor is None:
        return "its anchor is dropped: decay is measured from these runs"
    return f"the anchor is {new.anchor.name} now, with {count_text(len(new.anchor.runs), 'run')}"


def _growth_note(baseline: Baseline, *, runs: int) -> str:
    return f"the baseline gathers a run a session: {len(baseline.runs)} of {runs}"
