"""Run a plan once: directory, launch, progress, and the cause of a failure."""

from __future__ import annotations

import errno
import resource
import shutil
import signal
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from pytest_nemoperf.errors import MACHINE_PREFIX, LaunchError, RecordError, TurnError, count_text, os_error_text
from pytest_nemoperf.frameworks.logged import tail_of_log
from pytest_nemoperf.frameworks.protocol import Framework
from pytest_nemoperf.json_codec import from_json, read_data, to_json, to_printed_json
from pytest_nemoperf.launchers.logs import first_traceback, out_of_memory_message, tail_of
from pytest_nemoperf.launchers.protocol import Launcher, LaunchResult, LaunchStatus, RankExit
from pytest_nemoperf.logs.tail import LogTail
from pytest_nemoperf.machine.monitor import Monitor
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.rules import NATIVE
from pytest_nemoperf.records.health import HEALTH_FILE, HealthReport, health_problems
from pytest_nemoperf.records.launch_times import START_FILE, StartTimes
from pytest_nemoperf.records.metrics import TIME_TO_FIRST_STEP_SEC
from pytest_nemoperf.records.step import (
    PLAN_FILE,
    PROGRESS_FILE,
    STEPS_FILE,
    Progress,
    RankError,
    RunOutput,
    error_file,
)
from pytest_nemoperf.records.yardstick import Yardstick
from pytest_nemoperf.runs import clock
from pytest_nemoperf.runs.checkpoint_folder import own_checkpoint_folder
from pytest_nemoperf.runs.step_times import Arrival, check_step_times
from pytest_nemoperf.runs.yardstick import YardstickLaunches, read_yardsticks, write_yardsticks

_OPEN_FILES: Final = 32  # of pytest, the host's samples and the helper, measured with one rank
_OPEN_FILES_OF_RANK: Final = 2


def run_once(
    plan: Plan,
    *,
    framework: Framework,
    launcher: Launcher,
    run_dir: Path,
    on_progress: Callable[[Progress | None], None],
    is_watched: bool = True,
    yardsticks: YardstickLaunches | None = None,
) -> RunOutput:
    """Run a plan once.

    Args:
        plan: Plan of the run.
        framework: Adapter to the training framework.
        launcher: Starts the ranks.
        run_dir: Directory for the plan, the records and the logs; an earlier run in it is removed.
        on_progress: Called a few times a second while the ranks run, with each finished step, else with None.
        is_watched: Sample the machine's health meanwhile.
        yardsticks: Launches of the yardstick, for ranks that don't time it themselves; None for none.

    Returns:
        Every step's record, and the machine's health.

    Raises:
        LaunchError: If the ranks didn't start, failed or timed out; the text is the first failing rank's own error.
        TurnError: If the run of the other side of a comparison has ended.
        RecordError: If they ended well but left an incomplete or impossible record.
    """
    try:
        with own_checkpoint_folder(plan) as planned:
            return _run(
                planned,
                framework=framework,
                launcher=launcher,
                run_dir=run_dir.absolute(),
                on_progress=on_progress,
                is_watched=is_watched,
                yardsticks=yardsticks,
            )
    except OSError as exc:
        text = os_error_text(exc, place=run_dir)
        if exc.errno == errno.EMFILE:
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            needed = _OPEN_FILES + _OPEN_FILES_OF_RANK * plan.layout.total_gpus
            text += f": this process may hold {limit} open (ulimit -n), and a session needs about {needed}"
        raise LaunchError(f"{plan.case} could not be run: {text}") from exc


