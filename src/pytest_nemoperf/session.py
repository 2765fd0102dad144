"""One perf session: what lives as long as it does, and which way its cases go; decided and worded elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nemoperf.absession import open_ab_session
from pytest_nemoperf.baseline import write_atomically
from pytest_nemoperf.case_profiles import is_profile_due, profile_report, store_new_profile
from pytest_nemoperf.changes import changes_text
from pytest_nemoperf.comparison import VerdictKind
from pytest_nemoperf.context import Context
from pytest_nemoperf.dryrun import DRY_RUN_FILE, DryRun
from pytest_nemoperf.errors import BaselineError, RecipeError
from pytest_nemoperf.hostlock import HostLock
from pytest_nemoperf.jsontext import to_json
from pytest_nemoperf.judging import judge_case, launch_case
from pytest_nemoperf.launches import Launches
from pytest_nemoperf.measure import Measurement
from pytest_nemoperf.planner import Planner
from pytest_nemoperf.report.markdown import render_markdown
from pytest_nemoperf.results import CaseReport, NotRun, Pruned, SessionResults, Unasked
from pytest_nemoperf.settings import Settings
from pytest_nemoperf.waivers import Waiver

if TYPE_CHECKING:
    from pytest_nemoperf.frameworks.protocol import Framework
    from pytest_nemoperf.progress import Progress
    from pytest_nemoperf.recipe import Plan

_KEPT_SESSIONS = 10


class PerfSession:
    """Everything that lives as long as the pytest session: launcher, turn on the host, results."""

    def __init__(self, config: pytest.Config, *, settings: Settings) -> None:
        self.settings = settings
        self.reports: list[CaseReport] = []
        self.not_run: list[NotRun] = []
        self.why_none = ""
        self.verdict_failure: BaseException | None = None
        self.num_profiled = 0
        self.pruned: Pruned | None = None
        self.unasked: Unasked | None = None
        self.context = Context(settings, root=config.rootpath, started_in=config.invocation_params.dir)
        self.planner = Planner(config, settings=settings, store=self.context.store)
        self.ab = open_ab_session(settings, root=config.rootpath)
        self._turn = HostLock()
        self._started = time.monotonic()
        self._launches = Launches(settings.state_dir / "runs")
        self._running = ""
        self._judged: dict[str, list[str]] = {}  # cases of each test's last attempt
        self._not_compared: dict[str, str] = {}  # test by case that was measured

    def begin(self, nodeid: str) -> None:
        """Begin an attempt of a test: it may be the first, or one more of a plugin that runs failed tests again."""
        self._running = nodeid
        self._judged[nodeid] = []
        self._not_compared.clear()
        self.not_run = [each for each in self.not_run if each.nodeid != nodeid]

    def judged(self, nodeid: str) -> list[CaseReport]:
        """Return the reports of the cases that the last attempt of a test has judged."""
        return [report for report in self.reports if report.result.verdict.case in self._judged.get(nodeid, ())]

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

    def end(self, *, problem: str, progress: Progress) -> None:
        """End the attempt of the running test, if there is one: write what its cases are to store.

        Args:
            problem: What went wrong with it, other than its verdicts; nothing is stored then. Empty for nothing.
            progress: Is told what becomes of profiles.

        Raises:
            BaselineError: If a baseline can't be written.
        """
        nodeid, self._running = self._running, ""
        error: BaselineError | None = None
        for report in self.judged(nodeid):
            if report.stored is None and report.new_profile is None:
                continue
            why = problem
            if not why:
                try:
                    self._replace(report, by=self._written(report, progress=progress))
                except BaselineError as exc:
                    error, why = exc, str(exc)
            if why:
                self._replace(report, by=_withdrawn(report, problem=why))
        if error is not None:
            raise error

    def run(
        self,
        plan: Plan,
        *,
        framework: Framework,
        nodeid: str,
        runs: int,
        tolerances: Sequence[Mapping[str, float]],
        progress: Progress,
        waiver: Waiver | None = None,
    ) -> Measurement:
        """Launch a plan until a verdict is reached or a baseline is complete, and return what was measured.

        A replay launches nothing and returns what stored runs measured.

        Args:
            plan: What to launch.
            framework: Who trains it.
            nodeid: The test that asks.
            runs: Launches that make a baseline.
            tolerances: Layers on top of the session's, later ones win.
            progress: Shows what goes on.
            waiver: What the test says of a known loss; None for nothing.

        Raises:
            BaselineError: If a stored baseline can't be trusted; nothing is launched then.
            LaunchError: If ranks failed, hung or were killed.
            RecipeError: If the test has measured the case before.
            RecordError: If stored runs can't be trusted, or this session's can't be stored.
            UnsupportedError: If no runs of the case are stored that could be judged again.
        """
        context = self.context
        self.check_once(plan.case, nodeid=nodeid)
        self._not_compared[plan.case] = nodeid
        if context.replay is not None:
            return context.replay.measure(plan, framework=framework)
        policy = context.policy(tolerances)
        self.take_turn(progress)
        if self.ab is not None:
            folder = self._launches.case_dir(plan.case)
            return self.ab.run(plan, framework=framework, policy=policy, folder=folder, progress=progress)
        return launch_case(
            plan,
            context=context,
            launches=self._launches,
            framework=framework,
            runs=runs,
            policy=policy,
            waiver=waiver,
            progress=progress,
        )

    def compare(
        self,
        measurement: Measurement,
        *,
        nodeid: str,
        tolerances: Sequence[Mapping[str, float]],
        waiver: Waiver | None = None,
    ) -> CaseReport:
        """Judge a measurement and keep the report; what is to be stored is written when the test has ended.

        Args:
            measurement: What was measured.
            nodeid: The test that asks.
            tolerances: Layers on top of the session's, later ones win.
            waiver: What the test says of a known loss; None for nothing.

        Raises:
            BaselineError: If a stored baseline can't be trusted.
            RecipeError: If the test has judged the case before.
        """
        context, case = self.context, measurement.case
        self.planner.claim(case, nodeid=nodeid)
        self._not_compared.pop(case, None)
        self.check_once(case, nodeid=nodeid)
        if self.ab is not None:
            report = self.ab.report(
                measurement,
                nodeid=nodeid,
                run_dir=context.shown(self._launches.case_dir(case)),
                rerun_command=context.rerun_command(nodeid, *self.ab.options),
                environment=context.provenance.environment(),
            )
        else:
            plan = self.planner.plans.get(case)
            run_dir = None
            if plan is not None:
                run_dir = context.replay.root / case if context.replay else self._launches.case_dir(case)
            report = judge_case(
                measurement,
                context=context,
                plan=plan,
                run_dir=run_dir,
                policy=context.policy(tolerances),
                nodeid=nodeid,
                waiver=waiver,
            )
        for earlier in [other.result for other in self.reports if other.result.verdict.case == case]:
            kinds = (*earlier.earlier_verdicts, earlier.verdict.kind)
            report = replace(report, result=replace(report.result, earlier_verdicts=kinds))
        self.reports = [other for other in self.reports if other.result.verdict.case != case] + [report]
        self._judged.setdefault(nodeid, []).append(case)
        return report

    def profile(self, report: CaseReport, *, progress: Progress) -> CaseReport:
        """Run a case once more under the profiler where --perf-profile asks for it; return its report with the result.

        The verdict stands: whatever goes wrong here is told, not raised.
        """
        if not self.settings.is_profiled or not is_profile_due(report.result, updating=self.settings.updating):
            return report
        case = report.result.verdict.case
        command = self.context.command(report.result.nodeid, "--update-baselines", "--perf-profile")
        profiled = profile_report(
            report,
            launcher=self._launches.launcher,
            run_dir=self._launches.case_dir(case) / "profile",
            root=self.context.root,
            machine=self.context.machine,
            provenance=self.context.provenance,
            updating=self.settings.updating,
            store_command="" if self.settings.changes else command,
            progress=progress,
        )
        self.num_profiled += 1
        self._replace(report, by=profiled)
        return profiled

    def take_turn(self, progress: Progress) -> None:
        """Wait until no other perf session measures on this host."""
        self._turn.acquire(report=progress.say)

    def without_baseline(self) -> dict[str, Mapping[str, Any]]:
        """Return the workload of each case that no committed baseline was there for, by case."""
        missing = {}
        for report in self.reports:
            verdict = report.result.verdict
            if verdict.kind is VerdictKind.NO_BASELINE or not self.context.store.is_committed(verdict.case):
                missing[verdict.case] = report.result.measurement.workload
        return missing

    def results(self) -> SessionResults:
        """Return what the results file holds."""
        settings, replay = self.settings, self.context.replay
        machine_key, provenance = self.context.origin(next(iter(replay.records), "") if replay else "")
        return SessionResults(
            system=settings.system.name,
            system_title=settings.system.title,
            machine=machine_key,
            provenance=provenance,
            cases=tuple(report.result for report in self.reports),
            not_run=tuple(self.not_run),
            why_none=self.why_none,
            pruned=self.pruned,
            unasked=self.unasked,
            inject_pct=settings.inject_pct,
            duration_sec=round(time.monotonic() - self._started, 3),
            replay_of=self.context.shown(replay.root) if replay else "",
            git_problem="" if replay else self.context.code.problem,
        )

    def dry_run(self, gaps: Sequence[str]) -> DryRun:
        """Return what the file of a dry run holds; gaps say why tests may ask for more cases than they did."""
        planner = self.planner
        return DryRun(
            system=self.settings.system.name,
            system_title=self.settings.system.title,
            cases=tuple(planner.priced),
            not_priced=tuple(self.not_run),
            changes=changes_text(self.settings.changes),
            asked=tuple(planner.asked.values()),
            gaps=tuple(gaps),
            systems=tuple(sorted(planner.systems)),
            policy=self.settings.policy,
        )

    def close(self) -> None:
        """Stop every process, give up the turn, keep the newest runs only."""
        self._launches.close()
        if self.ab is not None:
            self.ab.close()
        self._turn.release()
        if self.context.replay is None:  # the oldest runs may be those that were judged again
            self._launches.session_folder.forget_others(keep=_KEPT_SESSIONS)

    def write_output(self, gaps: Sequence[str]) -> list[Path]:
        """Write the results file and the markdown table, or a dry run's file; return their paths.

        Raises:
            OSError: If the folder or the disk does not take them.
        """
        if self.settings.is_dry_run:
            files = {DRY_RUN_FILE: to_json(self.dry_run(gaps))}
        else:
            results = self.results()
            files = {"results.json": to_json(results), "results.md": render_markdown(results)}
        for name, text in files.items():
            write_atomically(self.settings.output_dir / name, text=text)
        return [self.settings.output_dir / name for name in files]

    def _replace(self, report: CaseReport, *, by: CaseReport) -> None:
        self.reports = [by if other is report else other for other in self.reports]

    def _written(self, report: CaseReport, *, progress: Progress) -> CaseReport:
        """Write a case's baseline and profile; return its report with where the profile is.

        Raises:
            BaselineError: If the baseline can't be written.
        """
        if report.stored is not None:
            write = self.context.store.record_locally if report.result.is_stored_locally else self.context.store.update
            write(report.stored)
        return store_new_profile(report, root=self.context.root, updating=self.settings.updating, progress=progress)


def _withdrawn(report: CaseReport, *, problem: str) -> CaseReport:
    """Return the report of a case that stores nothing after all, because of a problem."""
    result = replace(report.result, stored_path="", is_stored_locally=False, storing_note=f"not stored: {problem}")
    return replace(report, result=result, stored=None, replaced=None, new_profile=None)
