"""One perf session: plans are run, measurements judged and kept; decided elsewhere, worded in report/."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_nemoperf import machine
from pytest_nemoperf.absession import open_ab_session
from pytest_nemoperf.baseline import from_measurement, write_atomically
from pytest_nemoperf.case_profiles import is_profile_due, profile_report
from pytest_nemoperf.changes import changes_text
from pytest_nemoperf.comparison import Terms, VerdictKind, merge_tolerances, wants_more_runs
from pytest_nemoperf.dryrun import DRY_RUN_FILE, DryRun
from pytest_nemoperf.hostlock import HostLock
from pytest_nemoperf.keeping import LOCALLY_RECORDED, Keeper, Kept
from pytest_nemoperf.launches import Launches
from pytest_nemoperf.measure import Measurement, workload_of
from pytest_nemoperf.planner import Planner
from pytest_nemoperf.records import to_json
from pytest_nemoperf.replay import CaseRecord, Replay, write_case
from pytest_nemoperf.report.markdown import render_markdown
from pytest_nemoperf.results import CaseReport, CaseResult, NotRun, Pruned, SessionResults
from pytest_nemoperf.settings import Settings
from pytest_nemoperf.store import BaselineStore, Found, forget_old_runs
from pytest_nemoperf.verdict import Verdict, judge
from pytest_nemoperf.waivers import Waiver, rule_on

if TYPE_CHECKING:
    from pytest_nemoperf.frameworks.protocol import Framework
    from pytest_nemoperf.progress import Progress
    from pytest_nemoperf.provenance import Provenance
    from pytest_nemoperf.recipe import Plan

_MAX_RECORDED_RUNS = 15  # an update that can't hold its tolerance by then says so
_KEPT_SESSIONS = 10


class PerfSession:
    """Everything that lives as long as the pytest session: launcher, turn on the host, store, results."""

    def __init__(self, config: pytest.Config, *, settings: Settings) -> None:
        self.settings = settings
        self.reports: list[CaseReport] = []
        self.not_run: list[NotRun] = []
        self.num_profiled = 0
        self.pruned: Pruned | None = None
        self.machine = _machine_key(settings)
        self.store = BaselineStore(
            committed_dir=settings.baselines_dir,
            local_dir=settings.state_dir / "baselines",
            system=settings.system.name,
            machine=self.machine,
        )
        self._root = config.rootpath
        self._turn = HostLock()
        self._started = time.monotonic()
        self._replay = Replay(settings.replay_dir) if settings.replay_dir else None
        self._launches = Launches(settings.state_dir / "runs" / time.strftime("%Y%m%d-%H%M%S"))
        self._keeper = Keeper(self.store, settings=settings)
        self.planner = Planner(config, settings=settings, store=self.store)
        self.ab = open_ab_session(settings, root=config.rootpath)

    @cached_property
    def provenance(self) -> Provenance:
        """When, from which commit, with which versions, on which device, by which command."""
        return machine.provenance(self.settings.system, devices=self.settings.devices, root=self._root)

    def run(
        self,
        plan: Plan,
        *,
        framework: Framework,
        runs: int,
        tolerances: Sequence[Mapping[str, float]],
        progress: Progress,
    ) -> Measurement:
        """Launch a plan until a verdict is reached or a baseline is complete, and return what was measured.

        A replay launches nothing and returns what stored runs measured.

        Args:
            plan: What to launch.
            framework: Who trains it.
            runs: Launches that make a baseline.
            tolerances: Layers on top of the session's, later ones win.
            progress: Shows what goes on.

        Raises:
            BaselineError: If a stored baseline can't be trusted; nothing is launched then.
            LaunchError: If ranks failed, hung or were killed.
            RecordError: If stored runs can't be trusted, or this session's can't be stored.
            UnsupportedError: If no runs of the case are stored that could be judged again.
        """
        if self._replay is not None:
            return self._replay.measure(plan, framework=framework)
        terms = self._terms(tolerances)
        if self.ab is not None:
            self.take_turn(progress)
            folder = self._launches.case_dir(plan.case)
            return self.ab.run(plan, framework=framework, terms=terms, folder=folder, progress=progress)
        baseline = self.store.find(plan.case, workload=workload_of(plan)).baseline
        limit = max(runs, terms.max_runs)
        if self.settings.updating is not None:
            limit = max(limit, _MAX_RECORDED_RUNS)

        def is_enough(measurement: Measurement) -> bool:
            verdict = judge(measurement, baseline=baseline, machine=self.machine, terms=terms)
            num_runs = len(measurement.runs)
            if verdict.kind is VerdictKind.INCONCLUSIVE and num_runs < terms.max_runs:
                return False
            if self.settings.updating is None and verdict.kind not in LOCALLY_RECORDED:
                return True
            if num_runs < runs:
                return False
            is_complete = self.settings.updating is None or not wants_more_runs(measurement.runs, terms=terms)
            return is_complete or num_runs >= limit

        self.take_turn(progress)
        launched = self._launches.until(is_enough, plan=plan, framework=framework, limit=limit, progress=progress)
        record = CaseRecord(
            case=plan.case,
            system=plan.system,
            machine=self.machine,
            provenance=self.provenance,
            terms=terms,
            fail_on=tuple(sorted(self.settings.fail_on)),
            runs=launched.folders,
            unreadable=launched.unreadable,
        )
        write_case(self._launches.case_dir(plan.case), record=record)
        return launched.measurement

    def compare(
        self,
        measurement: Measurement,
        *,
        nodeid: str,
        tolerances: Sequence[Mapping[str, float]],
        waiver: Waiver | None = None,
    ) -> CaseReport:
        """Judge a measurement, store it where that is due, and keep the report.

        Args:
            measurement: What was measured.
            nodeid: The test that asks.
            tolerances: Layers on top of the session's, later ones win.
            waiver: What the test says of a known loss; None for nothing.

        Raises:
            BaselineError: If a stored baseline can't be trusted, or a new one can't be written.
        """
        self.planner.claim(measurement.case, nodeid=nodeid)
        if self.ab is not None:
            report = self.ab.report(
                measurement,
                nodeid=nodeid,
                run_dir=self.shown(self._launches.case_dir(measurement.case)),
                rerun_command=self._command(nodeid, f"--perf-ab={self.ab.revision.name}"),
                environment=self.provenance.environment(),
            )
        else:
            report = self._judged(measurement, terms=self._terms(tolerances), nodeid=nodeid, waiver=waiver)
        case = report.result.verdict.case
        self.reports = [other for other in self.reports if other.result.verdict.case != case] + [report]
        return report

    def profile(self, report: CaseReport, *, progress: Progress) -> CaseReport:
        """Run a case once more under the profiler where --perf-profile asks for it; return its report with the result.

        The verdict stands: whatever goes wrong here is told, not raised.
        """
        if not self.settings.is_profiled or not is_profile_due(report.result, updating=self.settings.updating):
            return report
        case = report.result.verdict.case
        command = self._command(report.result.nodeid, "--update-baselines", "--perf-profile")
        report = profile_report(
            report,
            launcher=self._launches.launcher,
            run_dir=self._launches.case_dir(case) / "profile",
            root=self._root,
            machine=self.machine,
            provenance=self.provenance,
            updating=self.settings.updating,
            store_command="" if self.settings.changes else command,
            progress=progress,
        )
        self.num_profiled += 1
        self.reports = [report if other.result is report.result else other for other in self.reports]
        return report

    def take_turn(self, progress: Progress) -> None:
        """Wait until no other perf session measures on this host."""
        self._turn.acquire(say=progress.say)

    def results(self) -> SessionResults:
        """Return what the results file holds."""
        settings = self.settings
        machine_key, provenance = self._origin(next(iter(self._replay.records), "") if self._replay else "")
        return SessionResults(
            system=settings.system.name,
            system_title=settings.system.title,
            machine=machine_key,
            provenance=provenance,
            cases=tuple(report.result for report in self.reports),
            not_run=tuple(self.not_run),
            pruned=self.pruned,
            inject_pct=settings.inject_pct,
            duration_sec=round(time.monotonic() - self._started, 3),
            replay_of=self.shown(self._replay.root) if self._replay else "",
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
            terms=self.settings.terms,
        )

    def close(self) -> None:
        """Stop every process, give up the turn, keep the newest runs only."""
        self._launches.close()
        if self.ab is not None:
            self.ab.close()
        self._turn.release()
        if self._replay is None:  # the oldest runs may be those that were judged again
            forget_old_runs(self._launches.runs_dir.parent, keep=_KEPT_SESSIONS)

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

    def shown(self, path: Path | str) -> str:
        """Return a path as people read it: relative to the root directory if it lies there."""
        candidate = Path(path)
        return str(candidate.relative_to(self._root)) if candidate.is_relative_to(self._root) else str(path)

    def _origin(self, case: str) -> tuple[Mapping[str, str | int], Provenance]:
        """Return machine and provenance of a case's runs: this session's, or those that are stored with them."""
        record = self._replay.records.get(case) if self._replay else None
        return (record.machine, record.provenance) if record else (self.machine, self.provenance)

    def _terms(self, tolerances: Sequence[Mapping[str, float]]) -> Terms:
        terms = self.settings.terms
        return replace(terms, tolerances=merge_tolerances([terms.tolerances, *tolerances]))

    def _judged(self, measurement: Measurement, *, terms: Terms, nodeid: str, waiver: Waiver | None) -> CaseReport:
        machine_key, _ = self._origin(measurement.case)
        found = replace(self.store, machine=machine_key).find(measurement.case, workload=measurement.workload)
        if measurement.case not in self.planner.plans:
            terms = replace(terms, max_runs=len(measurement.runs) or 1)  # what this process measures, it measures once
        verdict = judge(measurement, baseline=found.baseline, machine=machine_key, terms=terms)
        return self._report(measurement, verdict=verdict, found=found, terms=terms, nodeid=nodeid, waiver=waiver)

    def _report(
        self,
        measurement: Measurement,
        *,
        verdict: Verdict,
        found: Found,
        terms: Terms,
        nodeid: str,
        waiver: Waiver | None,
    ) -> CaseReport:
        settings, case = self.settings, measurement.case
        has_plan = case in self.planner.plans
        kept = Kept()
        if verdict.kind is not VerdictKind.INVALID and not measurement.inject_pct and self._replay is None:
            new = from_measurement(measurement, machine=self.machine, provenance=self.provenance, reason="")
            kept = self._keeper.keep(new, verdict=verdict, found=found, terms=terms, is_in_process=not has_plan)
        is_mended = settings.updating is not None and verdict.kind in LOCALLY_RECORDED
        ruling = rule_on(verdict, waiver=waiver, today=datetime.now(UTC).date(), release=settings.release)
        passes = kept.accepted_reason or is_mended or ruling.waived
        return CaseReport(
            result=CaseResult(
                nodeid=nodeid,
                measurement=measurement,
                verdict=verdict,
                plan=self.planner.plans.get(case),
                baseline_path=self.shown(found.path) if found.path else "",
                stored_path=self.shown(kept.path) if kept.path else "",
                is_stored_locally=kept.is_local,
                storing_note=kept.note,
                accepted_reason=kept.accepted_reason,
                is_failure=ruling.is_expired or (verdict.kind in settings.fail_on and not passes),
                waived=ruling.waived,
                waiver_note=ruling.note,
                has_expired_waiver=ruling.is_expired,
                run_dir=self.shown(self._case_dir(case)) if has_plan else "",
            ),
            baseline=found.baseline,
            replaced=kept.replaced,
            rerun_command=self._command(nodeid),
            accept_command=self._accept_command(nodeid),
            environment={**self._origin(case)[1].environment(), **measurement.environment},
        )

    def _case_dir(self, case: str) -> Path:
        return self._replay.root / case if self._replay else self._launches.case_dir(case)

    def _command(self, nodeid: str, *extra: str) -> str:
        changes = changes_text(self.settings.changes)
        set_option = [f"--perf-set={changes}"] if changes else []
        replay = [f"--perf-replay={self.shown(self._replay.root)}"] if self._replay else []
        words = ["pytest", "-m", "perf", f"--system={self.settings.system.name}", *set_option, *replay, *extra, nodeid]
        return shlex.join(words)

    def _accept_command(self, nodeid: str) -> str:
        """Return how to store a case in spite of its verdict; a trial and a replay are never stored."""
        if self.settings.changes or self._replay:
            return ""
        return self._command(
            nodeid, "--update-baselines", "--perf-accept-regression", "--perf-reason=why it is acceptable"
        )


def _machine_key(settings: Settings) -> dict[str, str | int]:
    """Return this machine's key; empty where a dry run speaks of GPUs that are not here."""
    if settings.system.device == "cuda" and not settings.devices.names:
        return {}
    return machine.machine_key(settings.system, devices=settings.devices, machine_name=settings.machine_name)
