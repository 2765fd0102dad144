"""Cost of the yardstick: its share of a launch, timed inside the rank that waits for the others.

A launch varies by more than the yardstick takes, so launches with and without it would need hundreds of rounds to part.
Each is timed as a whole, from the request to a warm server to the records, and both yardsticks inside it by themselves.

``python benchmarks/yardstick_cost.py [--launches N] [--gpus N]``
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tables import machine_line, markdown_table, median_interval, spread

from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.launchers.local import LocalLauncher
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.machine import identity
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.runs.execute import run_once

_ENTRY = "pytest_nemoperf.native.rank.entry"
_TIMES_FILE = "yardstick-seconds.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchTimes:
    """Seconds of one launch.

    Attributes:
        launch: From the request to the records.
        before: The yardstick before the steps, the gathering included.
        after: The yardstick after the steps.
    """

    launch: float
    before: float
    after: float


class TimedFramework(TorchFramework):
    """The native engine, its yardsticks timed."""

    def command(self, plan: Plan, *, run_dir: Path) -> RankCommand:
        """Return the command of the engine with the entrypoint of this module."""
        command = super().command(plan, run_dir=run_dir)
        env = {**command.env, "PYTHONPATH": str(Path(__file__).parent)}
        return replace(command, entrypoint=f"{Path(__file__).stem}:rank_main", env=env)


def main() -> None:
    """Launch and print the table."""
    parser = argparse.ArgumentParser(description="share of the yardstick in a launch of a small case")
    parser.add_argument("--launches", type=int, default=20, help="launches that count (default 20)")
    parser.add_argument("--gpus", type=int, default=1, help="ranks (default 1)")
    arguments = parser.parse_args()
    plan = make_plan(gpus=arguments.gpus)
    times = timed_launches(plan, num=arguments.launches)
    print(f"{plan.case}, {plan.steps} steps a launch, {arguments.launches} launches; {machine_line()}\n")
    rows = [
        ("a launch", spread([each.launch for each in times], scale=1e3)),
        ("yardstick before the steps", spread([each.before for each in times], scale=1e3)),
        ("yardstick after the steps", spread([each.after for each in times], scale=1e3)),
    ]
    print(markdown_table(("", "ms"), rows=rows))
    shares = [100 * (each.before + each.after) / each.launch for each in times]
    low, high = median_interval(shares)
    print(
        f"\nboth, share of the launch: {statistics.median(shares):.2f}% (95% of the median: {low:.2f}% to {high:.2f}%)"
    )


def make_plan(*, gpus: int) -> Plan:
    """Return the smallest case of the project's own perf tests, with so many ranks."""
    system = identity.choose_system("auto", devices=identity.detect_devices())
    recipe = Recipe(
        model="llama-tiny",
        layouts={system.name: Layout(gpus=gpus, dp_shard=gpus)},
        seq_len=128,
        global_batch_size=8,
        micro_batch_size=4,
        precision=Precision.FP32,
        steps=20,
        warmup_steps=5,
    )
    return resolve(recipe, system=system)


def timed_launches(plan: Plan, *, num: int) -> list[LaunchTimes]:
    """Return the times of launches from a warm server; the first one is not counted."""
    launcher = LocalLauncher()
    times = []
    try:
        for _ in range(num + 1):
            times.append(_timed_launch(plan, launcher=launcher))
    finally:
        launcher.close()
    return times[1:]


def _timed_launch(plan: Plan, *, launcher: LocalLauncher) -> LaunchTimes:
    with tempfile.TemporaryDirectory() as name:
        run_dir = Path(name)
        started = time.perf_counter()
        run_once(plan, framework=TimedFramework(), launcher=launcher, run_dir=run_dir, on_progress=lambda _: None)
        took = time.perf_counter() - started
        before, after = map(float, (run_dir / _TIMES_FILE).read_text(encoding="utf-8").split())
    return LaunchTimes(launch=took, before=before, after=after)


def rank_main() -> None:
    """Run a rank with its yardsticks timed; rank 0 writes their seconds."""
    entry: Any = importlib.import_module(_ENTRY)
    seconds: list[float] = []
    entry.measure_yardstick = _timed(entry.measure_yardstick, seconds=seconds)
    entry.gather_yardsticks = _timed(entry.gather_yardsticks, seconds=seconds)
    entry.main()
    if os.environ["RANK"] == "0":
        measured_before, gathered_before, measured_after, gathered_after = seconds
        text = f"{measured_before + gathered_before} {measured_after + gathered_after}"
        (Path(os.environ["NEMOPERF_RUN_DIR"]) / _TIMES_FILE).write_text(text, encoding="utf-8")


def _timed(call: Callable[..., Any], *, seconds: list[float]) -> Callable[..., Any]:
    def timed_call(*arguments: Any, **named: Any) -> Any:
        begin = time.perf_counter()
        try:
            return call(*arguments, **named)
        finally:
            seconds.append(time.perf_counter() - begin)

    return timed_call


if __name__ == "__main__":
    main()
