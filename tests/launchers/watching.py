"""Checks of processes by pid, for the launchers' tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

LIMIT_SEC = 60.0
"""Time limit for a busy machine; tests don't depend on durations below it."""


def wait_until(condition: Callable[[], bool], *, what: str) -> None:
    deadline = time.monotonic() + LIMIT_SEC
    while not condition():
        assert time.monotonic() < deadline, f"not after {LIMIT_SEC:.0f} s: {what}"
        time.sleep(0.02)


def noted(run_dir: Path, *names: str) -> list[psutil.Process]:
    """Return the processes that have left these names in the run directory, once they all have."""
    paths = [run_dir / f"{name}.pid" for name in names]
    wait_until(lambda: all(path.exists() for path in paths), what=f"{names} noted in {run_dir}")
    return [psutil.Process(int(path.read_text())) for path in paths]


def noted_pids(run_dir: Path) -> list[int]:
    return [int(path.read_text()) for path in run_dir.glob("*.pid")]


def parent_of(process: psutil.Process) -> psutil.Process:
    parent = process.parent()
    assert parent is not None
    return parent


def descendants_named(name: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.name() == name:
                found.append(process)
    return found


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pid_lives(pid: int) -> bool:
    try:
        return lives(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def kill_all(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def wait_until_dead(processes: Iterable[psutil.Process]) -> None:
    known = list(processes)
    wait_until(lambda: not any(lives(process) for process in known), what=f"all dead of {known}")
