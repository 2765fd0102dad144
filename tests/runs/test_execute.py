from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pytest_nemoperf.errors import LaunchError, RecordError, TurnError
from pytest_nemoperf.frameworks.command import CommandFramework
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.json_codec import from_json, to_json, to_json_line
from pytest_nemoperf.launchers.protocol import LaunchResult, LaunchStatus, RankExit
from pytest_nemoperf.machine.monitor import Monitor
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.health import GpuHealth, HealthReport
from pytest_nemoperf.records.launch_times import StartTimes
from pytest_nemoperf.records.step import Progress, RankError, RunOutput, RunResult, error_file
from pytest_nemoperf.runs import clock
from pytest_nemoperf.runs.execute import run_once
from tests.builders import make_plan, make_records
from tests.logs.log_texts import BY_HAND, by_hand

PLAN = make_plan(timeout_sec=60.0)
COMMAND_PLAN = make_plan(framework="command", command=("train",), timeout_sec=60.0)


@pytest.fixture(autouse=True)
def invented_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept records of steps that took longer than the run."""
    monkeypatch.setattr("pytest_nemoperf.runs.step_times._MAX_RECORDED_SHARE", float("inf"))


@dataclass
class ScriptedLauncher:
    """Launcher that calls one function a poll, then ends with a status.

    Attributes:
        status: Of the launch.
        failures: Of its ranks.
        polls: Called with the run directory, one a poll; the last one after the last poll.
        launched: Commands and timeouts of its launches.
    """

    status: LaunchStatus = LaunchStatus.OK
    failures: tuple[RankExit, ...] = ()
    polls: list[Callable[[Path], object]] = field(default_factory=list)
    launched: list[tuple[RankCommand, float]] = field(default_factory=list)

    def launch(
        self, command: RankCommand, *, run_dir: Path, timeout_sec: float, on_poll: Callable[[], None]
    ) -> LaunchResult:
        self.launched.append((command, timeout_sec))
        logs = tuple(run_dir / "logs" / f"rank{rank}.log" for rank in range(command.num_processes))
        logs[0].parent.mkdir()
        for rank, log in enumerate(logs):
            log.write_text("".join(f"rank {rank} line {number}\n" for number in range(20)))
        for number, do in enumerate(self.polls, start=1):
            do(run_dir)
            if number < len(self.polls):
                on_poll()
        return LaunchResult(status=self.status, failures=self.failures, logs=logs)

    def close(self) -> None:
        pass


def failing(rank: int = 0, *, exit_code: int = 1, polls: Sequence[Callable[[Path], object]] = ()) -> ScriptedLauncher:
    """Return a launcher with one failing rank."""
    failures = (RankExit(rank=rank, exit_code=exit_code),)
    return ScriptedLauncher(status=LaunchStatus.FAILED, failures=failures, polls=list(polls))


def run(plan: Plan, *, launcher: ScriptedLauncher, run_dir: Path, steps: list[int] | None = None) -> RunOutput:
    seen = [] if steps is None else steps

    def on_progress(progress: Progress | None) -> None:
        if progress is not None:
            seen.append(progress.step)

    framework = CommandFramework() if plan.command else TorchFramework()
    return run_once(plan, framework=framework, launcher=launcher, run_dir=run_dir, on_progress=on_progress)


def append(name: str, text: str) -> Callable[[Path], object]:
    def do(run_dir: Path) -> None:
        with (run_dir / name).open("a") as file:
            file.write(text)

    return do


def leave_error(rank: int, *, error_type: str = "ValueError") -> Callable[[Path], object]:
    error = RankError(
        rank=rank,
        time_sec=1.0,
        message=f"{error_type}: no such token",
        traceback="Traceback: here\n",
        error_type=error_type,
    )
    return append(error_file(rank), to_json(error))


def complete(run_dir: Path) -> None:
    append("steps.jsonl", "".join(map(to_json_line, make_records(PLAN))))(run_dir)
    append("result.json", to_json(RunResult(num_ranks=2, num_steps=PLAN.total_steps, device_name="cpu")))(run_dir)


def step_line(step: int) -> str:
    return to_json_line(Progress(step=step, step_time_sec=0.5))


def test_a_complete_run_gives_the_frameworks_output_and_leaves_its_plan(tmp_path: Path) -> None:
    launcher = ScriptedLauncher(polls=[complete])

    output = run(PLAN, launcher=launcher, run_dir=tmp_path / "run")

    assert output.records == tuple(make_records(PLAN))
    assert from_json(Plan, (tmp_path / "run" / "plan.json").read_text(), subject="plan") == PLAN
    assert launcher.launched == [(TorchFramework().command(PLAN, run_dir=tmp_path / "run"), 60.0)]


def test_steps_that_took_longer_than_the_run_were_not_measured_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_nemoperf.runs.step_times._MAX_RECORDED_SHARE", 1.5)

    with pytest.raises(RecordError, match=r"took 0\.8 s, but the run only .* not measured in this run"):
        run(PLAN, launcher=ScriptedLauncher(polls=[complete]), run_dir=tmp_path / "run")


def test_records_that_are_wrong_after_a_report_of_missing_memory_are_told_with_it(tmp_path: Path) -> None:
    report = append("logs/rank0.log", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB.\n")
    launcher = ScriptedLauncher(polls=[report, append("steps.jsonl", "half a li")])

    with pytest.raises(
        LaunchError,
        match=r"OUT OF MEMORY: .* allocate 2\.50 GiB.*\nit ended with 0 all the same: .*steps\.jsonl:1: half a line",
    ):
        run(COMMAND_PLAN, launcher=launcher, run_dir=tmp_path / "run")


def test_an_earlier_run_in_the_same_directory_can_not_be_taken_for_this_one(tmp_path: Path) -> None:
    run(PLAN, launcher=ScriptedLauncher(polls=[complete]), run_dir=tmp_path / "run")

    with pytest.raises(RecordError, match="the run is incomplete"):
        run(PLAN, launcher=ScriptedLauncher(), run_dir=tmp_path / "run")


def test_progress_is_passed_on_line_by_line_and_a_torn_line_waits(tmp_path: Path) -> None:
    polls = [
        append("progress.jsonl", step_line(0) + step_line(1)[:10]),
        append("progress.jsonl", step_line(1)[10:]),
        append("progress.jsonl", "nonsense\n" + step_line(7)),
    ]
    steps: list[int] = []

    run(PLAN, launcher=ScriptedLauncher(polls=[*polls, complete]), run_dir=tmp_path, steps=steps)

    assert steps == [0, 1, 7]


def test_progress_after_the_last_poll_is_passed_on_too(tmp_path: Path) -> None:
    launcher = ScriptedLauncher(polls=[append("progress.jsonl", step_line(7))])
    steps: list[int] = []

    with pytest.raises(RecordError, match="incomplete"):
        run(PLAN, launcher=launcher, run_dir=tmp_path, steps=steps)

    assert steps == [7]


def test_step_records_are_the_progress_of_a_framework_that_writes_no_other(tmp_path: Path) -> None:
    lines = [to_json_line(record) for record in make_records(COMMAND_PLAN)]
    polls = [append("steps.jsonl", line) for line in lines]
    steps: list[int] = []

    run(COMMAND_PLAN, launcher=ScriptedLauncher(polls=polls), run_dir=tmp_path, steps=steps)

    assert steps == list(range(8))


def test_the_lines_of_the_log_are_the_progress_of_a_command_that_is_read_by_it(tmp_path: Path) -> None:
    plan = make_plan(framework="command", command=("train",), timeout_sec=60.0, log_format=BY_HAND)
    polls = [append("logs/rank0.log", by_hand([step])) for step in range(3, 11)]
    steps: list[int] = []

    output = run(plan, launcher=ScriptedLauncher(polls=polls), run_dir=tmp_path, steps=steps)

    assert steps == list(range(8))
    assert len(output.records) == 8


def test_the_first_failing_ranks_own_error_is_raised_with_its_log(tmp_path: Path) -> None:
    launcher = ScriptedLauncher(
        status=LaunchStatus.FAILED,
        failures=(RankExit(rank=1, exit_code=1), RankExit(rank=0, exit_code=1)),
        polls=[leave_error(1)],
    )

    with pytest.raises(LaunchError) as caught:
        run(PLAN, launcher=launcher, run_dir=tmp_path)

    message = str(caught.value)
    assert message.startswith(f"rank 1 of {PLAN.case} failed: ValueError: no such token\nTraceback: here\n")
    assert message.endswith(f"its log: {tmp_path}/logs/rank1.log")


@pytest.mark.parametrize(
    ("exit_code", "how"),
    [
        (3, "exited with 3"),
        (-9, "was killed by SIGKILL (out of memory?"),
        (-11, "was killed by SIGSEGV"),
        (-63, "was killed by signal 63"),
    ],
)
def test_a_rank_that_left_no_error_is_named_with_its_exit_and_the_end_of_its_log(
    exit_code: int, how: str, tmp_path: Path
) -> None:
    with pytest.raises(LaunchError, match=re.escape(f"rank 1 of {PLAN.case} {how}")) as caught:
        run(PLAN, launcher=failing(1, exit_code=exit_code), run_dir=tmp_path)

    tail = "\n".join(f"rank 1 line {number}" for number in range(5, 20))
    assert str(caught.value).endswith(f"its log {tmp_path}/logs/rank1.log ends with:\n{tail}")


def test_a_torn_error_file_says_less_than_the_log(tmp_path: Path) -> None:
    launcher = failing(exit_code=-9, polls=[append(error_file(0), '{"rank": 0, "mess')])

    with pytest.raises(LaunchError, match=r"rank 0 line 19$"):
        run(PLAN, launcher=launcher, run_dir=tmp_path)


def test_a_failing_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"the command 'train' of .* exited with 2; its log"):
        run(COMMAND_PLAN, launcher=failing(exit_code=2), run_dir=tmp_path)


@pytest.mark.parametrize(
    ("polls", "finished"),
    [([], "no step finished"), ([append("progress.jsonl", step_line(3))], "4 of 8 steps finished")],
)
def test_a_time_out_names_the_finished_steps_and_the_option_to_raise(
    polls: list[Callable[[Path], object]], finished: str, tmp_path: Path
) -> None:
    launcher = ScriptedLauncher(status=LaunchStatus.TIMED_OUT, polls=polls)

    said = rf"timed out after 60 s \(timeout_sec of the recipe\); {finished}; .*--perf-timeout"
    with pytest.raises(LaunchError, match=said) as caught:
        run(PLAN, launcher=launcher, run_dir=tmp_path)

    assert f"{tmp_path}/logs/rank0.log" in str(caught.value)
    assert str(caught.value).endswith("rank 0 line 19")


def test_a_time_out_caused_by_a_failed_rank_names_that_ranks_error(tmp_path: Path) -> None:
    launcher = ScriptedLauncher(
        status=LaunchStatus.TIMED_OUT, failures=(RankExit(rank=1, exit_code=-15),), polls=[leave_error(1)]
    )

    with pytest.raises(LaunchError, match=r"(?s)rank 1 of .* failed: ValueError: .* waited for until .* of 60 s"):
        run(PLAN, launcher=launcher, run_dir=tmp_path)


def test_a_traceback_that_the_end_of_the_log_hides_is_shown_as_well(tmp_path: Path) -> None:
    summary = "".join(f"summary line {number}\n" for number in range(20))
    text = f"Traceback (most recent call last):\n  File here\nValueError: the cause\n{summary}"
    launcher = failing(polls=[append("logs/rank0.log", text)])

    with pytest.raises(LaunchError, match=r"(?s)has as its first traceback:.*ValueError: the cause\nand ends with:"):
        run(COMMAND_PLAN, launcher=launcher, run_dir=tmp_path)


def test_the_machines_health_is_left_beside_the_records(tmp_path: Path) -> None:
    output = run(PLAN, launcher=ScriptedLauncher(polls=[complete]), run_dir=tmp_path / "run")

    assert output.health is not None
    assert from_json(HealthReport, (tmp_path / "run" / "health.json").read_bytes(), subject="health") == output.health


def test_a_run_that_fails_names_the_problems_of_the_machine_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = HealthReport(seconds=1.0, num_samples=1, is_measured_steps=False, gpus=(GpuHealth(gpu=1, xids=(79,)),))
    monkeypatch.setattr(Monitor, "report", lambda *_, **__: broken)

    with pytest.raises(LaunchError, match="\nmeanwhile on this machine: GPU 1 reported Xid 79"):
        run(PLAN, launcher=failing(1, polls=[leave_error(1)]), run_dir=tmp_path)


def test_a_rank_whose_other_side_of_a_comparison_is_gone_raises_turn_error(tmp_path: Path) -> None:
    launcher = failing(1, polls=[leave_error(1, error_type="TurnError")])

    with pytest.raises(TurnError, match=r"rank 1 of .* failed: TurnError: "):
        run(PLAN, launcher=launcher, run_dir=tmp_path)


def test_a_log_that_mentions_turn_error_does_not_raise_it(tmp_path: Path) -> None:
    launcher = failing(polls=[append("logs/rank0.log", "TurnError\n")])

    with pytest.raises(LaunchError) as caught:
        run(COMMAND_PLAN, launcher=launcher, run_dir=tmp_path)

    assert type(caught.value) is LaunchError


def test_a_folder_that_can_not_be_made_is_named_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "case").write_text("a file")

    with pytest.raises(LaunchError, match=r"could not be run: .*case.*: Not a directory"):
        run(PLAN, launcher=ScriptedLauncher(), run_dir=tmp_path / "case" / "run-1")


def test_a_full_disk_does_not_hide_the_error_of_a_rank(tmp_path: Path) -> None:
    (tmp_path / "health.json").symlink_to("/dev/full")

    with pytest.raises(LaunchError, match="no such token"):
        run(PLAN, launcher=failing(polls=[leave_error(0)]), run_dir=tmp_path)


def test_a_full_disk_after_a_launch_is_told_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "health.json").symlink_to("/dev/full")

    with pytest.raises(LaunchError, match=r"could not be run: .*: No space left on device; free space on that disk"):
        run(PLAN, launcher=ScriptedLauncher(polls=[complete]), run_dir=tmp_path)


def noted_line(step: int, *, ended_sec: float | None) -> str:
    return to_json_line(Progress(step=step, step_time_sec=0.5, ended_sec=ended_sec))


STARTED = replace(PLAN, extra_metrics=("time_to_first_step_sec",))


def test_the_time_to_the_first_step_is_that_which_a_rank_has_noted(tmp_path: Path) -> None:
    noted: list[float] = []

    def first_step(run_dir: Path) -> None:
        noted.append(clock.now())
        append("progress.jsonl", noted_line(0, ended_sec=noted[0]))(run_dir)
        clock.wait(0.05)

    launcher = ScriptedLauncher(polls=[first_step, append("progress.jsonl", noted_line(1, ended_sec=None)), complete])
    before = clock.now()

    start = run(STARTED, launcher=launcher, run_dir=tmp_path / "run").start

    assert start is not None
    assert start.first_step_sec is not None
    assert not start.is_seen_by_log
    assert 0 <= start.first_step_sec <= noted[0] - before


def test_a_first_step_without_a_time_ended_when_it_was_seen(tmp_path: Path) -> None:
    launcher = ScriptedLauncher(polls=[append("progress.jsonl", step_line(0)), complete, lambda _: None])

    start = run(STARTED, launcher=launcher, run_dir=tmp_path / "run").start

    assert start is not None
    assert start.first_step_sec is not None
    assert start.is_seen_by_log


def test_a_time_of_another_hosts_clock_is_not_taken(tmp_path: Path) -> None:
    launcher = ScriptedLauncher(
        polls=[append("progress.jsonl", noted_line(0, ended_sec=clock.now() + 1e6)), complete, lambda _: None]
    )

    start = run(STARTED, launcher=launcher, run_dir=tmp_path / "run").start

    assert start is not None
    assert start.is_seen_by_log


def test_steps_that_are_told_at_the_end_alone_tell_no_start(tmp_path: Path) -> None:
    def all_at_once(run_dir: Path) -> None:
        append("progress.jsonl", step_line(0))(run_dir)
        complete(run_dir)

    assert run(STARTED, launcher=ScriptedLauncher(polls=[all_at_once]), run_dir=tmp_path / "run").start == StartTimes()


def test_no_start_is_noted_unless_it_is_asked_for(tmp_path: Path) -> None:
    launcher = ScriptedLauncher(polls=[append("progress.jsonl", step_line(0)), complete, lambda _: None])

    assert run(PLAN, launcher=launcher, run_dir=tmp_path / "run").start is None
    assert not (tmp_path / "run/start.json").exists()


def test_a_failed_launch_leaves_no_checkpoint(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    plan = replace(PLAN, extra_metrics=("checkpoint_save_sec",), checkpoint_dir=str(disk))

    def save(run_dir: Path) -> None:
        own = from_json(Plan, (run_dir / "plan.json").read_text(), subject="plan").checkpoint_dir
        (Path(own) / "torn.distcp").touch()

    with pytest.raises(LaunchError):
        run(plan, launcher=failing(polls=[save, leave_error(0)]), run_dir=tmp_path / "run")

    assert not list(disk.iterdir())


def test_ranks_that_time_their_start_are_not_forked_from_a_warm_server(tmp_path: Path) -> None:
    assert TorchFramework().command(PLAN, run_dir=tmp_path).entrypoint
    assert TorchFramework().command(STARTED, run_dir=tmp_path).entrypoint is None
