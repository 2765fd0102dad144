"""One perf session: plans are run, measurements judged and kept; decided elsewhere, worded in report/."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_nemoperf import machine
from pytest_nemoperf.baseline import Baseline, from_measurement, write_atomically
from pytest_nemoperf.changes import changes_text
from pytest_nemoperf.dryrun import DRY_RUN_FILE, DryRun
from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.hostlock import HostLock
from pytest_nemoperf.launchers.local import LocalLauncher
from pytest_nemoperf.measure import Measurement, measure, workload_of
from pytest_nemoperf.planner import Planner
from pytest_nemoperf.records import to_json
from pytest_nemoperf.report.markdown import render_markdown
from pytest_nemoperf.results import CaseReport, CaseResult, NotRun, SessionResults
from pytest_nemoperf.runner import run_once
from pytest_nemoperf.settings import Settings, merge_tolerances
from pytest_nemoperf.steadiness import unsettled
from pytest_nemoperf.store import BaselineStore, Found, forget_old_runs
from pytest_nemoperf.verdict import Verdict, VerdictKind, judge

if TYPE_CHECKING:
    from pytest_nemoperf.frameworks.protocol import Framework
    from pytest_nemoperf.progress import Progress
    from pytest_nemoperf.provenance import Provenance
    from pytest_nemoperf.recipe import Plan
    from pytest_nemoperf.records import RunOutput

_STORED_WHEN_ACCEPTED = frozenset({VerdictKind.REGRESSED, VerdictKind.INCONCLUSIVE})
_LOCALLY_RECORDED = frozenset({VerdictKind.NO_BASELINE, VerdictKind.NOT_COMPARABLE})
_KEPT_SESSIONS = 10


class PerfSession:
    """Everything that lives as long as the pytest session: launcher, turn on the host, store, results."""

    def __init__(self, config: pytest.Config, *, settings: Settings) -> None:
        self.settings = settings
        self.reports: list[CaseReport] = []
        self.not_run: list[NotRun] = []
        self.machine = _machine_key(settings)
        self.store = BaselineStore(
            committed_dir=settings.baselines_dir,
            local_dir=settings.state_dir / "baselines",
            system=settings.system.name,
            machine=self.machine,
        )
        self._root = config.rootpath
        self._launcher = LocalLauncher()
        self._turn = HostLock()
        self._started = time.monotonic()
        self._runs_dir = settings.state_dir / "runs" / time.strftime("%Y%m%d-%H%M%S")
        self.planner = Planner(config, settings=settings, store=self.store)

    @cached_property
    def provenance(self) -> Provenance:
        """When, from which commit, with which versions, on which device, by which command."""
        return machine.provenance(self.settings.system, devices=self.settings.devices, root=self._root)

    def run(self, plan: Plan, *, framework: Framework, runs: int, progress: Progress) -> Measurement:
        """Launch a plan so many times and return what was measured; unreadable records make it INVALID.

        A run whose steps have not settled is launched once more and the first try is dropped: what passes, like
        other load on the host, is gone then; what stays, like throttling, makes the case INVALID.

        Raises:
            LaunchError: If ranks failed, hung or were killed.
        """
        self.take_turn(progress)
        outputs: list[RunOutput] = []
        for number in range(1, runs + 1):
            try:
                with progress.run(plan, number=number, num_runs=runs):
                    output = self._launch(plan, framework=framework, folder=f"run-{number}", progress=progress)
                    if problems := unsettled(plan, records=output.records):
                        progress.say(f"run {number} is dropped and launched again: {problems[0]}")
                        output = self._launch(plan, framework=framework, folder=f"run-{number}b", progress=progress)
            except RecordError as exc:
                return self._unreadable(plan, reason=f"run {number}: {exc}")
            outputs.append(output)
        environment = {name: value for output in outputs for name, value in output.environment.items()}
        return measure(plan, outputs=[output.records for output in outputs], environment=environment)

    def _launch(self, plan: Plan, *, framework: Framework, folder: str, progress: Progress) -> RunOutput:
        output = run_once(
            plan,
            framework=framework,
            launcher=self._launcher,
            run_dir=self._case_dir(plan.case) / folder,
            on_progress=progress.step,
        )
        progress.finish(output.records)
        return output

    def compare(
        self, measurement: Measurement, *, nodeid: str, tolerances: Sequence[Mapping[str, float]]
    ) -> CaseReport:
        """Judge a measurement, store it where that is due, and keep the report.

        Args:
            measurement: What was measured.
            nodeid: The test that asks.
            tolerances: Layers on top of the session's, later ones win.

        Raises:
            BaselineError: If a stored baseline can't be trusted, or a new one can't be written.
        """
        self.planner.claim(measurement.case, nodeid=nodeid)
        found = self.store.find(measurement.case, workload=measurement.workload)
        verdict = judge(
            measurement,
            baseline=found.baseline,
            machine=self.machine,
            tolerances=merge_tolerances([self.settings.tolerances, *tolerances]),
        )
        report = self._keep(measurement, verdict=verdict, found=found, nodeid=nodeid)
        self.reports = [other for other in self.reports if other.result.verdict.case != verdict.case] + [report]
        return report

    def take_turn(self, progress: Progress) -> None:
        """Wait until no other perf session measures on this host."""
        self._turn.acquire(say=progress.say)

    def results(self) -> SessionResults:
        """Return what the results file holds."""
        settings = self.settings
        return SessionResults(
            system=settings.system.name,
            system_title=settings.system.title,
            machine=self.machine,
            provenance=self.provenance,
            cases=tuple(report.result for report in self.reports),
            not_run=tuple(self.not_run),
            inject_pct=settings.inject_pct,
            duration_sec=round(time.monotonic() - self._started, 3),
        )

    def dry_run(self) -> DryRun:
        """Return what the file of a dry run holds."""
        return DryRun(
            system=self.settings.system.name,
            system_title=self.settings.system.title,
            cases=tuple(self.planner.priced),
            not_priced=tuple(self.not_run),
            changes=changes_text(self.settings.changes),
        )

    def close(self) -> None:
        """Stop every process, give up the turn, keep the newest runs only."""
        self._launcher.close()
        self._turn.release()
        forget_old_runs(self._runs_dir.parent, keep=_KEPT_SESSIONS)

    def write_output(self) -> list[Path]:
        """Write the results file and the markdown table, or a dry run's file; return their paths.

        Raises:
            OSError: If the folder or the disk does not take them.
        """
        if self.settings.is_dry_run:
            files = {DRY_RUN_FILE: to_json(self.dry_run())}
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

    def _case_dir(self, case: str) -> Path:
        return self._runs_dir / case

    def _unreadable(self, plan: Plan, *, reason: str) -> Measurement:
        return Measurement(
            case=plan.case,
            system=plan.system,
            workload=workload_of(plan),
            runs=(),
            problems=(reason,),
            inject_pct=plan.inject_pct,
        )

    def _keep(self, measurement: Measurement, *, verdict: Verdict, found: Found, nodeid: str) -> CaseReport:
        settings = self.settings
        is_accepted = settings.is_update and verdict.kind in _STORED_WHEN_ACCEPTED and bool(settings.accept_reason)
        is_mendable = verdict.kind in _LOCALLY_RECORDED
        is_mended = settings.is_update and is_mendable  # what was missing is being stored
        is_failure = verdict.kind in settings.fail_on and not is_accepted and not is_mended
        stored, replaced, is_local = "", None, False
        is_storable = is_accepted or verdict.kind not in (*_STORED_WHEN_ACCEPTED, VerdictKind.INVALID)
        if settings.is_update and is_storable and not is_failure:
            reason = settings.accept_reason if is_accepted else "--update-baselines"
            path, replaced = self.store.update(self._baseline(measurement, reason=reason))
            stored = self.shown(path)
        elif is_mendable and not measurement.inject_pct and not self._has_baseline(found, measurement):
            path = self.store.record_locally(self._baseline(measurement, reason=f"first run here: {verdict.kind}"))
            stored, is_local = self.shown(path), True
        case = measurement.case
        return CaseReport(
            result=CaseResult(
                nodeid=nodeid,
                measurement=measurement,
                verdict=verdict,
                plan=self.planner.plans.get(case),
                baseline_path=self.shown(found.path) if found.path else "",
                stored_path=stored,
                is_stored_locally=is_local,
                accepted_reason=settings.accept_reason if is_accepted else "",
                is_failure=is_failure,
                run_dir=self.shown(self._case_dir(case)) if case in self.planner.plans else "",
            ),
            baseline=found.baseline,
            replaced=replaced,
            rerun_command=self._command(nodeid),
            accept_command=self._accept_command(nodeid),
            environment={**self.provenance.environment(), **measurement.environment},
        )

    def _has_baseline(self, found: Found, measurement: Measurement) -> bool:
        """Tell whether this machine has one of the workload, which only an update replaces."""
        return found.baseline is not None and self.store.compares(found.baseline, workload=measurement.workload)

    def _baseline(self, measurement: Measurement, *, reason: str) -> Baseline:
        return from_measurement(measurement, machine=self.machine, provenance=self.provenance, reason=reason)

    def _command(self, nodeid: str, *extra: str) -> str:
        changes = changes_text(self.settings.changes)
        set_option = [f"--perf-set={changes}"] if changes else []
        words = ["pytest", "-m", "perf", f"--system={self.settings.system.name}", *set_option, *extra, nodeid]
        return shlex.join(words)

    def _accept_command(self, nodeid: str) -> str:
        """Return how to store a case in spite of its verdict; a trial is never stored."""
        if self.settings.changes:
            return ""
        return self._command(nodeid, "--update-baselines", "--perf-accept=why it is acceptable")


def _machine_key(settings: Settings) -> dict[str, str | int]:
    """Return this machine's key; empty where a dry run speaks of GPUs that are not here."""
    if settings.system.device == "cuda" and not settings.devices.names:
        return {}
    return machine.machine_key(settings.system, devices=settings.devices, machine_name=settings.machine_name)
