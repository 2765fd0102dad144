"""Plain commands under the guard: their whole process tree ends with them."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from pytest_nemoperf.errors import LaunchError
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.launchers.local import LocalLauncher
from pytest_nemoperf.launchers.protocol import LaunchResult, LaunchStatus, RankExit
from pytest_nemoperf.recipes.recipe import RANK_VARIABLES
from tests.launchers.watching import (
    descendants_named,
    kill_all,
    lives,
    noted,
    noted_pids,
    parent_of,
    pid_lives,
    wait_until_dead,
)

PROGRAM = str(Path(__file__).with_name("programs.py"))


def launch(
    launcher: LocalLauncher, *argv: str, run_dir: Path, timeout_sec: float = 60, num_processes: int = 1
) -> LaunchResult:
    command = RankCommand(argv=argv, num_processes=num_processes)
    return launcher.launch(command, run_dir=run_dir, timeout_sec=timeout_sec, on_poll=lambda: None)


def test_a_command_that_ends_with_0_is_ok(launcher: LocalLauncher, tmp_path: Path) -> None:
    result = launch(launcher, "sh", "-c", "echo out; echo err >&2", run_dir=tmp_path)

    assert result.status is LaunchStatus.OK
    assert result.logs[0].read_text() == "out\nerr\n"


def test_several_processes_of_a_command_know_their_rank(launcher: LocalLauncher, tmp_path: Path) -> None:
    result = launch(launcher, "sh", "-c", "echo $RANK of $WORLD_SIZE", run_dir=tmp_path, num_processes=2)

    assert [log.read_text() for log in result.logs] == ["0 of 2\n", "1 of 2\n"]


def test_a_program_of_one_process_is_not_told_that_it_is_a_rank(
    launcher: LocalLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*RANK_VARIABLES, "SLURM_PROCID"):  # of another launcher, which started this process
        monkeypatch.setenv(name, "1")
    command = RankCommand(argv=("env",), num_processes=1, is_rank=False)

    result = launcher.launch(command, run_dir=tmp_path, timeout_sec=60, on_poll=lambda: None)

    names = {line.partition("=")[0] for line in result.logs[0].read_text().splitlines()}
    assert "NEMOPERF_RUN_DIR" in names
    assert not names & {*RANK_VARIABLES, "SLURM_PROCID"}


def test_a_program_of_one_process_may_set_the_variables_itself(launcher: LocalLauncher, tmp_path: Path) -> None:
    command = RankCommand(argv=("sh", "-c", "echo $RANK"), num_processes=1, is_rank=False, env={"RANK": "7"})

    result = launcher.launch(command, run_dir=tmp_path, timeout_sec=60, on_poll=lambda: None)

    assert result.logs[0].read_text() == "7\n"


def test_a_command_runs_in_the_directory_pytest_is_in(
    launcher: LocalLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    result = launch(launcher, "pwd", run_dir=tmp_path / "run")

    assert result.logs[0].read_text() == f"{tmp_path}\n"


def test_a_command_is_not_run_under_the_coverage_of_the_session(
    launcher: LocalLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # of these tests
    monkeypatch.setenv("COVERAGE_PROCESS_START", "coverage.ini")
    monkeypatch.setenv("COV_CORE_SOURCE", "src")
    monkeypatch.setenv("MINE", "kept")

    result = launch(launcher, "sh", "-c", "echo $MINE $COVERAGE_PROCESS_START $COV_CORE_SOURCE", run_dir=tmp_path)

    assert result.logs[0].read_text() == "kept\n"


@pytest.mark.parametrize(("script", "exit_code"), [("exit 3", 3), ("kill -SEGV $$", -11)])
def test_a_failing_command_gives_its_exit_code(
    launcher: LocalLauncher, tmp_path: Path, script: str, exit_code: int
) -> None:
    result = launch(launcher, "sh", "-c", script, run_dir=tmp_path)

    assert result.status is LaunchStatus.FAILED
    assert result.failures == (RankExit(rank=0, exit_code=exit_code),)


def test_a_missing_program_is_named_with_what_to_do(launcher: LocalLauncher, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"no-such-trainer' could not be started: .*install the program"):
        launch(launcher, "no-such-trainer", "--fast", run_dir=tmp_path)


@pytest.mark.parametrize("exit_code", [0, 3])
def test_children_in_other_sessions_end_with_their_command(
    launcher: LocalLauncher, tmp_path: Path, exit_code: int
) -> None:
    result = launch(launcher, sys.executable, PROGRAM, "exit", str(exit_code), run_dir=tmp_path)

    assert result.status is (LaunchStatus.FAILED if exit_code else LaunchStatus.OK)
    assert len(noted_pids(tmp_path)) == 2
    assert not any(pid_lives(pid) for pid in noted_pids(tmp_path))


def test_a_hanging_command_and_its_children_are_stopped_when_time_is_up(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    result = launch(launcher, sys.executable, PROGRAM, "deaf", run_dir=tmp_path, timeout_sec=2)

    assert result.status is LaunchStatus.TIMED_OUT
    assert len(noted_pids(tmp_path)) == 3
    assert not any(pid_lives(pid) for pid in noted_pids(tmp_path))


@pytest.mark.ranks
def test_workers_of_torchrun_do_not_outlive_it(launcher: LocalLauncher, tmp_path: Path) -> None:
    argv = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python", "sleep", "1000")
    workers: list[psutil.Process] = []

    def kill_torchrun() -> None:
        started = descendants_named("sleep") if not workers else []
        if len(started) == 2:
            workers.extend(started)
            parent_of(started[0]).kill()

    command = RankCommand(argv=(sys.executable, *argv), num_processes=1)
    result = launcher.launch(command, run_dir=tmp_path, timeout_sec=60, on_poll=kill_torchrun)

    assert result.failures == (RankExit(rank=0, exit_code=-9),)
    assert len(workers) == 2
    assert not any(lives(worker) for worker in workers)


def test_a_killed_guard_takes_its_command_along_and_is_replaced(launcher: LocalLauncher, tmp_path: Path) -> None:
    tree: list[psutil.Process] = []

    def kill_guard() -> None:
        if not tree and len(noted_pids(tmp_path)) == 3:
            tree.extend(noted(tmp_path, "command", "child", "daemon"))
            parent_of(tree[0]).kill()

    command = RankCommand(argv=(sys.executable, PROGRAM, "deaf"), num_processes=1)
    with pytest.raises(LaunchError, match=r"pytest_nemoperf\.launchers\.guard was killed by SIGKILL"):
        launcher.launch(command, run_dir=tmp_path, timeout_sec=60, on_poll=kill_guard)

    command_process, child, daemon = tree
    wait_until_dead([command_process, child])
    kill_all([daemon])  # without the guard, a daemon that has dropped its environment can't be told from anybody's
    assert launch(launcher, "true", run_dir=tmp_path / "next").status is LaunchStatus.OK
