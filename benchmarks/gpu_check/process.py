"""One stage's program as a process with a time limit, in a session of its own so that all it starts can be ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

# A pytest session reports what it measured and ends its ranks; the longest step of the suite is 4 s.
INTERRUPT_GRACE_SEC = 15.0
_TERM_GRACE_SEC = 5.0
ENDING_SEC = INTERRUPT_GRACE_SEC + _TERM_GRACE_SEC
_POLL_SEC = 0.1


def run_limited(
    argv: Sequence[str],
    *,
    log: Path,
    cwd: Path,
    env: Mapping[str, str],
    limit_sec: float,
    on_poll: Callable[[float], None],
) -> int | None:
    """Run a command and return its exit status; None if it was ended at its limit.

    An exception of ``on_poll``, KeyboardInterrupt included, ends the command before it goes on.

    Args:
        argv: The command.
        log: File that its output is appended to.
        cwd: Its working directory.
        env: Its environment.
        limit_sec: Wall-clock limit; ending it takes up to ``ENDING_SEC`` more.
        on_poll: Called ten times a second with the seconds since the start.
    """
    start = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(argv),
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            cwd=cwd,
            env=dict(env),
            start_new_session=True,
        )
    try:
        while process.poll() is None:
            seconds = time.monotonic() - start
            if seconds >= limit_sec:
                return None
            on_poll(seconds)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SEC)
        return process.returncode
    finally:
        end_session(process)


def end_session(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group: Ctrl-C, which lets them report; then SIGTERM, then SIGKILL."""
    for number, grace_sec in ((signal.SIGINT, INTERRUPT_GRACE_SEC), (signal.SIGTERM, _TERM_GRACE_SEC)):
        if process.poll() is not None:
            break
        _signal_group(process, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_sec)
    _signal_group(process, signal.SIGKILL)  # children may have survived their parent
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def stage_environment(benchmarks: Path) -> dict[str, str]:
    """Return this process's environment, in which Python finds the programs of the stages."""
    path = os.pathsep.join(filter(None, [str(benchmarks), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def program_command(program: str, *arguments: str) -> list[str]:
    """Return the command of a stage's program."""
    return [sys.executable, "-m", program, *arguments]