def _run(
    plan: Plan,
    *,
    framework: Framework,
    launcher: Launcher,
    run_dir: Path,
    on_progress: Callable[[Progress | None], None],
    is_watched: bool,
    yardsticks: YardstickLaunches | None,
) -> RunOutput:
    """Run a plan once; see run_once, which gives an error of the operating system a sentence."""
    if (run_dir / PLAN_FILE).exists():
        shutil.rmtree(run_dir)  # what an earlier run wrote must not be taken for this one's
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / PLAN_FILE).write_text(to_printed_json(plan), encoding="ascii")  # a script may read it in any locale
    before: tuple[Yardstick, ...] = ()
    if yardsticks is not None:
        before = yardsticks.measure(plan, run_dir=run_dir / "yardstick-before", on_poll=lambda: on_progress(None))
    tail = tail_of_log(plan, framework=framework, run_dir=run_dir)
    follower = _ProgressFollower(run_dir, tail=tail, on_progress=on_progress)
    watch = _monitor_of(plan) if is_watched else nullcontext()
    with watch as monitor:

        def on_poll() -> None:
            follower.poll()
            if monitor is not None:
                monitor.poll(num_finished=follower.num_finished)

        started = clock.now()
        result = launcher.launch(
            framework.command(plan, run_dir=run_dir),
            run_dir=run_dir,
            timeout_sec=plan.timeout_sec,
            on_poll=on_poll,
        )
        lived_sec = clock.now() - started
        start = follower.start_times(since_sec=started)  # before the last look, which finds whatever came at the end
        follower.poll()
        health: HealthReport | None = None
        if monitor is not None:
            health = monitor.report(num_finished=follower.num_finished)
    if health is not None:
        # Where the disk is full, the ranks' own error says more than this one.
        with suppress(OSError) if result.status is not LaunchStatus.OK else nullcontext():
            (run_dir / HEALTH_FILE).write_text(to_json(health), encoding="utf-8")
    if TIME_TO_FIRST_STEP_SEC.name in plan.extra_metrics and result.status is LaunchStatus.OK:
        (run_dir / START_FILE).write_text(to_json(start), encoding="utf-8")
    if result.status is not LaunchStatus.OK:
        lines = [_describe(plan, result=result, run_dir=run_dir, num_finished=follower.num_finished)]
        lines += [f"{MACHINE_PREFIX}{problem}" for problem in health_problems(health)]  # it may be why the ranks failed
        if _has_lost_other_side(result, run_dir=run_dir):
            raise TurnError("\n".join(lines))
        raise LaunchError("\n".join(lines))
    if yardsticks is not None and before:
        after = yardsticks.measure(plan, run_dir=run_dir / "yardstick-after", on_poll=lambda: on_progress(None))
        write_yardsticks(run_dir, before=before, after=after)
    try:
        output = read_run(plan, framework=framework, run_dir=run_dir)
    except RecordError as error:  # a script that goes on without memory ends well, and has no numbers
        if message := out_of_memory_message(result.logs, subject=plan.case):
            raise LaunchError(f"{message}\nit ended with 0 all the same: {error}") from error
        raise
    is_foreign = plan.framework != NATIVE
    check_step_times(output.records, lived_sec=lived_sec, arrivals=follower.arrivals, is_foreign=is_foreign)
    return output


def _monitor_of(plan: Plan) -> Monitor:
    num_gpus = plan.layout.total_gpus if plan.device == "cuda" else 0
    return Monitor(first_step=plan.warmup_steps, last_step=plan.total_steps, num_gpus=num_gpus)


def read_run(plan: Plan, *, framework: Framework, run_dir: Path) -> RunOutput:
    """Return the records, the machine health and the yardsticks in the directory of a run that ended well.

    Raises:
        RecordError: If a record is missing, torn or impossible.
    """
    output = framework.read_output(plan, run_dir=run_dir)
    path = run_dir / HEALTH_FILE
    if path.exists():
        output = replace(output, health=read_data(HealthReport, path))
    path = run_dir / START_FILE
    if path.exists():
        output = replace(output, start=read_data(StartTimes, path))
    around = read_yardsticks(run_dir)
    if around.before:
        output = replace(output, yardsticks_before=around.before, yardsticks_after=around.after)
    return output


