"""Processes forked from one that has imported torch: a rank starts in a fraction of a second, and can be ended."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_nemoperf.process.orphans import die_with_parent

# A process that forks must have no threads, and numpy's OpenBLAS starts its own at import; as in preload.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# A library that asks for CUDA while it is imported gets the answer from NVML: a process that has used CUDA itself must
# not fork. As in the warm server; this module is imported before torch.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

_POLL_SEC = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """End of one process.

    Attributes:
        status: Exit status, negative for a signal; None if it was ended at the limit.
        seconds: Time of its end, since the start of all.
    """

    status: int | None
    seconds: float


def run_forked(
    run: Callable[[], object], *, environments: Sequence[Mapping[str, str]], logs: Sequence[Path], limit_sec: float
) -> list[Ended]:
    """Run a function in one process for each environment, and return their ends; nobody ends one for another.

    The caller must have imported what the function needs, have no threads, and not have used the device.

    Args:
        run: The function.
        environments: Variables of each process, on top of this one's.
        logs: Files of their output.
        limit_sec: Time after which those that still run are killed.
    """
    start = time.monotonic()
    running: dict[int, int] = {}
    ended: dict[int, Ended] = {}
    try:
        for number, environment in enumerate(environments):
            running[_fork(run, environment=environment, log=logs[number])] = number
        while running:
            seconds = time.monotonic() - start
            for pid, number in list(running.items()):
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    ended[number] = Ended(status=os.waitstatus_to_exitcode(status), seconds=seconds)
                    del running[pid]
            if seconds >= limit_sec:
                break
            time.sleep(_POLL_SEC)
    finally:
        for pid, number in running.items():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            ended[number] = Ended(status=None, seconds=limit_sec)
    return [ended[number] for number in range(len(environments))]


def free_port() -> int:
    """Return a port of this host that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def tail(log: Path, *, lines: int = 12) -> str:
    """Return the end of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _fork(run: Callable[[], object], *, environment: Mapping[str, str], log: Path) -> int:
    """Fork a process that runs the function, and return its id."""
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        die_with_parent(signal.SIGKILL, parent_pid=parent)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        # Lines must be in the file when a process is killed.
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        os.environ.update(environment)
        run()
        status = 0
    except BaseException:  # a forked process must end here, whatever ends it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
