"""Cost of a launch: from the command to the first step of a fresh 2-rank run, beside torchrun on the same ranks.

Both launch the same plan with the same rank module, in turns, so that a busy moment hits both. The clock stops when
the ranks write their first line of progress, after step 0. Run: ``python benchmarks/launch.py [--launches 7]``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.launchers.local import LocalLauncher
from pytest_nemoperf.launchers.protocol import LaunchStatus
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.step import PLAN_FILE, PROGRESS_FILE

_POLL_SEC = 0.005


def main() -> None:
    """Launch in turns and print the table."""
    parser = argparse.ArgumentParser(description="command to first step, nemoperf's launcher and torchrun in turns")
    parser.add_argument("--launches", type=int, default=7, help="launches of each (default 7)")
    launches = parser.parse_args().launches
    plan = _plan()
    ours = []
    theirs = []
    imports = []
    launcher = LocalLauncher()
    try:
        for _ in range(launches):
            ours.append(_time_ours(plan, launcher=launcher))
            theirs.append(_time_torchrun(plan))
            imports.append(_time_imports())
    finally:
        launcher.close()
    print(f"{plan.case}, {os.cpu_count()} cores, {launches} launches each, in turns; command to first step, seconds\n")
    print(f"{'':34}{'min':>8}{'median':>8}{'max':>8}")
    _print_row("nemoperf, first (starts server)", ours[:1])
    _print_row("nemoperf, later", ours[1:])
    _print_row("torchrun, same rank module", theirs)
    _print_row("  of which importing it, one rank", imports)


def _plan() -> Plan:
    recipe = Recipe(
        model="llama-tiny",
        layouts={"cpu": Layout(gpus=2, dp_shard=2)},
        seq_len=128,
        global_batch_size=4,
        precision=Precision.FP32,
        steps=4,
        warmup_steps=2,
    )
    return resolve(recipe, system=find_system("cpu"))


def _time_ours(plan: Plan, *, launcher: LocalLauncher) -> float:
    with _run_dir(plan) as run_dir, _Watch(run_dir) as watch:
        result = launcher.launch(
            TorchFramework().command(plan, run_dir=run_dir), run_dir=run_dir, timeout_sec=120, on_poll=lambda: None
        )
        assert result.status is LaunchStatus.OK, result.logs[0].read_text()
        return watch.first_step_sec()


def _time_torchrun(plan: Plan) -> float:
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    with _run_dir(plan) as run_dir, _Watch(run_dir) as watch:
        env = {**os.environ, "NEMOPERF_RUN_DIR": str(run_dir)}
        run = subprocess.run(
            [*argv, "-m", "pytest_nemoperf.native.rank.entry"],
            env=env,
            check=False,
            timeout=300,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert run.returncode == 0, run.stdout
        return watch.first_step_sec()


def _time_imports() -> float:
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import pytest_nemoperf.native.rank.preload"], check=True)
    return time.monotonic() - start


@contextmanager
def _run_dir(plan: Plan) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / PLAN_FILE).write_text(to_json(plan), encoding="utf-8")
        yield Path(name)


class _Watch:
    """Measures the time from entering to the first line of progress."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / PROGRESS_FILE
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._start = self._seen = 0.0

    def __enter__(self) -> _Watch:
        self._start = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._seen = self._seen or time.monotonic()

    def first_step_sec(self) -> float:
        self._thread.join()
        return self._seen - self._start

    def _look(self) -> None:
        while not self._seen:
            if self._path.exists():
                self._seen = time.monotonic()
            time.sleep(_POLL_SEC)


def _print_row(name: str, seconds: list[float]) -> None:
    print(f"{name:34}{min(seconds):8.2f}{statistics.median(seconds):8.2f}{max(seconds):8.2f}")


if __name__ == "__main__":
    main()
