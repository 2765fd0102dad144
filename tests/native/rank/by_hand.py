"""Ranks started by hand, without a launcher that would end them: one fails, in a run for each way given.

Run as a program: arguments are ways such as ``kill-train-1``; prints a JSON object of each way's outcome.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from unittest import mock

from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.native.rank import entry
from pytest_nemoperf.native.train.loop import Trainer
from pytest_nemoperf.records.step import PLAN_FILE
from tests.native.engine import plan_of

NUM_RANKS = 2
_LIMIT_SEC = 60.0
_PLACES = {"plan": (entry, "read_plan"), "build": (entry, "make_native_trainer"), "train": (Trainer, "step")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """Way in which a run fails.

    Attributes:
        how: ``raise``; ``kill``: the rank ends without a word; ``sleep``: it is only slow.
        where: Key of _PLACES.
        rank: Rank that fails.
    """

    how: str
    where: str
    rank: int

    @classmethod
    def parsed(cls, text: str) -> Way:
        how, where, rank = text.split("-")
        return cls(how=how, where=where, rank=int(rank))

    def apply(self) -> None:
        """Fail here, as this rank."""
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "sleep":
            time.sleep(3.0)
        else:
            raise ValueError("no such token 7")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Outcome of a run.

    Attributes:
        exit_codes: By rank; negative for a signal.
        files: Names of the files in the run directory.
        logs: Text of each rank.
    """

    exit_codes: list[int]
    files: list[str]
    logs: list[str]


def run(way: Way, *, run_dir: Path) -> Outcome:
    """Start the ranks of a run, wait until all have ended by themselves, and return the outcome."""
    plan = replace(plan_of(Layout(gpus=NUM_RANKS, dp_shard=NUM_RANKS)), timeout_sec=10 * _LIMIT_SEC)
    run_dir.mkdir()
    (run_dir / PLAN_FILE).write_text(to_json(plan))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(NUM_RANKS):
        pid = os.fork()
        if pid == 0:
            _be_rank(rank, way=way, run_dir=run_dir, port=port)
        ranks.append(pid)
    deadline = time.monotonic() + _LIMIT_SEC
    exit_codes: dict[int, int] = {}
    while len(exit_codes) < NUM_RANKS:
        for pid in set(ranks) - exit_codes.keys():
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGABRT)  # a hang, which the exit code tells
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                exit_codes[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return Outcome(
        exit_codes=[exit_codes[pid] for pid in ranks],
        files=sorted(path.name for path in run_dir.iterdir()),
        logs=[(run_dir / f"rank{rank}.log").read_text() for rank in range(NUM_RANKS)],
    )


def _be_rank(rank: int, *, way: Way, run_dir: Path, port: int) -> None:
    log = os.open(run_dir / f"rank{rank}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NEMOPERF_RUN_DIR": str(run_dir)}
    size = {"WORLD_SIZE": str(NUM_RANKS), "LOCAL_WORLD_SIZE": str(NUM_RANKS)}
    os.environ.update(place, **size, RANK=str(rank), LOCAL_RANK=str(rank))
    owner, name = _PLACES[way.where]
    original: Callable[..., object] = getattr(owner, name)

    def failing(*arguments: object, **named: object) -> object:
        is_due = way.where != "train" or arguments[1] == 1  # the second step: all ranks are in the middle of the run
        if rank == way.rank and is_due:
            way.apply()
        return original(*arguments, **named)

    with mock.patch.object(owner, name, failing):
        entry.main_of_process()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    outcomes = {}
    for text in sys.argv[2:]:
        outcomes[text] = asdict(run(Way.parsed(text), run_dir=folder / text))
    print(json.dumps(outcomes))
