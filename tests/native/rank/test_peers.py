"""Ranks that wait for a failed one: real gloo ranks that no launcher ends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]  # documented, not in __all__

from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.native.rank import peers as peers_module
from pytest_nemoperf.native.rank.peers import PeerFailure, Peers
from pytest_nemoperf.records.step import RESULT_FILE, RankError, error_file

pytestmark = pytest.mark.ranks

ROOT = Path(__file__).parents[3]
RAISED = ("raise-plan-0", "raise-build-1", "raise-train-0", "raise-train-1")
KILLED = ("kill-build-1", "kill-train-0", "kill-train-1")
SLOW = "sleep-train-1"
HUNG = -6  # SIGABRT, by which the program ends ranks that hang
HERE = "127.0.0.1"
LIMIT_SEC = 30.0


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Outcomes of all ways, in one process that imports torch once."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    program = [sys.executable, "-m", "tests.native.rank.by_hand", str(tmp_path_factory.mktemp("runs"))]
    output = subprocess.run([*program, *RAISED, *KILLED, SLOW], cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE)
    outcomes: dict[str, Any] = json.loads(output.stdout)
    return outcomes


@pytest.mark.parametrize("way", RAISED)
def test_a_rank_that_waits_for_one_that_raised_ends_by_itself(way: str, outcomes: dict[str, Any]) -> None:
    failed = int(way[-1])
    outcome = outcomes[way]

    assert outcome["exit_codes"] == [1, 1]
    assert "ValueError: no such token 7" in outcome["logs"][failed]
    assert error_file(failed) in outcome["files"]


@pytest.mark.parametrize("way", KILLED)
def test_a_rank_that_waits_for_a_killed_one_ends_and_its_error_is_not_taken_for_the_cause(
    way: str, outcomes: dict[str, Any]
) -> None:
    failed = int(way[-1])
    outcome = outcomes[way]

    assert outcome["exit_codes"][failed] == -9
    assert outcome["exit_codes"][1 - failed] == 1
    assert f"rank {failed} ended without an error of its own" in outcome["logs"][1 - failed]
    assert not any(name.startswith("error-rank") for name in outcome["files"])


def test_a_rank_that_is_only_slow_is_waited_for(outcomes: dict[str, Any]) -> None:
    assert outcomes[SLOW]["exit_codes"] == [0, 0]
    assert RESULT_FILE in outcomes[SLOW]["files"]


def test_a_rank_removes_the_error_of_an_earlier_run_in_its_directory(tmp_path: Path) -> None:
    path = tmp_path / error_file(1)
    path.write_text(to_json(RankError(rank=1, time_sec=1.0, message="ValueError: old", traceback="")))

    peers = Peers(rank=1, world_size=2, run_dir=tmp_path)
    peers.joined()

    assert not path.exists()


def test_one_rank_alone_watches_nothing_and_meets_nobody(tmp_path: Path) -> None:
    peers = Peers(rank=0, world_size=1, run_dir=tmp_path)

    assert peers.lost() is None
    peers.done()


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (PeerFailure(rank=3, message="ValueError: no"), "rank 3 failed: ValueError: no"),
        (
            PeerFailure(rank=3),
            "rank 3 ended without an error of its own (killed? out of memory? the kernel's log tells)",
        ),
    ],
    ids=["raised", "killed"],
)
def test_a_failure_in_words(failure: PeerFailure, text: str) -> None:
    assert str(failure) == text


class Watched:
    """Ranks of one run in this process, whose ends and remarks are recorded instead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, run_dir: Path) -> None:
        self.store = HashStore()
        self.remarks: list[str] = []
        self.has_ended = threading.Event()
        self.has_remark = threading.Event()
        self._run_dir = run_dir
        monkeypatch.setattr(peers_module, "_log", self._remark)
        monkeypatch.setattr(os, "_exit", lambda _code: self.has_ended.set())

    def rank(self, number: int) -> Peers:
        peers = Peers(rank=number, world_size=2, run_dir=self._run_dir)
        peers.joined()  # no error files
        return peers

    def _remark(self, text: str) -> None:
        self.remarks.append(text)
        self.has_remark.set()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Watched:
    return Watched(monkeypatch, run_dir=tmp_path)


