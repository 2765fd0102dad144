"""Runs of a planned case: launched on this machine until their verdict is clear, or stored by an earlier session."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_nemoperf.errors import NemoPerfError, RecordError, UnsupportedError
from pytest_nemoperf.measure.expected_records import expected_of
from pytest_nemoperf.measure.measurement import (
    MeasuredRun,
    measure_run,
    measurement_of,
    workload_of,
)
from pytest_nemoperf.measure.steady_state import Drift
from pytest_nemoperf.runs.execute import run_once
from pytest_nemoperf.runs.replay import TRY_SUFFIXES, CaseRecord, load_case, measure_stored, write_case
from pytest_nemoperf.runs.yardstick import YardstickLaunches
from pytest_nemoperf.session.baseline_verdict import judged_by_baseline
from pytest_nemoperf.session.budget import CaseBudget
from pytest_nemoperf.session.cases import MeasuredCase, PlannedCase, ending_text, not_judged_text
from pytest_nemoperf.verdict.comparison import LOCALLY_RECORDED, VerdictKind
from pytest_nemoperf.verdict.resolution import wants_more_runs

if TYPE_CHECKING:
    from pytest_nemoperf.baselines.store import StoredBaseline
    from pytest_nemoperf.launchers.protocol import Launcher
    from pytest_nemoperf.machine.host_lock import HostLock
    from pytest_nemoperf.recipes.recipe import Plan
    from pytest_nemoperf.runs.folders import SessionFolder
    from pytest_nemoperf.session.confirm import Confirmer
    from pytest_nemoperf.session.context import Context
    from pytest_nemoperf.session.progress import Progress


_MAX_RECORDED_RUNS = 15  # an update that can't hold its tolerance by then says so beside the file
_MAX_UNHEALTHY_TRIES = 2  # other load that disturbs two tries in a row rarely ends before the third


@dataclass(slots=True, kw_only=True)
class _Launched:
    """Launches of one case so far.

    Attributes:
        budget: Time of their steps.
        runs: One entry per launch.
        folders: Folder of each launch in the case's own.
        failure: Reason that the last launch left no record that could be read; empty if it did.
    """

    budget: CaseBudget
    runs: list[MeasuredRun] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    failure: str = ""


class Launches:
    """Launches cases on this machine.

    Args:
        context: Settings, machine and stored baselines of the session.
        launcher: Starts the ranks.
        folder: Working folder of the session.
        turn: Lock that perf sessions of this host take turns with.
        confirmer: Compares what a stored baseline does not clear with the baseline's commit.
        progress: Display of the runs.
        on_unfinished: Called with the runs of a case whose next one failed or was interrupted, and with the error,
            which is raised afterwards.
    """

    def __init__(
        self,
        context: Context,
        *,
        launcher: Launcher,
        folder: SessionFolder,
        turn: HostLock,
        confirmer: Confirmer,
        progress: Progress,
        on_unfinished: Callable[[MeasuredCase, BaseException], None],
    ) -> None:
        self._context = context
        self._confirmer = confirmer
        self._launcher = launcher
        self._folder = folder
        self._turn = turn
        self._progress = progress
        self._on_unfinished = on_unfinished
        self._yardsticks: YardstickLaunches | None = None
        if context.settings.has_yardstick:
            self._yardsticks = YardstickLaunches(launcher, report=progress.write_line)
        self._has_told_of_fewer_steps = False

    def measure(self, case: PlannedCase) -> MeasuredCase:
        """Launch a case until its verdict is clear or its baseline complete; see CaseLauncher.

        Records that can't be read make it INVALID. If a launch fails, or is interrupted, the runs before it are passed
        on as an INVALID case first.
        """
        context = self._context
        plan = case.plan
        self._turn.acquire(report=self._progress.write_line)  # first: the session before may store this case
        found = context.baselines.find(plan.case, workload=workload_of(plan), plan=plan)
        launched = _Launched(budget=CaseBudget(plan, seconds=self._budget_sec(), num_runs=case.num_runs))
        try:
            return self._measure(case, launched=launched, found=found)
        except BaseException as exc:  # a Ctrl-C too
            if launched.runs:
                self._on_unfinished(self._unfinished(case, launched=launched, found=found, error=exc), exc)
            raise

    def _measure(self, case: PlannedCase, *, launched: _Launched, found: StoredBaseline) -> MeasuredCase:
        """Launch a case until its verdict is clear, and compare an unclear one with the baseline's commit."""
        screened = replace(case, policy=self._confirmer.policy(case.policy, baseline=found.baseline))
        measured = self._until_decided(screened, launched=launched, found=found)
        compared = self._confirmer.compare(measured, case=screened)
        confirmed = self._confirmer.confirm(measured, compared=compared)
        if self._confirmer.is_left_to_stored_evidence(confirmed, compared=compared):
            measured = self._until_decided(case, launched=launched, found=found)
            confirmed = self._confirmer.confirm(measured, compared=compared)
        return replace(confirmed, is_same_code=self._confirmer.is_same_code(measured))

    def _until_decided(self, case: PlannedCase, *, launched: _Launched, found: StoredBaseline) -> MeasuredCase:
        """Launch a case until its verdict beside the stored baseline is clear, or its baseline complete.

        Args:
            case: Case to run.
            launched: Runs so far; further ones are added.
            found: Baseline that applies.
        """
        measured: MeasuredCase | None = None
        while measured is None or not self._is_decided(case, measured=measured, budget=launched.budget):
            is_judged_again = measured is None and launched.runs
            if not is_judged_again:
                self._launch(case, launched=launched)
            measured = self._judged(case, launched=launched, found=found, problem=launched.failure)
        try:
            self._write(case, launched=launched)
        except RecordError as exc:  # the runs are measured all the same
            self._progress.write_line(f"the runs of {case.plan.case} can't be judged again (--perf-replay): {exc}")
        return measured

    def _judged(
        self, case: PlannedCase, *, launched: _Launched, found: StoredBaseline, problem: str = ""
    ) -> MeasuredCase:
        """Return the case with its runs so far and their verdict beside the stored baseline.

        Args:
            case: Case of the runs.
            launched: Runs so far.
            found: Baseline that applies.
            problem: Reason that no further run was measured; empty for none.
        """
        context = self._context
        plan = case.plan
        measurement = measurement_of(plan, runs=launched.runs, problem=problem)
        measured = MeasuredCase(
            mark=case.mark,
            measurement=measurement,
            machine=context.machine_of(plan.layout.total_gpus),
            provenance=context.provenance,
            policy=case.policy,
            found=found,
            plan=plan,
            run_dir=self._folder.path / plan.case,
        )
        return judged_by_baseline(measured, context=context)

    def _unfinished(
        self, case: PlannedCase, *, launched: _Launched, found: StoredBaseline, error: BaseException
    ) -> MeasuredCase:
        """Return the runs before a launch that failed, or was interrupted, as an INVALID case."""
        runs = measurement_of(case.plan, runs=launched.runs).runs
        reason = not_judged_text(runs, reason=f"run {len(runs) + 1} {ending_text(error)}")
        with suppress(NemoPerfError, OSError):  # the disk may be full
            launched.folders[len(launched.runs) :] = []
            self._write(case, launched=launched, unfinished=reason)
        return self._judged(case, launched=launched, found=found, problem=reason)

    def _launch(self, case: PlannedCase, *, launched: _Launched) -> None:
        """Launch a case once more and add the run, or the reason that its record can't be read."""
        number = len(launched.runs) + 1
        plan = launched.budget.plan(number)
        self._report_fewer_steps(plan, asked=case.plan)
        try:
            with self._progress.run(plan, number=number, num_runs=self._max_runs(case)):
                run = self._sound_run(case, plan=plan, number=number, folders=launched.folders, budget=launched.budget)
        except RecordError as exc:
            launched.failure = f"run {number}: {exc}"
        else:
            launched.runs.append(run)

    def _write(self, case: PlannedCase, *, launched: _Launched, unfinished: str = "") -> None:
        """Write the record of a case, from which its runs can be judged again: by the stored baseline alone.

        Raises:
            RecordError: If it can't be written.
        """
        context = self._context
        record = CaseRecord(
            case=case.plan.case,
            system=case.plan.system,
            machine=context.machine_of(case.plan.layout.total_gpus),
            provenance=context.provenance,
            terms=replace(case.policy, confirming_rounds=0, confirms_anchor=False),
            fail_on=tuple(sorted(context.settings.fail_on)),
            runs=tuple(launched.folders),
            unreadable=launched.failure,
            unfinished=unfinished,
            waiver=case.mark.waiver.arguments if case.mark.waiver else {},
            release=context.settings.release,
        )
        write_case(self._folder.path / case.plan.case, record=record)

    def _max_runs(self, case: PlannedCase) -> int:
        if self._context.settings.updating is None:
            return max(case.num_runs, case.policy.num_launches)
        return max(case.num_runs, case.policy.num_launches, _MAX_RECORDED_RUNS)

    def _budget_sec(self) -> float | None:
        """Return the time budget of a case; None for an update: its baselines must show the noise of full launches."""
        if self._context.settings.updating is not None:
            return None
        return self._context.settings.budget_sec

    def _report_fewer_steps(self, launched: Plan, *, asked: Plan) -> None:
        """Tell the user once a session that launches run fewer steps than their recipe asks for."""
        if launched.steps == asked.steps or self._has_told_of_fewer_steps:
            return
        self._has_told_of_fewer_steps = True
        self._progress.write_line(
            f"the steps of {asked.case} would take longer than its budget of {self._budget_sec():g} s "
            f"(ini perf_budget), so further launches run {launched.steps} measured steps, not {asked.steps}; "
            "other slow cases do the same"
        )

    def _is_decided(self, case: PlannedCase, *, measured: MeasuredCase, budget: CaseBudget) -> bool:
        """Return whether another launch would change neither the verdict nor the stored baseline."""
        updating = self._context.settings.updating
        verdict = measured.verdict
        if verdict is None:
            return False
        kind = verdict.kind
        num_runs = len(measured.measurement.runs)
        is_accepted = updating is not None and updating.is_accepted
        may_be_cleared = updating is not None and case.policy.confirming_rounds > 0
        if kind is VerdictKind.INVALID or (kind is VerdictKind.REGRESSED and not is_accepted and not may_be_cleared):
            return True  # more launches would be refused as well
        if kind is VerdictKind.INCONCLUSIVE and num_runs < case.policy.num_launches:
            return updating is None and self._confirmer.is_clear(verdict, measured=measured)
        if updating is None:
            # By a page nothing is stored, so that a case without a row needs no runs of a baseline.
            needs_runs = kind in LOCALLY_RECORDED and self._context.settings.against == "baselines"
            return not needs_runs or budget.is_enough(num_runs)
        if num_runs < case.num_runs:
            return False
        return num_runs >= self._max_runs(case) or not wants_more_runs(measured.measurement.runs, policy=case.policy)

    def _sound_run(
        self, case: PlannedCase, *, plan: Plan, number: int, folders: list[str], budget: CaseBudget
    ) -> MeasuredRun:
        """Launch one run until a try of it is sound, and return the last try.

        A try whose steps have not settled, or whose machine was not healthy, is dropped: a passing cause, like other
        load on the host, is gone the next time.

        Args:
            case: Case to run.
            plan: Plan of the run: the case's, maybe with fewer steps.
            number: Number of the run, from 1.
            folders: Folder of each run in the case's own; that of the last try is added.
            budget: Takes the time of each try's steps.

        Raises:
            LaunchError: If ranks failed, hung or were killed.
            RecordError: If they ended well but left an incomplete or impossible record.
        """
        expected = expected_of(plan)
        earlier: list[Drift | None] = []
        folders.append("")
        for attempt, suffix in enumerate(TRY_SUFFIXES, start=1):
            folders[-1] = f"run-{number}{suffix}"
            output = run_once(
                plan,
                framework=case.framework,
                launcher=self._launcher,
                run_dir=self._folder.path / plan.case / folders[-1],
                on_progress=self._progress.step,
                yardsticks=self._yardsticks,
            )
            budget.spend(sum(record.step_time_sec for record in output.records))
            run = measure_run(expected, output)
            self._progress.finish(run)
            if not (run.drift or run.health_problems) or attempt == len(TRY_SUFFIXES):
                break
            if run.health_problems and attempt == _MAX_UNHEALTHY_TRIES:
                break
            problem = run.drift.text if run.drift else run.health_problems[0]
            self._progress.write_line(f"run {number} is dropped and launched again: {problem}")
            if not run.health_problems:  # other load is no drift of the workload, nor of a machine at rest
                earlier.append(run.drift)
        return replace(run, earlier_drifts=tuple(earlier))