class _ProgressFollower:
    """Reads new lines of the progress file; without one, of the step records, or of the log."""

    def __init__(self, run_dir: Path, *, tail: LogTail | None, on_progress: Callable[[Progress | None], None]) -> None:
        self._run_dir = run_dir
        self._on_progress = on_progress
        self._offset = 0
        self._path: Path | None = None
        self._tail = tail
        self.num_finished = 0
        self.arrivals: list[Arrival] = []
        self._first_ended_sec: float | None = None  # as a rank has noted it

    def start_times(self, *, since_sec: float) -> StartTimes:
        """Return the time from a reading of the clock to the end of the first step, as far as it was seen.

        Args:
            since_sec: Start of the launch; what a rank notes before it is of another host's clock.
        """
        if not self.arrivals:
            return StartTimes()
        seen_sec = self.arrivals[0].time_sec
        noted_sec = self._first_ended_sec
        if noted_sec is not None and since_sec <= noted_sec <= seen_sec:
            return StartTimes(first_step_sec=round(noted_sec - since_sec, 6))
        return StartTimes(first_step_sec=round(seen_sec - since_sec, 6), is_seen_by_log=True)

    def poll(self) -> None:
        """Pass on new lines; a last line without its end waits for the next time."""
        now = clock.now()
        for progress in self._new_steps():
            if not self.arrivals:
                self._first_ended_sec = progress.ended_sec
            self.num_finished = progress.step + 1
            self.arrivals.append(Arrival(step=progress.step, time_sec=now))
            self._on_progress(progress)
        self._on_progress(None)

    def _new_steps(self) -> list[Progress]:
        if self._path is None and self._tail is not None and self._find_file() is None:
            return self._tail.poll()
        steps = []
        for line in self._new_text().splitlines():
            try:
                steps.append(from_json(Progress, line, subject=PROGRESS_FILE))
            except RecordError:
                continue  # only for show: reading the output judges the records
        return steps

    def _new_text(self) -> bytes:
        if self._path is None:
            self._path = self._find_file()
            if self._path is None:
                return b""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole = file.read()
        whole = whole[: whole.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole

    def _find_file(self) -> Path | None:
        for name in (PROGRESS_FILE, STEPS_FILE):
            if (self._run_dir / name).exists():
                return self._run_dir / name
        return None


def _has_lost_other_side(result: LaunchResult, *, run_dir: Path) -> bool:
    """Return whether the first failing rank failed because the other side of an A/B comparison had ended."""
    if not result.failures:
        return False
    error = _rank_error(run_dir, rank=result.failures[0].rank)
    return error is not None and error.error_type == TurnError.__name__


def _describe(plan: Plan, *, result: LaunchResult, run_dir: Path, num_finished: int) -> str:
    text = _describe_end(plan, result=result, run_dir=run_dir, num_finished=num_finished)
    message = out_of_memory_message(result.logs, subject=plan.case)
    return f"{message}\n{text}" if message else text


def _describe_end(plan: Plan, *, result: LaunchResult, run_dir: Path, num_finished: int) -> str:
    finished = "no step finished"
    if num_finished:
        finished = f"{num_finished} of {count_text(plan.total_steps, 'step')} finished"
    if result.failures:
        text = _describe_failure(plan, first=result.failures[0], result=result, run_dir=run_dir)
        if result.status is LaunchStatus.TIMED_OUT:
            text += f"\nafter this the others were waited for until the time-out of {_limit_text(plan)}; {finished}"
        return text
    log = result.logs[0]
    return (
        f"{plan.case} timed out after {_limit_text(plan)}; {finished}; "
        f"if it only needs longer, raise timeout_sec in the recipe or --perf-timeout; the log {log} ends with:\n"
        f"{tail_of(log)}"
    )


def _limit_text(plan: Plan) -> str:
    basis = f" ({plan.timeout_basis})" if plan.timeout_basis else ""
    return f"{plan.timeout_sec:g} s{basis}"


def _describe_failure(plan: Plan, *, first: RankExit, result: LaunchResult, run_dir: Path) -> str:
    log = result.logs[first.rank]
    subject = f"rank {first.rank}"
    if plan.command:
        subject = f"the command {plan.command[0]!r}"
    if error := _rank_error(run_dir, rank=first.rank):
        return f"rank {first.rank} of {plan.case} failed: {error.message}\n{error.traceback.rstrip()}\nits log: {log}"
    if first.exit_code >= 0:
        how = f"exited with {first.exit_code}"
    elif first.exit_code == -signal.SIGKILL:
        how = "was killed by SIGKILL (out of memory? the kernel's log tells)"
    else:
        how = f"was killed by {_signal_name(-first.exit_code)}"
    ending = f"ends with:\n{tail_of(log)}"
    traceback = first_traceback(log)
    if traceback not in ending:
        ending = f"has as its first traceback:\n{traceback}\nand {ending}"
    return f"{subject} of {plan.case} {how}; its log {log} {ending}"


def _rank_error(run_dir: Path, *, rank: int) -> RankError | None:
    path = run_dir / error_file(rank)
    try:
        return read_data(RankError, path)
    except RecordError:  # a torn file has less than the log
        return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return f"signal {number}"