def test_a_stranger_that_sends_half_a_line_holds_nothing_up(watched: Watched) -> None:
    watched.rank(0).join(watched.store, address=HERE)
    port = int(watched.store.get("nemoperf/peers").decode().split()[0])
    with socket.create_connection((HERE, port)) as stranger:
        stranger.sendall(b"GET /")
        failed = watched.rank(1)
        failed.join(watched.store, address=HERE)

        failed.fail("ValueError: no such token 7")

        assert watched.has_ended.wait(LIMIT_SEC)
    assert "rank 0 ends, since it would wait for 1: rank 1 failed: ValueError: no such token 7" in watched.remarks[0]


def test_an_error_of_any_length_is_passed_on_as_an_error(watched: Watched) -> None:
    watched.rank(0).join(watched.store, address=HERE)
    failed = watched.rank(1)
    failed.join(watched.store, address=HERE)

    failed.fail("ValueError: " + 100_000 * "7")

    assert watched.has_ended.wait(LIMIT_SEC)
    assert "rank 1 failed: ValueError: 777" in watched.remarks[0]
    assert len(watched.remarks[0]) < 3000


@pytest.mark.parametrize(("last_line", "is_noticed"), [(b"done\n", False), (b"", True)], ids=["done", "dead"])
def test_only_a_rank_that_is_not_done_is_taken_for_dead(
    last_line: bytes,
    is_noticed: bool,  # noqa: FBT001 (a parameter of a test)
    watched: Watched,
) -> None:
    watched.rank(0).join(watched.store, address=HERE)
    port, token = watched.store.get("nemoperf/peers").decode().split()
    with socket.create_connection((HERE, int(port))) as rank_1:
        rank_1.sendall(f"{token} 1\n".encode())
        assert rank_1.recv(100) == b"welcome\n"
        rank_1.sendall(last_line)

    assert watched.has_ended.wait(LIMIT_SEC if is_noticed else 1.5) == is_noticed
    assert len(watched.remarks) == is_noticed


def test_a_proxy_that_leads_nowhere_does_not_end_the_run(watched: Watched) -> None:
    with socket.create_server((HERE, 0)) as proxy:
        watched.store.set("nemoperf/peers", f"{proxy.getsockname()[1]} token")
        watched.rank(1).join(watched.store, address=HERE)
        proxy.accept()[0].close()

        assert watched.has_remark.wait(LIMIT_SEC)

    assert not watched.has_ended.wait(1.5)
    assert watched.remarks[0].startswith("rank 1 has no connection to rank 0 (the connection ended before it answered)")


def _refuse(*_arguments: object, **_named: object) -> socket.socket:
    raise OSError(24, "Too many open files")


@pytest.mark.parametrize("is_listening", [True, False], ids=["unreachable", "no-listener"])
def test_ranks_without_a_connection_go_on_and_say_so(
    is_listening: bool,  # noqa: FBT001 (a parameter of a test)
    watched: Watched,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replaced: Callable[..., socket.socket] = _refuse
    if is_listening:
        monkeypatch.setattr(socket, "create_connection", replaced)
    else:
        monkeypatch.setattr(peers_module, "_listener", replaced)

    watched.rank(0).join(watched.store, address=HERE)
    watched.rank(1).join(watched.store, address=HERE)

    assert "rank 1 has no connection to rank 0 at 127.0.0.1 port" in watched.remarks[-1]
    assert "waits until the time limit of the run" in watched.remarks[-1]
    if not is_listening:
        assert "rank 0 can't listen for the other ranks ([Errno 24] Too many open files)" in watched.remarks[0]
    assert not watched.has_ended.is_set()
