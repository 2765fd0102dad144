"""Confirmation of suspects: cases that a stored baseline can't clear are compared with its commit, side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_nemoperf.ab.comparison import ABResult
from pytest_nemoperf.ab.import_paths import default_paths, is_unchanged
from pytest_nemoperf.ab.plan import DEFAULT_BLOCK_STEPS
from pytest_nemoperf.ab.worktree import Revision, find_revision
from pytest_nemoperf.errors import NemoPerfError, RevisionError
from pytest_nemoperf.measure.figures import figure_over_runs
from pytest_nemoperf.records.fingerprint import Significance, compare_fingerprints
from pytest_nemoperf.records.metrics import METRICS, PEAK_MEMORY_GIB, STEP_TIME_SEC
from pytest_nemoperf.report.cells import elapsed_text
from pytest_nemoperf.results.cases import Confirmation
from pytest_nemoperf.session.side_by_side import RoundsCompared, SideBySide
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.verdict.confirmation import (
    SUSPECT,
    SideOutcome,
    confirmed,
    has_loss,
    is_left_to_stored_evidence,
    suspect_sides,
    worst_suspect,
)
from pytest_nemoperf.verdict.defaults import CONFIRMING_ROUNDS
from pytest_nemoperf.verdict.yardstick import yardstick_sentence

if TYPE_CHECKING:
    from pytest_nemoperf.ab.pytest_process import PytestInvocation
    from pytest_nemoperf.baselines.baseline import Baseline
    from pytest_nemoperf.measure.measurement import Run
    from pytest_nemoperf.records.provenance import Provenance
    from pytest_nemoperf.runs.folders import SessionFolder
    from pytest_nemoperf.session.cases import MeasuredCase, PlannedCase
    from pytest_nemoperf.session.context import Context
    from pytest_nemoperf.session.progress import Progress
    from pytest_nemoperf.verdict.judge import Verdict
    from pytest_nemoperf.verdict.policy import VerdictPolicy

_SHORT_HASH = 7
_MAX_STEPS = 12
"""Measured steps of a side in a round: two rounds of 12 tell more than one of 24, as launches scatter too."""


_LONG_STEP_SEC = 0.15
"""A step that is so long hardly feels the caches that the other side left, so that sides may take turns after each."""
_MAX_LONG_STEPS = 6
"""Measured steps of a side in a round of long steps: they scatter less than short ones."""
_MAX_CHECKOUTS = 3
"""Commits that are kept checked out, with helper processes of both sides."""
_DEVICE_CHOICE = "env.CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A side of a case that was to be compared.

    Attributes:
        outcome: What came of it.
        ab: Rounds and method; None if there were none.
        took_sec: Time it took.
    """

    outcome: SideOutcome
    ab: ABResult | None
    took_sec: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reference:
    """Stored runs that a side of a verdict is compared with.

    Attributes:
        anchor: Name of the anchor; empty for the newest baseline.
        runs: The stored runs.
        provenance: Commit and date of the runs.
        environment: Versions and settings inside their processes; None if they were not stored.
    """

    anchor: str
    runs: tuple[Run, ...]
    provenance: Provenance
    environment: dict[str, str] | None


