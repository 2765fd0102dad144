"""One perf session: cases are planned, measured, judged, stored and reported, each by a module of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.ab.measure_request import write_measurement
from pytest_nemoperf.errors import (
    NO_MEMORY_LEFT,
    BaselineError,
    NemoPerfError,
    RecipeError,
    RevisionError,
    in_one_line,
    os_error_text,
)
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.launchers.builtin import choose_launcher
from pytest_nemoperf.machine.host_lock import HostLock
from pytest_nemoperf.measure.measurement import Measurement
from pytest_nemoperf.options.markers import PerfMark
from pytest_nemoperf.options.settings import Settings
from pytest_nemoperf.options.usage import usage_error
from pytest_nemoperf.recipes.overrides import changes_text
from pytest_nemoperf.records.collective import Collective
from pytest_nemoperf.records.machine_key import num_gpus_of
from pytest_nemoperf.records.provenance import Provenance
from pytest_nemoperf.report.markdown.pretrain import render_markdown
from pytest_nemoperf.results.by_framework import compare_frameworks
from pytest_nemoperf.results.cases import CaseReport, NotRun, Pruned, SessionResults, Unasked
from pytest_nemoperf.results.dry_run import DRY_RUN_FILE, DryRun, suite_cost
from pytest_nemoperf.runs.collective import CollectiveLaunches
from pytest_nemoperf.runs.folders import SessionFolder
from pytest_nemoperf.session.ab_session import ABSession
from pytest_nemoperf.session.baseline_verdict import unjudged
from pytest_nemoperf.session.cases import (
    CaseLauncher,
    MeasuredCase,
    PlannedCase,
    ending_text,
    measured_text,
)
from pytest_nemoperf.session.collected import Suite
from pytest_nemoperf.session.confirm import Confirmer
from pytest_nemoperf.session.context import Context
from pytest_nemoperf.session.in_process import judge_in_process, measured_in_process
from pytest_nemoperf.session.invocation import invocation_of
from pytest_nemoperf.session.judge_case import judge_case
from pytest_nemoperf.session.launches import Launches, Replay
from pytest_nemoperf.session.outputs import write_files
from pytest_nemoperf.session.planning import Planner
from pytest_nemoperf.session.profiles import is_profile_due, profile_report, store_new_profile
from pytest_nemoperf.session.progress import Progress
from pytest_nemoperf.session.writable import check_outputs
from pytest_nemoperf.verdict.comparison import VerdictKind

_KEPT_SESSIONS = 10


class PerfSession:
    """Cases of one pytest session, from measurement to report.

    Args:
        config: Config of the pytest session.
        settings: Values of its options and ini keys.

    Raises:
        pytest.UsageError: If the revision of ``--perf-ab`` is missing, or has the very files of the working tree, or a
            folder that the session writes into takes no file.
    """

    def __init__(self, config: pytest.Config, *, settings: Settings) -> None:
        check_outputs(config, settings=settings)
        self.settings = settings
        self.reports: list[CaseReport] = []
        self.not_run: list[NotRun] = []
        self.why_none = ""
        self.outside = ""
        self.verdict_failure: BaseException | None = None
        self.num_profiled = 0
        self.unasked: Unasked | None = None
        self.written: list[str] = []
        self.write_error = ""
        self._pruned: Pruned | None = None
        self.context = Context(settings, root=config.rootpath, started_in=config.invocation_params.dir)
        self.progress = Progress(config)
        self.planner = Planner(config, settings=settings, baselines=self.context.baselines)
        self.suite = Suite(config, planner=self.planner)
        self._turn = HostLock()
        self._started = time.monotonic()
        self._folder = SessionFolder(settings.state_dir / "runs")
        self._ranks = choose_launcher()
        self.ab: ABSession | None = None
        self._confirmer = Confirmer(
            self.context,
            folder=self._folder,
            invocation=invocation_of(config, system=settings.system.name),
            progress=self.progress,
        )
        self._replay: Replay | None = None
        self._launcher = self._case_launcher()
        self._measured: dict[str, MeasuredCase] = {}  # by case
        self._running = ""
        self._judged: dict[str, list[str]] = {}  # cases of each test's last attempt
        self._not_compared: dict[str, str] = {}  # test by case that was measured
        self._reported: BaseException | None = None  # the last error that is in a report

    def _case_launcher(self) -> CaseLauncher:
        settings = self.settings
        context = self.context
        if settings.replay_dir is not None:
            self._replay = Replay(context, root=settings.replay_dir)
            return self._replay
        if settings.ab is None:
            return Launches(
                context,
                launcher=self._ranks,
                folder=self._folder,
                turn=self._turn,
                confirmer=self._confirmer,
                progress=self.progress,
                on_unfinished=self._keep_unfinished,
            )
        try:
            self.ab = ABSession(
                settings.ab, context=context, folder=self._folder, turn=self._turn, progress=self.progress
            )
        except RevisionError as exc:
            raise usage_error(str(exc)) from None
        return self.ab

    def begin(self, nodeid: str) -> None:
        """Begin an attempt of a test: the first, or a further one of a plugin that runs failed tests again."""
        self._running = nodeid
        self.progress.begin(nodeid)
        self._judged[nodeid] = []
        self._not_compared.clear()
        self.not_run = [each for each in self.not_run if each.nodeid != nodeid]

    def judged(self, nodeid: str) -> list[CaseReport]:
        """Return the reports of the cases that the last attempt of a test has judged."""
        cases = self._judged.get(nodeid, ())
        return [report for report in self.reports if report.result.verdict.case in cases]

    def check_once(self, case: str, *, nodeid: str) -> None:
        """Check that a test has not measured a case before: of two measurements only one would stand.

        Raises:
            RecipeError: If it has.
        """
        if case in self._not_compared or case in self._judged.get(nodeid, ()):
            raise RecipeError(f"{case} was measured in {nodeid} before; measure it once, or give one recipe a variant")

    def not_compared(self, nodeid: str) -> list[str]:
        """Return the cases that a test has run and not compared."""
        return [case for case, owner in self._not_compared.items() if owner == nodeid]

    def measure(self, case: PlannedCase) -> Measurement:
        """Run a planned case until a verdict is reached or a baseline is complete; see CaseLauncher for errors.

        Args:
            case: Case to run.

        Raises:
            RecipeError: If the test has measured the case before.
        """
        self.check_once(case.plan.case, nodeid=case.mark.nodeid)
        self._not_compared[case.plan.case] = case.mark.nodeid
        self._measured.pop(case.plan.case, None)  # of an earlier attempt of the test
        try:
            measured = self._launcher.measure(case)
        except NemoPerfError as exc:
            self.planner.note_unmeasured(case.plan, nodeid=case.mark.nodeid, reason=in_one_line(exc))
            raise
        self._measured[case.plan.case] = measured
        return measured.measurement

    def measure_collective(self, collective: Collective, *, mark: PerfMark) -> Measurement:
        """Launch a collective: once, or for each run of a baseline that is to be recorded.

        Raises:
            BaselineError: If a stored baseline can't be trusted.
            LaunchError: If ranks failed, hung or were killed.
            RecordError: If they left no times that can be read.
        """
        settings = self.settings
        num_runs = 1
        if settings.measure_into is None:
            found = self.context.baselines.find(collective.case, workload=collective.workload, plan=None)
            if settings.updating is not None or not found.is_comparable:
                num_runs = self.planner.num_runs(mark)
        launches = CollectiveLaunches(
            launcher=self._ranks,
            root=self._folder.path,
            on_poll=lambda: self.progress.step(None),
            report=self.progress.write_line,
            is_watched=settings.measure_into is None,
        )
        return launches.measure(collective, system=settings.system.name, num_runs=num_runs)

    def judge(self, measurement: Measurement, *, mark: PerfMark) -> CaseReport:
        """Judge a measurement, show its line, profile it if that is due, and keep its report.

        A baseline to be stored is written when the test has ended.

        Args:
            measurement: As ``measure`` returned it, or of a loop or benchmark of the test process.
            mark: Markers of the test that asks for the case.

        Raises:
            BaselineError: If a stored baseline can't be trusted.
            RecipeError: If the test has judged the case before, or the case belongs to another test.
            UnsupportedError: If the session compares two revisions, and the case was measured of one.
        """
        self._not_compared.pop(measurement.case, None)
        case = self._measured.get(measurement.case)
        if case is None or case.mark.nodeid != mark.nodeid:
            self.planner.claim(measurement.case, nodeid=mark.nodeid)
            case = measured_in_process(measurement, mark=mark, context=self.context, planner=self.planner)
            try:
                case = judge_in_process(case, context=self.context, confirmer=self._confirmer)
            except BaselineError as exc:
                self._keep_unjudged(case, exc, problem=in_one_line(exc))
                raise
        elif case.ab is None and measurement is not case.measurement:
            found = self.context.baselines.find(
                measurement.case, workload=measurement.workload, plan=case.plan, machine=case.machine
            )
            policy = replace(case.policy, confirming_rounds=0)  # the rounds would not measure what the test made of it
            case = replace(case, measurement=measurement, found=found, policy=policy, verdict=None, confirmations=())
        self.check_once(measurement.case, nodeid=mark.nodeid)
        framework = None
        if case.plan is not None:
            framework = self.planner.frameworks.get(case.plan.framework)
        try:
            report = judge_case(case, context=self.context, framework=framework)
        except BaselineError as exc:
            self._keep_unjudged(case, exc, problem=in_one_line(exc))
            raise
        return self._profiled(self._add(report))

    def _add(self, report: CaseReport) -> CaseReport:
        """Add a report, in place of that of an earlier attempt of its test, and show its line; return it."""
        verdict = report.result.verdict
        for other in self.reports:
            if other.result.verdict.case == verdict.case:
                kinds = (*other.result.earlier_verdicts, other.result.verdict.kind)
                report = replace(report, result=replace(report.result, earlier_verdicts=kinds))
                self.reports.remove(other)
                break
        self.reports.append(report)
        self._judged.setdefault(report.result.nodeid, []).append(verdict.case)
        self.progress.case(report)
        return report

    def note_left(self, measurement: Measurement, *, mark: PerfMark, error: BaseException) -> None:
        """Report the complete passes of a loop that an error has left as an INVALID case; the error fails the test."""
        if self.settings.measure_into is not None or not measurement.runs:
            return
        self.planner.claim(measurement.case, nodeid=mark.nodeid)
        case = measured_in_process(measurement, mark=mark, context=self.context, planner=self.planner)
        self._keep_unjudged(case, error, problem=f"its loop {ending_text(error)}")

    def _keep_unjudged(self, case: MeasuredCase, error: BaseException, *, problem: str) -> None:
        """Report a measured case as INVALID, for a problem that has nothing to do with its numbers."""
        self._keep_unfinished(unjudged(case, problem=problem, context=self.context), error)

    def _keep_unfinished(self, case: MeasuredCase, error: BaseException) -> None:
        """Report a case that was measured in part, or can't be judged, as INVALID; the error fails the test."""
        self._not_compared.pop(case.measurement.case, None)
        self._reported = error
        self._add(judge_case(case, context=self.context))

    def note_failure(self, error: NemoPerfError | OSError | MemoryError, *, nodeid: str) -> str:
        """List a test that an error ended, unless the report of a case has the error; return the text to fail with."""
        reason = _error_text(error, place=self.settings.state_dir)
        text = f"{type(error).__name__}: {reason}"
        if error is not self._reported:
            if isinstance(error, NemoPerfError):
                reason = in_one_line(error)
            self.not_run.append(NotRun(nodeid=nodeid, reason=reason))
            return text
        measured = measured_text(self.reports[-1].result.measurement.runs)
        return f"{text}\n{measured} before this: see its line, results.json and results.md"

    def _profiled(self, report: CaseReport) -> CaseReport:
        """Profile a case if ``--perf-profile`` asks for it; return its report with the profile.

        The verdict is not changed: the report has a failure of the profiled run.
        """
        if not self.settings.is_profiled or not is_profile_due(report.result, updating=self.settings.updating):
            return report
        case = report.result.verdict.case
        store_command = ""
        if not self.settings.changes:
            store_command = self.context.command(report.result.nodeid, "--update-baselines", "--perf-profile")
        profiled = profile_report(
            report,
            launcher=self._ranks,
            run_dir=self._folder.path / case / "profile",
            root=self.context.root,
            machine=self.context.machine_of(num_gpus_of(report.result.measurement.workload)),
            provenance=self.context.provenance,
            updating=self.settings.updating,
            store_command=store_command,
            progress=self.progress,
        )
        self.num_profiled += 1
        self._replace(report, by=profiled)
        return profiled

    def end(self, *, problem: str) -> None:
        """End the attempt of the running test, if there is one: store its baselines and profiles.

        Args:
            problem: Failure of the test other than its verdicts; nothing is stored then. Empty for none.

        Raises:
            BaselineError: If a baseline can't be written.
        """
        nodeid = self._running
        self._running = ""
        for name in self.not_compared(nodeid):
            if name in self._measured:
                self._report_uncompared(self._measured[name], problem=problem)
        error: BaselineError | None = None
        for report in self.judged(nodeid):
            if report.stored is None and report.new_profile is None:
                continue
            why = problem
            if not why:
                try:
                    self._replace(report, by=self._stored(report))
                except BaselineError as exc:
                    error = exc
                    why = f"{exc}{_record_hint(report)}"
            if why:
                self._replace(report, by=_withdrawn(report, problem=why))
        if error is not None:
            raise error

    def _report_uncompared(self, case: MeasuredCase, *, problem: str) -> None:
        """Report the runs of a case that its test has not given to perf.compare; they fail nothing by themselves."""
        self._not_compared.pop(case.measurement.case)
        reason = problem or "its test never gave it to perf.compare"
        report = judge_case(unjudged(case, problem=reason, context=self.context), context=self.context)
        self._add(replace(report, result=replace(report.result, is_failure=False)))

    def keep_measurement(self, measurement: Measurement, *, nodeid: str) -> None:
        """Write a measurement of the test process for the session that asked for it; see ``Settings.measure_into``.

        Raises:
            RecipeError: If the test has measured the case before.
        """
        assert self.settings.measure_into is not None  # noqa: S101 (the caller has looked)
        self.check_once(measurement.case, nodeid=nodeid)
        self._judged.setdefault(nodeid, []).append(measurement.case)
        write_measurement(self.settings.measure_into, measurement)

    def take_turn(self) -> None:
        """Wait until no other perf session measures on this host, unless it measures for one that does."""
        if self.settings.measure_into is not None:
            return
        self._turn.acquire(report=self.progress.write_line)

    def close(self) -> None:
        """Stop every process, give up the turn, keep the newest runs only; may be called twice."""
        self._ranks.close()
        self._confirmer.close()
        if self.ab is not None:
            self.ab.close()
        self._turn.release()
        self._folder.release()
        # In a replay the oldest runs may be those that were judged again; the session that asks for measurements has
        # its own folder in use.
        if self.settings.replay_dir is None and self.settings.measure_into is None:
            self._folder.delete_old(keep=_KEPT_SESSIONS)

    def finish(self, *, is_collect_only: bool, is_cut_off: bool, has_failed: bool) -> bool:
        """List tests and baselines that the session missed, prune baselines, and write the files.

        Args:
            is_collect_only: Tests were collected and not run.
            is_cut_off: The session was stopped before its last test.
            has_failed: A test has failed.

        Returns:
            Whether the session fails for something that failed no test.
        """
        settings = self.settings
        is_failed = False
        if settings.measure_into is not None:
            return False
        if not is_collect_only:
            is_failed = self._note_unjudged(is_cut_off=is_cut_off, has_failed=has_failed)
        if settings.updating is not None and settings.updating.is_pruning:
            self._pruned = self.suite.prune(self.context.store, shown=self.context.shown)
        has_other_baselines = settings.changes or settings.ab or settings.against == "published"
        if not (settings.is_dry_run or has_other_baselines):
            self.unasked = self.suite.unasked(
                self.context.store,
                missing=self._without_baseline(),
                shown=self.context.shown,
                is_failing=settings.fails_on_unasked and settings.updating is None,
            )
        if not is_collect_only:
            self._write_output()
        return is_failed or (self.unasked is not None and self.unasked.is_failure)

    def _note_unjudged(self, *, is_cut_off: bool, has_failed: bool) -> bool:
        """Note the tests that judged nothing, and the reason if there is no case at all; return whether that fails."""
        suite = self.suite
        known = {each.nodeid for each in self.not_run}
        known |= {case.nodeid for case in self.planner.priced}
        for nodeid, cases in self._judged.items():
            if cases:
                known.add(nodeid)
        if not self.settings.is_dry_run:
            self.outside = suite.outside()
        unjudged = [
            *suite.not_called(is_cut_off=is_cut_off),
            *suite.unjudged(),
            *suite.skipped_files(),
            *suite.lost(),
        ]
        self.not_run += [each for each in unjudged if each.nodeid not in known]
        failing = [report.result for report in self.reports if report.result.is_failure]
        self.not_run += suite.expected_to_fail({case.nodeid: case.verdict for case in failing})
        is_failed = False
        for case in failing:
            if suite.has_passed(case.nodeid):
                reason = f"{case.verdict.kind}, caught outside of the test's body, as in the teardown of a fixture"
                self.not_run.append(NotRun(nodeid=case.nodeid, reason=reason))
                is_failed = True
        if not self.reports and not self.settings.is_dry_run:
            self.why_none = suite.why_none()
            if self.settings.needs_verdict and not has_failed:
                self.why_none += " (a failure, by ini perf_require_verdict)"
                is_failed = True
        return is_failed

    def _without_baseline(self) -> dict[str, Mapping[str, Any]]:
        """Return the workload of each case without a committed baseline, by case."""
        missing = {}
        for report in self.reports:
            verdict = report.result.verdict
            if verdict.kind is VerdictKind.NO_BASELINE or not self.context.store.is_committed(verdict.case):
                missing[verdict.case] = report.result.measurement.workload
        return missing

    def _write_output(self) -> None:
        """Write the results file and the markdown table, or a dry run's file; note their paths, and the error."""
        if self.settings.is_dry_run:
            files = {DRY_RUN_FILE: to_json(self.dry_run)}
        else:
            files = {"results.json": to_json(self.results), "results.md": render_markdown(self.results)}
        written = write_files(files, folder=self.settings.output_dir)
        self.written = [self.context.shown(path) for path in written.paths]
        self.write_error = written.problem

    @cached_property
    def results(self) -> SessionResults:
        """Content of the results file, once the session has finished."""
        settings = self.settings
        context = self.context
        machine, provenance = self._origin()
        cases = tuple(report.result for report in self.reports)
        return SessionResults(
            system=settings.system.name,
            system_title=settings.system.title,
            machine=machine,
            provenance=provenance,
            cases=cases,
            not_run=tuple(self.not_run),
            why_none=self.why_none,
            pruned=self._pruned,
            unasked=self.unasked,
            by_framework=compare_frameworks(
                cases, unmeasured=tuple(self.planner.unmeasured.values()), order=settings.frameworks
            ),
            inject_pct=settings.inject_pct,
            duration_sec=round(time.monotonic() - self._started, 3),
            replay_of=context.shown(settings.replay_dir),
            against=settings.against,
            git_problem="" if settings.replay_dir else context.code.problem,
        )

    @cached_property
    def dry_run(self) -> DryRun:
        """Content of a dry run's file, once the session has finished."""
        planner = self.planner
        return DryRun(
            system=self.settings.system.name,
            system_title=self.settings.system.title,
            cases=tuple(planner.priced),
            not_priced=tuple(self.not_run),
            changes=changes_text(self.settings.changes),
            asked=tuple(planner.asked.values()),
            gaps=tuple(self.suite.gaps()),
            systems=tuple(sorted(planner.systems)),
            cost=suite_cost(planner.priced) if planner.priced else None,
            terms=self.settings.policy,
            noise=self.settings.noise,
        )

    def _origin(self) -> tuple[Mapping[str, str | int], Provenance]:
        """Return machine key and provenance of the session's runs; in a replay, of the first stored ones."""
        if self._replay is not None and self._replay.first is not None:
            return self._replay.first.machine, self._replay.first.provenance
        return self.context.machine, self.context.provenance

    def _replace(self, report: CaseReport, *, by: CaseReport) -> None:
        self.reports[self.reports.index(report)] = by

    def _stored(self, report: CaseReport) -> CaseReport:
        """Write a case's baseline and profile; return its report with the profile's path.

        Raises:
            BaselineError: If the baseline can't be written.
        """
        if report.stored is not None and report.result.is_stored_locally:
            self.context.store.record_locally(report.stored)
        elif report.stored is not None:
            self.context.store.update(report.stored)
        return store_new_profile(
            report, root=self.context.root, updating=self.settings.updating, progress=self.progress
        )


def _error_text(error: NemoPerfError | OSError | MemoryError, *, place: Path) -> str:
    """Return an error as a phrase, with a remedy; place is for errors of the system that name no path."""
    if isinstance(error, OSError):
        return os_error_text(error, place=place)
    if isinstance(error, MemoryError):
        return NO_MEMORY_LEFT
    return str(error)


def _record_hint(report: CaseReport) -> str:
    """Return the end of a message on a baseline that can't be written: the command that makes it of the same runs."""
    folder = report.result.run_dir
    return f"; its runs stay in {folder}, and `nemoperf record {folder}` stores them" if folder else ""


def _withdrawn(report: CaseReport, *, problem: str) -> CaseReport:
    """Return the report of a case that stores nothing after all, because of a problem."""
    result = replace(report.result, stored_path="", is_stored_locally=False, storing_note=f"not stored: {problem}")
    return replace(report, result=result, stored=None, replaced=None, new_profile=None)
