"""Process lifetimes: parent-death signals, adoption and ending of descendants. Linux only."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress

import psutil

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_POLL_SEC = 0.02
_KILL_LIMIT_SEC = 10.0


def die_with_parent(signum: signal.Signals, *, parent_pid: int) -> None:
    """Have the kernel send this process that signal when its parent dies.

    The setting survives exec. The kernel watches the thread that forked, which must therefore live as long as the
    parent.

    Args:
        signum: Signal to send.
        parent_pid: Process id of the parent; if it is dead already, this process ends at once.
    """
    _prctl(_PR_SET_PDEATHSIG, signum)
    # The parent may have died between fork and prctl: then no signal will ever come.
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of every descendant that is orphaned, even in a session of its own."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_descendants(*, grace_sec: float) -> None:
    """End every descendant of this process: SIGTERM to all, SIGKILL to those alive after the grace.

    Returns when none lives, or after 10 s when the kernel itself holds one (a device call that never returns).

    Args:
        grace_sec: Between SIGTERM and SIGKILL; 0 kills at once.
    """
    if grace_sec > 0:
        _signal_all(_living_descendants(), signal.SIGTERM)
    deadline = time.monotonic() + grace_sec
    while _living_descendants() and time.monotonic() < deadline:
        time.sleep(_POLL_SEC)
    deadline = time.monotonic() + _KILL_LIMIT_SEC
    # A dying process may start another one: look again until there is none.
    while (living := _living_descendants()) and time.monotonic() < deadline:
        _signal_all(living, signal.SIGKILL)
        time.sleep(_POLL_SEC)


def reap_adopted() -> None:
    """Collect the exit status of dead children; nothing else may be waiting for one."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process still runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _living_descendants() -> list[psutil.Process]:
    return list(filter(is_alive, psutil.Process().children(recursive=True)))


def _signal_all(processes: list[psutil.Process], signum: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.send_signal(signum)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}, {value}): {os.strerror(code)}")