class Confirmer:
    """Compares suspects with the commits of their baselines; each is checked out once a session.

    Args:
        context: Settings, code and root directory of the session.
        folder: Working folder of the session.
        invocation: How the session was started, for tests that measure in their own process.
        progress: Display of the rounds.
    """

    def __init__(
        self, context: Context, *, folder: SessionFolder, invocation: PytestInvocation, progress: Progress
    ) -> None:
        self._context = context
        self._folder = folder
        self._invocation = invocation
        self._progress = progress
        self._options = context.settings.confirm
        self._revisions: dict[str, Revision | str] = {}  # by commit; a text for one that is not at hand
        self._unchanged: dict[str, bool] = {}
        self._sides: dict[str, SideBySide] = {}

    def policy(self, policy: VerdictPolicy, *, baseline: Baseline | None) -> VerdictPolicy:
        """Return the policy of a case beside its stored baseline: with rounds to come if they are possible."""
        if baseline is None or not self._is_asked(baseline) or isinstance(self._at_hand(baseline.provenance), str):
            return policy
        anchor = baseline.anchor
        return replace(
            policy,
            confirming_rounds=CONFIRMING_ROUNDS,
            confirms_anchor=anchor is not None and isinstance(self._at_hand(anchor.provenance), Revision),
        )

    def compare(self, measured: MeasuredCase, *, case: PlannedCase | None = None) -> list[Compared]:
        """Compare a measured case side by side, if its stored baseline does not clear it.

        Errors of the comparison don't reach the test: the stored evidence stands, with the error beside it.

        Args:
            measured: The case with its measurement and the verdict of the stored baseline.
            case: The case as it was planned; None for one that is measured in the test process.

        Returns:
            One entry for each side that was to be compared: the newest baseline, the anchor.
        """
        verdict = measured.verdict
        baseline = measured.found.baseline
        if verdict is None or not verdict.comparisons or baseline is None or not self._is_asked(baseline):
            return []
        sides = suspect_sides(verdict)
        if self._options.mode == "always" and "" not in sides:
            sides.insert(0, "")
        compared: list[Compared] = []
        for anchor in sides:
            reference = _reference(baseline, anchor=anchor)
            started = time.monotonic()
            outcome, ab = self._compare(verdict, reference=reference, earlier=compared, measured=measured, case=case)
            compared.append(Compared(outcome=outcome, ab=ab, took_sec=time.monotonic() - started))
            if outcome.verdict is not None and outcome.verdict.kind is VerdictKind.REGRESSED:
                break
        return compared

    def confirm(self, measured: MeasuredCase, *, compared: Sequence[Compared]) -> MeasuredCase:
        """Return a measured case with the verdict that its comparisons leave of the stored baseline's."""
        verdict = measured.verdict
        if verdict is None:
            return measured
        for each in compared:
            verdict = confirmed(verdict, outcome=each.outcome, fails_on_machine=self._options.fails_on_machine)
        return replace(measured, verdict=verdict, confirmations=tuple(map(_result, compared)))

    def is_left_to_stored_evidence(self, measured: MeasuredCase, *, compared: Sequence[Compared]) -> bool:
        """Return whether rounds that were to decide on a suspect did not: the stored runs must tell alone then."""
        if measured.verdict is None or not measured.policy.confirming_rounds:
            return False
        verdict = measured.verdict
        return any(is_left_to_stored_evidence(verdict, outcome=each.outcome) for each in compared)

    def is_clear(self, verdict: Verdict, *, measured: MeasuredCase) -> bool:
        """Return whether no more launches are needed: code and environment are the baseline's, and nothing is lost."""
        baseline = measured.found.baseline
        if baseline is None or measured.measurement.inject_pct:
            return False
        revision = self._at_hand(baseline.provenance)
        if isinstance(revision, str) or not self._is_same_code(revision):
            return False
        return not has_loss(verdict) and not _differences(measured, reference=_reference(baseline, anchor=""))

    def is_same_code(self, measured: MeasuredCase) -> bool:
        """Return whether code and environment are those of the newest baseline's commit."""
        if measured.verdict is None:
            return False
        return self.is_clear(replace(measured.verdict, comparisons=()), measured=measured)

    def close(self) -> None:
        """Stop every process and remove the checkouts; may be called twice."""
        for side in self._sides.values():
            side.close()

    def _compare(
        self,
        verdict: Verdict,
        *,
        reference: _Reference,
        earlier: Sequence[Compared],
        measured: MeasuredCase,
        case: PlannedCase | None,
    ) -> tuple[SideOutcome, ABResult | None]:
        """Return the outcome of one side, and the rounds if there were any."""
        provenance = reference.provenance
        differences = tuple(_differences(measured, reference=reference))
        outcome = SideOutcome(
            anchor=reference.anchor,
            commit=(provenance.git_commit or "")[:_SHORT_HASH],
            recorded=provenance.date.partition("T")[0],
            differences=differences,
            yardstick=_yardstick(verdict, runs=measured.measurement.runs, reference=reference, differences=differences),
        )
        revision = self._at_hand(provenance)
        if isinstance(revision, str):
            return replace(outcome, problem=revision), None
        if self._is_same_code(revision) and not measured.measurement.inject_pct:
            return replace(outcome, is_same_code=True), None
        for each in earlier:  # the anchor may be of the newest baseline's commit
            if each.outcome.commit == outcome.commit and each.outcome.verdict is not None:
                rounds = each.outcome
                return replace(outcome, verdict=rounds.verdict, num_rounds=rounds.num_rounds), each.ab
        self._report(verdict, outcome=outcome)
        try:
            compared = self._rounds(
                self._side(revision), outcome=outcome, verdict=verdict, measured=measured, case=case
            )
        except (NemoPerfError, OSError) as exc:
            return replace(outcome, problem=f"side by side with {outcome.commit}: {exc}"), None
        num_rounds = sum(not each.left_out for each in compared.ab.rounds)
        return replace(outcome, verdict=compared.verdict, num_rounds=num_rounds), compared.ab

    def _rounds(
        self,
        sides: SideBySide,
        *,
        outcome: SideOutcome,
        verdict: Verdict,
        measured: MeasuredCase,
        case: PlannedCase | None,
    ) -> RoundsCompared:
        """Run rounds of a case; see SideBySide.compare for errors."""
        policy = replace(measured.policy, confirming_rounds=CONFIRMING_ROUNDS)
        run_dir = self._folder.path / measured.measurement.case / f"beside-{outcome.commit}"
        limit_sec = self._options.limit_sec
        if case is None:
            return sides.compare_test(
                measured,
                policy=policy,
                run_dir=run_dir,
                limit_sec=limit_sec,
                invocation=self._invocation,
                most_rounds=CONFIRMING_ROUNDS,
            )
        phases = []
        steps = min(case.plan.steps, _MAX_STEPS)
        block_steps = DEFAULT_BLOCK_STEPS
        step_time_sec = figure_over_runs(measured.measurement.runs, metric=STEP_TIME_SEC.name)
        if step_time_sec is not None and step_time_sec >= _LONG_STEP_SEC:
            steps = min(steps, _MAX_LONG_STEPS)
            block_steps = 1
        for each in verdict.comparisons:
            if each.kind not in SUSPECT or each.anchor != outcome.anchor:
                continue
            if METRICS[each.metric].phases:
                phases.append(METRICS[each.metric])
            if each.slow_steps_loss_pct is not None or each.metric == PEAK_MEMORY_GIB.name:
                steps = case.plan.steps  # what comes late, or every so many steps, does not show in short rounds
        timeout_sec = min(case.plan.timeout_sec, limit_sec / 2.0)  # of either side, one after the other or in turns
        shorter = replace(case, plan=replace(case.plan, steps=steps, timeout_sec=timeout_sec))
        return sides.compare(
            shorter,
            policy=policy,
            run_dir=run_dir,
            limit_sec=limit_sec,
            most_rounds=CONFIRMING_ROUNDS,
            phases=phases,
            block_steps=block_steps,
        )

    def _report(self, verdict: Verdict, *, outcome: SideOutcome) -> None:
        why = "by --perf-confirm=always"
        if verdict.kind in SUSPECT:
            why = f"for its stored {'anchor' if outcome.anchor else 'baseline'} does not clear it ({verdict.kind})"
        self._progress.write_line(
            f"{verdict.case} is compared side by side with {outcome.commit}, {why}; at most "
            f"{elapsed_text(self._options.limit_sec)}"
        )

    def _is_asked(self, baseline: Baseline) -> bool:
        """Return whether suspects are to be confirmed: not by a page, nor if losses are accepted anyway."""
        if baseline.published is not None:
            return False
        updating = self._context.settings.updating
        return updating is None or not updating.is_accepted

    def _at_hand(self, provenance: Provenance) -> Revision | str:
        """Return the commit of stored runs, or the reason that nothing can be compared with their code."""
        commit = provenance.git_commit
        if self._options.mode == "never":
            return "--perf-confirm=never"
        if commit is None:
            return "the stored runs name no commit"
        short = commit[:_SHORT_HASH]
        if provenance.source:
            return f"the stored runs were read from logs, which don't tell whether files had changed since {short}"
        if provenance.git_dirty is None:
            return f"git could not tell whether files had changed since {short}"
        if provenance.git_dirty:
            return f"the stored runs are of changes on top of {short}, which are in no commit"
        if commit not in self._revisions:
            try:
                self._revisions[commit] = find_revision(commit, root=self._context.root, subject="baseline commit")
            except RevisionError as exc:
                self._revisions[commit] = (
                    f"commit {short} is not at hand ({exc}); in a shallow clone git fetch --unshallow brings it"
                )
        return self._revisions[commit]

    def _is_same_code(self, revision: Revision) -> bool:
        """Return whether the working tree holds the very files of a commit."""
        if revision.commit not in self._unchanged:
            settings = self._context.settings
            paths = settings.sides.paths or default_paths(self._context.root)
            try:
                self._unchanged[revision.commit] = is_unchanged(
                    revision,
                    paths=paths,
                    project=self._context.root,
                    state_dir=settings.state_dir,
                    baselines_dir=settings.baselines_dir,
                )
            except RevisionError:  # not known to be the same: rounds tell
                self._unchanged[revision.commit] = False
        return self._unchanged[revision.commit]

    def _side(self, revision: Revision) -> SideBySide:
        if revision.commit not in self._sides:
            if len(self._sides) >= _MAX_CHECKOUTS:
                oldest = next(iter(self._sides))
                self._sides.pop(oldest).close()
            self._sides[revision.commit] = SideBySide(
                revision,
                options=self._context.settings.sides,
                reason="--perf-confirm",
                context=self._context,
                progress=self._progress,
            )
        return self._sides[revision.commit]


