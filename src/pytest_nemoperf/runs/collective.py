"""Launches of a collective: ranks without a plan, which time its calls; their health and their measurement."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pytest_nemoperf.errors import LaunchError, RecordError, os_error_text
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.json_codec import read_data, to_json
from pytest_nemoperf.launchers.logs import tail_of
from pytest_nemoperf.launchers.protocol import Launcher, LaunchResult, LaunchStatus
from pytest_nemoperf.machine.monitor import Monitor
from pytest_nemoperf.measure.calls import run_of_calls, settled_calls
from pytest_nemoperf.measure.measurement import MeasuredRun, Measurement, round_significant
from pytest_nemoperf.measure.metric_values import TimedCalls, call_values
from pytest_nemoperf.measure.steady_state import Drift, find_drift
from pytest_nemoperf.records.collective import CALLS_FILE, COLLECTIVE_FILE, Collective, CollectiveCalls
from pytest_nemoperf.records.health import HealthReport, gpu_powers_w, health_problems, sm_clocks_mhz
from pytest_nemoperf.records.step import PROGRESS_FILE, RankError, error_file
from pytest_nemoperf.runs.replay import TRY_SUFFIXES

_MAX_UNHEALTHY_TRIES: Final = 2  # as of recipes: other load that disturbs two tries rarely ends before the third
_MODULE: Final = "pytest_nemoperf.native.rank.collective_entry"


def launch_collective(
    collective: Collective,
    *,
    launcher: Launcher,
    run_dir: Path,
    on_poll: Callable[[], None],
    is_watched: bool = True,
) -> MeasuredRun:
    """Launch the ranks of a collective once, and return the run.

    Args:
        collective: The collective.
        launcher: Starts the ranks.
        run_dir: Directory for what the ranks are given, write and log; an earlier run in it is removed.
        on_poll: Called a few times a second meanwhile.
        is_watched: Sample the machine's health meanwhile.

    Raises:
        LaunchError: If the ranks didn't start, failed or timed out; the text is the first failing rank's own error.
        RecordError: If they ended well but left no times that can be read.
    """
    run_dir = run_dir.absolute()
    try:
        if run_dir.exists():
            shutil.rmtree(run_dir)  # what an earlier run wrote must not be taken for this one's
        run_dir.mkdir(parents=True)
        (run_dir / COLLECTIVE_FILE).write_text(to_json(collective), encoding="utf-8")
        calls, health = _launch(collective, launcher=launcher, run_dir=run_dir, on_poll=on_poll, is_watched=is_watched)
    except OSError as exc:
        raise LaunchError(f"{collective.case} could not be run: {os_error_text(exc, place=run_dir)}") from exc
    return measured_calls(collective, calls=calls, health=health)


def measured_calls(collective: Collective, *, calls: CollectiveCalls, health: HealthReport | None) -> MeasuredRun:
    """Return the numbers of a launch and every reason not to judge them."""
    settled = settled_calls(calls.times_sec)
    drift = find_drift(settled)
    values = call_values(
        TimedCalls(times=settled, message_bytes=collective.size_bytes, bus_factor=collective.bus_factor)
    )
    drift_pct = None if drift is None else round_significant(drift.pct, digits=3)
    run = run_of_calls(calls.times_sec, values=values, drift_pct=drift_pct)
    return MeasuredRun(
        run=replace(
            run,
            hosts=calls.hosts,
            sm_clock_mhz=sm_clocks_mhz(health),
            gpu_power_w=tuple(map(round_significant, gpu_powers_w(health))),
        ),
        drift=drift,
        health_problems=tuple(health_problems(health)),
        environment=calls.environment,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveLaunches:
    """Launches of collectives in one session.

    Attributes:
        launcher: Starts the ranks.
        root: Folder of the session; each case has one in it.
        on_poll: Called a few times a second while ranks run.
        report: Shows a sentence to the user.
        is_watched: Other load on the machine is a reason to launch again.
    """

    launcher: Launcher
    root: Path
    on_poll: Callable[[], None]
    report: Callable[[str], None]
    is_watched: bool = True

    def measure(self, collective: Collective, *, system: str, num_runs: int) -> Measurement:
        """Return the measurement of so many launches, each repeated while it is not sound, as those of recipes are.

        Raises:
            LaunchError: If ranks failed, hung or were killed.
            RecordError: If they left no times that can be read.
        """
        measured = [self._sound_run(collective, number=number) for number in range(1, num_runs + 1)]
        problems: list[str] = []
        environment: dict[str, str] = {}
        for number, run in enumerate(measured, start=1):
            environment |= run.environment
            problems += [f"run {number}: {problem}" for problem in (*run.problems, *run.health_problems)]
        return Measurement(
            case=collective.case,
            system=system,
            workload=collective.workload,
            runs=tuple(run.run for run in measured if run.run is not None),
            environment=environment,
            problems=tuple(problems),
            inject_pct=collective.inject_pct,
        )

    def _sound_run(self, collective: Collective, *, number: int) -> MeasuredRun:
        """Launch until a try is sound, and return the last one."""
        earlier: list[Drift | None] = []
        for attempt, suffix in enumerate(TRY_SUFFIXES, start=1):
            run_dir = self.root / collective.case / f"run-{number}{suffix}"
            run = launch_collective(
                collective,
                launcher=self.launcher,
                run_dir=run_dir,
                on_poll=self.on_poll,
                is_watched=self.is_watched,
            )
            problems = [*run.health_problems, *([run.drift.text] if run.drift else [])]
            if not problems or attempt == len(TRY_SUFFIXES):
                break
            if run.health_problems and attempt == _MAX_UNHEALTHY_TRIES:
                break
            self.report(f"run {number} of {collective.case} is dropped and launched again: {problems[0]}")
            if not run.health_problems:
                earlier.append(run.drift)
        return replace(run, earlier_drifts=tuple(earlier))


def _launch(
    collective: Collective, *, launcher: Launcher, run_dir: Path, on_poll: Callable[[], None], is_watched: bool
) -> tuple[CollectiveCalls, HealthReport | None]:
    command = RankCommand(
        argv=(sys.executable, "-m", _MODULE), num_processes=collective.num_gpus, entrypoint=f"{_MODULE}:main"
    )
    # Rank 0 notes the begin and the end of the timed calls as two steps.
    num_watched = collective.num_gpus if collective.device == "cuda" else 0
    watch = Monitor(first_step=1, last_step=2, num_gpus=num_watched) if is_watched else nullcontext()
    health: HealthReport | None = None
    with watch as monitor:

        def poll() -> None:
            on_poll()
            if monitor is not None:
                monitor.poll(num_finished=_num_noted(run_dir))

        result = launcher.launch(command, run_dir=run_dir, timeout_sec=collective.timeout_sec, on_poll=poll)
        if monitor is not None:
            health = monitor.report(num_finished=_num_noted(run_dir))
    if result.status is not LaunchStatus.OK:
        raise LaunchError(_failure_text(collective, result=result, run_dir=run_dir))
    return read_data(CollectiveCalls, run_dir / CALLS_FILE), health


def _num_noted(run_dir: Path) -> int:
    """Return the lines of the progress file; 0 before there is one."""
    try:
        return (run_dir / PROGRESS_FILE).read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def _failure_text(collective: Collective, *, result: LaunchResult, run_dir: Path) -> str:
    """Return the reason of a failed launch: the error of the rank that failed first, else the end of its log."""
    if result.failures:
        rank = result.failures[0].rank
        log = result.logs[rank]
        try:
            error = read_data(RankError, run_dir / error_file(rank))
        except RecordError:  # killed, or torn
            code = result.failures[0].exit_code
            return f"rank {rank} of {collective.case} ended with {code}; its log {log} ends with:\n{tail_of(log)}"
        return f"rank {rank} of {collective.case} failed: {error.message}\n{error.traceback.rstrip()}\nits log: {log}"
    log = result.logs[0]
    return (
        f"{collective.case} timed out after {collective.timeout_sec:g} s; if it only needs longer, raise "
        f"--perf-timeout; the log {log} ends with:\n{tail_of(log)}"
    )
