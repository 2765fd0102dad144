"""What becomes of a judged case: stored, left as it is, or recorded for this machine alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_nemoperf.baseline import Baseline
from pytest_nemoperf.comparison import Terms, VerdictKind
from pytest_nemoperf.settings import Settings, Updating
from pytest_nemoperf.store import BaselineStore, Found
from pytest_nemoperf.updates import NEEDS_ACCEPTANCE, Action, grown, next_anchor, plan_update

if TYPE_CHECKING:
    from pytest_nemoperf.verdict import Verdict

LOCALLY_RECORDED = frozenset({VerdictKind.NO_BASELINE, VerdictKind.NOT_COMPARABLE})
_GROWING = frozenset({VerdictKind.PASSED, VerdictKind.IMPROVED, VerdictKind.INCONCLUSIVE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What became of a case.

    Attributes:
        path: File written; empty if none was.
        replaced: What was in it.
        is_local: It is in this machine's own store.
        note: Why it was or was not written; empty where that needs no words.
        accepted_reason: Why a loss was accepted; empty if none was.
    """

    path: str = ""
    replaced: Baseline | None = None
    is_local: bool = False
    note: str = ""
    accepted_reason: str = ""


class Keeper:
    """Stores what is to be stored.

    Args:
        store: Where.
        settings: Of the session.
    """

    def __init__(self, store: BaselineStore, *, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    def keep(self, new: Baseline, *, verdict: Verdict, found: Found, terms: Terms, is_in_process: bool) -> Kept:
        """Store a sound case's runs where that is due.

        Args:
            new: What they would be stored as.
            verdict: On them.
            found: What they were judged against.
            terms: By what.
            is_in_process: They are measured once a session, so a baseline grows from session to session.

        Raises:
            BaselineError: If a stored file can't be trusted or written.
        """
        updating = self._settings.updating
        if updating is not None:
            return self._update(
                new, verdict=verdict, found=found, terms=terms, is_in_process=is_in_process, updating=updating
            )
        has_own = found.baseline is not None and self._store.compares(found.baseline, workload=new.workload)
        if verdict.kind in LOCALLY_RECORDED and not has_own:
            path = self._store.record_locally(replace(new, reason=f"first run here: {verdict.kind}"))
            return Kept(path=str(path), is_local=True)
        if is_in_process and found.is_local and found.baseline is not None and verdict.kind in _GROWING:
            more = grown(found.baseline, new=new, runs=self._settings.runs)
            if more is not None:
                path = self._store.record_locally(more)
                return Kept(path=str(path), is_local=True, note=_growth(more, runs=self._settings.runs))
        return Kept()

    def _update(
        self,
        new: Baseline,
        *,
        verdict: Verdict,
        found: Found,
        terms: Terms,
        is_in_process: bool,
        updating: Updating,
    ) -> Kept:
        old = self._store.find_committed(new.case)
        if is_in_process and old is not None and verdict.kind in _GROWING and not found.is_local:
            more = None if updating.is_new_only else grown(old, new=new, runs=self._settings.runs)
            if more is not None:
                path, replaced = self._store.update(more)
                return Kept(path=str(path), replaced=replaced, note=_growth(more, runs=self._settings.runs))
        step = plan_update(
            verdict,
            old=old,
            new=new,
            terms=terms,
            is_accepted=updating.is_accepted,
            is_new_only=updating.is_new_only,
        )
        if step.action is not Action.WRITE and not (updating.anchor and step.action is Action.KEEP):
            return Kept(note=step.why)
        is_accepted = verdict.kind in NEEDS_ACCEPTANCE
        new = replace(
            new,
            reason=updating.reason or "--update-baselines",
            anchor=next_anchor(verdict, old=old, new=new, release=updating.anchor),
        )
        path, replaced = self._store.update(new)
        return Kept(
            path=str(path),
            replaced=replaced,
            note=step.why,
            accepted_reason=updating.reason if is_accepted else "",
        )


def _growth(baseline: Baseline, *, runs: int) -> str:
    return f"the baseline gathers a run a session: {len(baseline.runs)} of {runs}"
