"""Cost of watching the machine's health: the same case launched with and without the monitor, in turns.

Each round launches twice, in an order that swaps from round to round, so that a busy moment and a trend hit both. Then
the time of one sample is printed.

``python benchmarks/health.py [--rounds N] [--gpus N]``
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import psutil
from tables import machine_line, markdown_table, median_interval, ratios, spread, timed

from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.launchers.local import LocalLauncher
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.machine import identity
from pytest_nemoperf.machine.gpu_samples import GpuSampler
from pytest_nemoperf.machine.host_samples import HostSampler
from pytest_nemoperf.measure.measurement import measure_outputs
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.records.metrics import STEP_TIME_SEC
from pytest_nemoperf.runs.execute import run_once

ARMS = ("not watched", "watched")
NUM_SAMPLES = 50


def main() -> None:
    """Launch in turns and print both tables."""
    parser = argparse.ArgumentParser(description="a case launched with and without the health monitor, in turns")
    parser.add_argument("--rounds", type=int, default=10, help="launches of each arm (default 10)")
    parser.add_argument("--gpus", type=int, default=1, help="ranks (default 1)")
    arguments = parser.parse_args()
    plan = make_plan(gpus=arguments.gpus)
    seconds = launch_in_turns(plan, rounds=arguments.rounds)
    print(f"{plan.case}, {plan.steps} steps a launch, {arguments.rounds} launches of each; {machine_line()}\n")
    rows = [(arm, spread(seconds[arm], scale=1e3)) for arm in ARMS]
    print(markdown_table(("launches", "median step, ms"), rows=rows))
    slowdowns = ratios(seconds["watched"], to=seconds["not watched"])
    median = 100 * (statistics.median(slowdowns) - 1)
    low, high = median_interval(slowdowns)
    print(
        f"\nwatched, round by round: {median:+.2f}% "
        f"(95% of the median: {100 * (low - 1):+.2f}% to {100 * (high - 1):+.2f}%)\n"
    )
    print_sample_costs(plan)


def make_plan(*, gpus: int) -> Plan:
    """Return a case with steps of about 60 ms on a CPU, long enough for several samples."""
    system = identity.choose_system("auto", devices=identity.detect_devices())
    recipe = Recipe(
        model="llama-tiny",
        layouts={system.name: Layout(gpus=gpus, dp_shard=gpus)},
        seq_len=128,
        global_batch_size=8 * gpus,
        precision=Precision.FP32,
        steps=40,
        warmup_steps=5,
    )
    return resolve(recipe, system=system)


def launch_in_turns(plan: Plan, *, rounds: int) -> dict[str, list[float]]:
    """Return the median step of each launch, seconds, by arm; one launch before the first round is not counted."""
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    launcher = LocalLauncher()
    try:
        launch(plan, launcher=launcher, arm=ARMS[1])
        for number in range(rounds):
            for arm in sorted(ARMS, reverse=number % 2 == 0):
                seconds[arm].append(launch(plan, launcher=launcher, arm=arm))
    finally:
        launcher.close()
    return seconds


def launch(plan: Plan, *, launcher: LocalLauncher, arm: str) -> float:
    """Return the median step of one launch, seconds."""
    with tempfile.TemporaryDirectory() as name:
        output = run_once(
            plan,
            framework=TorchFramework(),
            launcher=launcher,
            run_dir=Path(name),
            on_progress=lambda _: None,
            is_watched=arm == "watched",
        )
    assert (output.health is not None) is (arm == "watched")
    return measure_outputs(plan, outputs=[output]).runs[0].metrics[STEP_TIME_SEC.name]


def print_sample_costs(plan: Plan) -> None:
    """Print the time of one sample; a run takes at most two a second, in at most a hundredth of its time."""
    host = HostSampler()
    times = [timed(host.sample) for _ in range(NUM_SAMPLES)]
    rows = [(f"host, {len(psutil.pids())} processes", spread(times, scale=1e3))]
    if plan.device == "cuda":
        with GpuSampler(num_gpus=plan.layout.total_gpus) as gpus:
            times = [timed(gpus.sample) for _ in range(NUM_SAMPLES)]
            rows.append((f"{plan.layout.total_gpus} GPUs", spread(times, scale=1e3)))
    print(markdown_table(("one sample", "ms"), rows=rows))


if __name__ == "__main__":
    main()
