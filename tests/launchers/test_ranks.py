"""Ranks from the warm server: real processes that end well, fail, hang and are killed."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_nemoperf.errors import LaunchError
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.json_codec import from_json
from pytest_nemoperf.launchers.local import LocalLauncher, _reserved_port
from pytest_nemoperf.launchers.protocol import LaunchResult, LaunchStatus, RankExit
from pytest_nemoperf.records.step import RankError, error_file
from tests.launchers.watching import noted, noted_pids, parent_of, pid_lives, wait_until_dead

pytestmark = pytest.mark.ranks


def launch(
    launcher: LocalLauncher, function: str, run_dir: Path, *, timeout_sec: float = 60, **env: str
) -> LaunchResult:
    command = RankCommand(argv=("-",), num_processes=2, entrypoint=f"tests.launchers.programs:{function}", env=env)
    return launcher.launch(command, run_dir=run_dir, timeout_sec=timeout_sec, on_poll=lambda: None)


def noted_environments(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in folder.glob("*/environment-*.json")]


def test_ranks_join_a_process_group_through_the_environment(launcher: LocalLauncher, tmp_path: Path) -> None:
    result = launch(launcher, "all_reduce", tmp_path)

    assert result.status is LaunchStatus.OK
    assert result.failures == ()
    assert [log.read_text() for log in result.logs] == ["sum 2\n", "sum 2\n"]


def test_each_rank_gets_its_environment_and_a_log_with_both_its_streams(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    result = launch(launcher, "note_environment", tmp_path)

    environment = json.loads((tmp_path / "environment-1.json").read_text())["environment"]
    expected = {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "NEMOPERF_RUN_DIR": str(tmp_path),
    }
    assert expected.items() <= environment.items()
    assert result.logs == (tmp_path / "logs" / "rank0.log", tmp_path / "logs" / "rank1.log")
    assert result.logs[1].read_text() == "said by rank 1\ncomplained by rank 1\n"


def test_a_reserved_port_is_refused_to_others_but_not_to_the_first_rank() -> None:
    with _reserved_port() as port, socket.socket() as other, socket.socket() as store:
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        store.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        store.bind(("", port))
        store.listen()


def test_every_launch_has_fresh_processes_of_the_same_server(launcher: LocalLauncher, tmp_path: Path) -> None:
    launch(launcher, "note_environment", tmp_path / "first")
    launch(launcher, "raise_on_rank_1", tmp_path / "second")
    launch(launcher, "note_environment", tmp_path / "third")

    ranks = noted_environments(tmp_path)
    assert len({rank["pid"] for rank in ranks}) == 4
    assert len({rank["parent_pid"] for rank in ranks}) == 1


def test_the_rank_that_raises_is_named_before_those_it_took_along(launcher: LocalLauncher, tmp_path: Path) -> None:
    result = launch(launcher, "raise_on_rank_1", tmp_path)

    error = from_json(RankError, (tmp_path / error_file(1)).read_text(), subject="error")
    assert result.status is LaunchStatus.FAILED
    assert result.failures[0] == RankExit(rank=1, exit_code=1)
    assert error.message == "ValueError: no such token 7"
    assert "in raise_on_rank_1" in error.traceback
    assert "ValueError: no such token 7" in result.logs[1].read_text()


def test_a_rank_that_exits_silently_is_the_cause(launcher: LocalLauncher, tmp_path: Path) -> None:
    result = launch(launcher, "exit_on_rank_1", tmp_path)

    assert result.status is LaunchStatus.FAILED
    assert result.failures[0] == RankExit(rank=1, exit_code=3)
    assert result.logs[1].read_text() == "about to leave\n"


def test_a_rank_that_is_killed_is_the_cause(launcher: LocalLauncher, tmp_path: Path) -> None:
    result = launch(launcher, "kill_rank_1", tmp_path)

    assert result.status is LaunchStatus.FAILED
    assert result.failures[0] == RankExit(rank=1, exit_code=-9)
    assert not any(pid_lives(pid) for pid in noted_pids(tmp_path))


def test_an_error_that_follows_from_a_killed_rank_has_no_file(launcher: LocalLauncher, tmp_path: Path) -> None:
    result = launch(launcher, "follow_from_a_killed_rank", tmp_path)

    assert {(failure.rank, failure.exit_code) for failure in result.failures} == {(0, 1), (1, -9)}
    assert not list(tmp_path.glob("error-rank*.json"))
    assert "LostRankError: before this, rank 1 ended" in result.logs[0].read_text()


def test_the_earlier_error_file_is_the_cause_even_if_its_rank_hangs_afterwards(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    result = launch(launcher, "raise_on_both", tmp_path)

    assert result.status is LaunchStatus.FAILED
    assert [failure.rank for failure in result.failures] == [1, 0]


def test_a_keyboard_interrupt_inside_a_rank_is_a_failure(launcher: LocalLauncher, tmp_path: Path) -> None:
    result = launch(launcher, "interrupt_itself", tmp_path)

    assert result.status is LaunchStatus.FAILED
    assert {failure.exit_code for failure in result.failures} == {1}


def test_an_unknown_entrypoint_is_the_ranks_error(launcher: LocalLauncher, tmp_path: Path) -> None:
    result = launch(launcher, "no_such_function", tmp_path)

    assert result.status is LaunchStatus.FAILED
    assert "no_such_function" in (tmp_path / error_file(0)).read_text()


def test_hanging_ranks_are_stopped_when_time_is_up_and_their_server_stays(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    launch(launcher, "note_environment", tmp_path / "before")
    result = launch(launcher, "hang", tmp_path, timeout_sec=1)
    launch(launcher, "note_environment", tmp_path / "after")

    assert result.status is LaunchStatus.TIMED_OUT
    assert result.failures == ()
    assert not any(pid_lives(pid) for pid in noted_pids(tmp_path))
    assert len({rank["parent_pid"] for rank in noted_environments(tmp_path)}) == 1


def test_ranks_that_ignore_sigterm_and_their_children_are_killed_in_the_end(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    result = launch(launcher, "hang_deaf_with_child", tmp_path, timeout_sec=1)

    assert result.status is LaunchStatus.TIMED_OUT
    assert len(noted_pids(tmp_path)) == 4
    assert not any(pid_lives(pid) for pid in noted_pids(tmp_path))


def test_a_child_that_outlives_a_rank_that_ended_well_is_killed(launcher: LocalLauncher, tmp_path: Path) -> None:
    result = launch(launcher, "leave_child", tmp_path)

    assert result.status is LaunchStatus.OK
    assert len(noted_pids(tmp_path)) == 2
    assert not any(pid_lives(pid) for pid in noted_pids(tmp_path))


def test_a_killed_server_is_reported_takes_its_ranks_along_and_is_replaced(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    tree: list[psutil.Process] = []

    def kill_server() -> None:
        if not tree and len(noted_pids(tmp_path)) == 4:
            tree.extend(noted(tmp_path, "rank0", "rank1", "child0", "child1"))
            parent_of(tree[0]).kill()

    command = RankCommand(argv=("-",), num_processes=2, entrypoint="tests.launchers.programs:hang_deaf_with_child")
    with pytest.raises(LaunchError, match=r"pytest_nemoperf\.native\.rank\.server was killed by SIGKILL"):
        launcher.launch(command, run_dir=tmp_path, timeout_sec=60, on_poll=kill_server)

    assert len(tree) == 4
    wait_until_dead(tree)
    assert launch(launcher, "all_reduce", tmp_path / "next").status is LaunchStatus.OK


def test_an_interrupted_wait_stops_the_ranks_and_passes_the_interrupt_on(tmp_path: Path) -> None:
    launcher = LocalLauncher(grace_sec=0.5)
    tree: list[psutil.Process] = []

    def interrupt() -> None:
        if len(noted_pids(tmp_path)) == 2:
            tree.extend(noted(tmp_path, "rank0", "rank1"))
            tree.append(parent_of(tree[0]))
            raise KeyboardInterrupt

    root = str(Path(__file__).parents[2])
    command = RankCommand(
        argv=("-",), num_processes=2, entrypoint="tests.launchers.programs:hang", env={"PYTHONPATH": root}
    )
    with pytest.raises(KeyboardInterrupt):
        launcher.launch(command, run_dir=tmp_path, timeout_sec=60, on_poll=interrupt)

    assert len(tree) == 3
    wait_until_dead(tree)
    launcher.close()


def test_a_server_that_can_not_import_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch is broken')\n")
    launcher = LocalLauncher(grace_sec=0.5)
    command = RankCommand(argv=("-",), num_processes=1, entrypoint="a:b", env={"PYTHONPATH": str(tmp_path)})

    with pytest.raises(LaunchError, match=r"(?s)server exited with 1; its log .*server\.log .*libtorch is broken"):
        launcher.launch(command, run_dir=tmp_path / "run", timeout_sec=60, on_poll=lambda: None)


def test_a_server_that_does_not_answer_is_killed_with_its_ranks(
    launcher: LocalLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_nemoperf.launchers.local._STOP_MARGIN_SEC", 0.1)
    monkeypatch.setattr("pytest_nemoperf.launchers.helper._STOP_MARGIN_SEC", 0.1)
    tree: list[psutil.Process] = []

    def freeze_server() -> None:
        if not tree and len(noted_pids(tmp_path)) == 4:
            tree.extend(noted(tmp_path, "rank0", "rank1", "child0", "child1"))
            tree.append(parent_of(tree[0]))
            tree[-1].suspend()

    command = RankCommand(argv=("-",), num_processes=2, entrypoint="tests.launchers.programs:hang_deaf_with_child")
    result = launcher.launch(command, run_dir=tmp_path, timeout_sec=2, on_poll=freeze_server)

    assert result.status is LaunchStatus.TIMED_OUT
    assert len(tree) == 5
    wait_until_dead(tree)


def test_without_torch_the_error_says_how_to_install_it(
    launcher: LocalLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)

    with pytest.raises(LaunchError, match=re.escape("pip install 'pytest-nemoperf[torch]'")):
        launch(launcher, "all_reduce", tmp_path)


def test_a_recipes_environment_reaches_what_is_read_when_python_starts(launcher: LocalLauncher, tmp_path: Path) -> None:
    launch(launcher, "note_environment", tmp_path / "before")  # by a server that lacks the path
    (tmp_path / "found_by_path.py").write_text("import sys\n\n\ndef main():\n    print('found')\n")
    command = RankCommand(
        argv=("-",), num_processes=1, entrypoint="found_by_path:main", env={"PYTHONPATH": str(tmp_path)}
    )

    result = launcher.launch(command, run_dir=tmp_path, timeout_sec=60, on_poll=lambda: None)

    assert result.logs[0].read_text() == "found\n"