def _reference(baseline: Baseline, *, anchor: str) -> _Reference:
    if anchor and baseline.anchor is not None:
        return _Reference(
            anchor=anchor, runs=baseline.anchor.runs, provenance=baseline.anchor.provenance, environment=None
        )
    return _Reference(
        anchor="", runs=baseline.runs, provenance=baseline.provenance, environment=dict(baseline.environment)
    )


def _yardstick(verdict: Verdict, *, runs: Sequence[Run], reference: _Reference, differences: Sequence[str]) -> str:
    """Return a sentence on the speed of the machine, for a suspect rate or time; empty if there is nothing to say."""
    speeds = [each for each in verdict.comparisons if each.metric != PEAK_MEMORY_GIB.name]
    suspect = worst_suspect(speeds, anchor=reference.anchor)
    if suspect is None:
        return ""
    loss_pct = -100.0 * math.expm1(-suspect.worsening)  # of the rate, also where a time is judged
    return yardstick_sentence(runs, reference.runs, loss_pct=loss_pct, has_other_libraries=bool(differences))


def _differences(measured: MeasuredCase, *, reference: _Reference) -> list[str]:
    """Return the watched changes of the environment since the stored runs, as ``torch 2.11 -> 2.12``.

    The choice of a device is none: another GPU of the same kind is another machine.
    """
    then = {**reference.provenance.environment(), **(reference.environment or {})}
    now = measured.provenance.environment()
    if reference.environment:
        now = {**now, **measured.measurement.environment}
    changes = []
    for difference in compare_fingerprints(then, now=now):
        if difference.tier is Significance.WATCHED and difference.name != _DEVICE_CHOICE:
            changes.append(f"{difference.name} {difference.then} -> {difference.now}")
    return changes


def _result(compared: Compared) -> Confirmation:
    outcome = compared.outcome
    comparisons = outcome.verdict.comparisons if outcome.verdict is not None else ()
    kind = outcome.verdict.kind if outcome.verdict is not None else None
    return Confirmation(
        commit=outcome.commit,
        anchor=outcome.anchor,
        kind=kind,
        comparisons=comparisons,
        is_same_code=outcome.is_same_code,
        differences=outcome.differences,
        problem=outcome.problem,
        ab=compared.ab,
        duration_sec=round(compared.took_sec, 3),
    )