class Replay:
    """Gives cases the runs that an earlier session stored.

    Args:
        context: Settings and stored baselines of the session.
        root: Folder of the earlier session, with one for each case.
    """

    def __init__(self, context: Context, *, root: Path) -> None:
        self._context = context
        self._root = root
        self.first: CaseRecord | None = None
        """Record of the first case that was asked for, for the machine and commit of the session's results."""

    def measure(self, case: PlannedCase) -> MeasuredCase:
        """Return a case with the measurement of its stored runs; see CaseLauncher.

        They are measured by the plan that is stored with them, and judged as runs of the machine they were on.
        """
        plan = case.plan
        run_dir = self._root / plan.case
        if not run_dir.is_dir():
            raise UnsupportedError(f"no runs of {plan.case} are stored in {self._root.name}")
        stored = load_case(run_dir)
        if stored.plan.system != plan.system:
            raise UnsupportedError(f"{run_dir} holds runs of system {stored.plan.system}, not {plan.system}")
        self.first = self.first or stored.record
        measurement = measure_stored(stored, framework=case.framework)
        machine = stored.record.machine
        return MeasuredCase(
            mark=case.mark,
            measurement=measurement,
            machine=machine,
            provenance=stored.record.provenance,
            policy=case.policy,
            found=self._context.baselines.find(plan.case, workload=measurement.workload, plan=plan, machine=machine),
            plan=plan,
            run_dir=run_dir,
            is_storable=False,
        )
