"""Ranks that wait for a failed one: real gloo ranks that no launcher ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.native.rank.peers import PeerFailure, Peers
from pytest_nemoperf.records.step import RESULT_FILE, RankError, error_file

pytestmark = pytest.mark.ranks

ROOT = Path(__file__).parents[3]
RAISED = ("raise-plan-0", "raise-build-1", "raise-train-0", "raise-train-1")
KILLED = ("kill-build-1", "kill-train-0", "kill-train-1")
SLOW = "sleep-train-1"
HUNG = -6  # SIGABRT, by which the program ends ranks that hang


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
