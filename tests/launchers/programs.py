"""Programs for the launcher's tests: ranks and commands that end well, fail, hang, or start further processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SLEEP_SEC = 1000.0
"""Longer than any test: a process that sleeps this long and ends was killed."""


def run_dir() -> Path:
    return Path(os.environ["NEMOPERF_RUN_DIR"])


def rank() -> int:
    return int(os.environ["RANK"])


def note_pid(name: str, pid: int) -> None:
    """Write a pid for the test; the file is renamed, so that the test never reads half of one."""
    part = run_dir() / f"{name}.part"
    part.write_text(str(pid))
    part.rename(run_dir() / f"{name}.pid")


def note_environment() -> None:
    facts = {"environment": dict(os.environ), "pid": os.getpid(), "parent_pid": os.getppid()}
    (run_dir() / f"environment-{rank()}.json").write_text(json.dumps(facts))
    print("said by rank", rank())
    print("complained by rank", rank(), file=sys.stderr)


def all_reduce() -> None:
    import torch.distributed as dist

    _join_group()
    _reduce()
    dist.destroy_process_group()


def raise_on_rank_1() -> None:
    _join_group()
    if rank() == 1:
        raise ValueError("no such token 7")
    _reduce()


def exit_on_rank_1() -> None:
    _join_group()
    if rank() == 1:
        print("about to leave", flush=True)
        os._exit(3)
    _reduce()


def kill_rank_1() -> None:
    _join_group()
    if rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    _reduce()


def follow_from_a_killed_rank() -> None:
    """Rank 1 is killed, and rank 0 has an error that follows from it."""
    from pytest_nemoperf.errors import LostRankError

    if rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    raise LostRankError("before this, rank 1 ended")


def hang() -> None:
    note_pid(f"rank{rank()}", os.getpid())
    time.sleep(SLEEP_SEC)


def hang_deaf_with_child() -> None:
    """Hang like a rank inside a collective: Python's signal handlers don't run there."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", str(SLEEP_SEC)], start_new_session=True)
    note_pid(f"child{rank()}", child.pid)
    hang()


def leave_child() -> None:
    child = subprocess.Popen(["sleep", str(SLEEP_SEC)], start_new_session=True)
    note_pid(f"child{rank()}", child.pid)
    child.returncode = 0  # not ours any more, as after a double fork


def interrupt_itself() -> None:
    raise KeyboardInterrupt


def raise_on_both() -> None:
    """Rank 1 is the cause, but takes long to end; rank 0 follows and ends first."""
    try:
        if rank() == 0:
            while not list(run_dir().glob("error-rank1.json")):
                time.sleep(0.01)
            raise ConnectionError("connection closed by peer")
        raise ValueError("the cause")
    finally:
        if rank() == 1:
            _leave_own_error()
            time.sleep(SLEEP_SEC)


def _leave_own_error() -> None:
    from pytest_nemoperf.json_codec import to_json
    from pytest_nemoperf.records.step import RankError, error_file

    error = RankError(rank=rank(), time_sec=time.time(), message="ValueError: the cause", traceback="here")
    part = run_dir() / "error.part"
    part.write_text(to_json(error))
    part.rename(run_dir() / error_file(rank()))


def _join_group() -> None:
    import torch.distributed as dist

    note_pid(f"rank{rank()}", os.getpid())
    dist.init_process_group("gloo")


def _reduce() -> None:
    import torch
    import torch.distributed as dist

    total = torch.ones(1)
    dist.all_reduce(total)
    print("sum", int(total.item()))


def command_with_family() -> None:
    """Start children that are hard to find: one in a session of its own, and a daemon without an environment."""
    child = subprocess.Popen(["sleep", str(SLEEP_SEC)], start_new_session=True)
    note_pid("child", child.pid)
    if os.fork() == 0:
        os.setsid()
        daemon = subprocess.Popen(["/bin/sleep", str(SLEEP_SEC)], env={})
        note_pid("daemon", daemon.pid)
        os._exit(0)
    os.wait()


if __name__ == "__main__":
    # As a command: start a family, then exit with a code, or wait, deaf to SIGTERM or not.
    command_with_family()
    if sys.argv[1] == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.argv[1] == "exit":
        sys.exit(int(sys.argv[2]))
    note_pid("command", os.getpid())
    time.sleep(SLEEP_SEC)
