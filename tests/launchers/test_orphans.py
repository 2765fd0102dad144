"""No process outlives a pytest process that is ended in any way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.launchers.conftest import ROOT
from tests.launchers.watching import kill_all, noted, wait_until, wait_until_dead

NAMES = {"ranks": ("rank0", "rank1", "child0", "child1"), "command": ("command", "child", "daemon")}


@contextmanager
def started_driver(kind: str, *, run_dir: Path) -> Iterator[psutil.Popen]:
    """Yield a process that is about to launch."""
    process = psutil.Popen(
        [sys.executable, "-m", "tests.launchers.driver", kind, str(run_dir)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        kill_all([process])
        process.wait()
        process.stderr.close()


@contextmanager
def driver(kind: str, *, run_dir: Path) -> Iterator[tuple[psutil.Popen, list[psutil.Process]]]:
    """Yield a process that waits for a launch, and everything it has started."""
    with started_driver(kind, run_dir=run_dir) as process:
        tree: list[psutil.Process] = []
        try:
            tree.extend(noted(run_dir, *NAMES[kind]))
            tree.append(process.children()[0])
            yield process, tree
        finally:
            kill_all(tree)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT], ids=lambda signum: signum.name)
@pytest.mark.parametrize("kind", [pytest.param("ranks", marks=pytest.mark.ranks), "command"])
def test_nothing_outlives_a_signalled_pytest(kind: str, signum: signal.Signals, tmp_path: Path) -> None:
    with driver(kind, run_dir=tmp_path) as (process, tree):
        process.send_signal(signum)

        wait_until_dead([process, *tree])


@pytest.mark.ranks
def test_ranks_end_even_if_pytest_and_the_server_are_killed_together(tmp_path: Path) -> None:
    with driver("ranks", run_dir=tmp_path) as (process, tree):
        rank0, rank1, *_children, server = tree
        process.suspend()  # so that it can't clean up

        server.kill()

        wait_until_dead([rank0, rank1])


@pytest.mark.ranks
def test_a_server_that_still_imports_dies_with_pytest(tmp_path: Path) -> None:
    with started_driver("ranks", run_dir=tmp_path) as process:
        wait_until(lambda: bool(process.children()), what="server started")
        server = process.children()[0]

        process.kill()

        wait_until_dead([process, server])


def test_a_ctrl_c_while_waiting_reaches_the_caller(tmp_path: Path) -> None:
    with driver("command", run_dir=tmp_path) as (process, _tree):
        process.send_signal(signal.SIGINT)
        process.wait()
        err = process.stderr.read()

    assert b"KeyboardInterrupt" in err
    assert process.returncode in (-signal.SIGINT, 130)
