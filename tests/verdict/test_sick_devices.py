"""Sick devices: one GPU far below its baseline while the others are not."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.records.health import GpuHealth, HealthReport, MinMedianMax, health_problems
from pytest_nemoperf.records.yardstick import Yardstick
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.verdict.judge import judge
from pytest_nemoperf.verdict.sick_devices import sick_devices
from tests.builders import MACHINE, make_baseline, make_measurement, make_policy, make_run

GPUS: Mapping[str, str | int] = {"device": "Test GPU", "gpus": 4}
SOUND = (1.0, 1.0, 1.0, 1.0)
RECORDED: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "h100_samples.json").read_text())
CLOCKS = [row["sm_clock_mhz"] for row in RECORDED["clocks_under_load"]]


def runs_of(*rows: Sequence[float], copies: Sequence[float] = SOUND, hosts: Sequence[str] = ()) -> list[Run]:
    """Return a run for each row of times of the matrix product by rank."""
    runs = []
    for row in rows:
        yardsticks = []
        for matmul, copy in zip(row, copies, strict=False):
            yardsticks.append(Yardstick(matmul_sec=matmul, copy_sec=copy, all_reduce_sec=1.0))
        runs.append(replace(make_run(), yardsticks=tuple(yardsticks), hosts=tuple(hosts)))
    return runs


def clocked(clocks: Sequence[float], *, powers: Sequence[float]) -> list[Run]:
    """Return two runs of GPUs at these clocks and powers."""
    return [replace(make_run(), sm_clock_mhz=tuple(clocks), gpu_power_w=tuple(powers))] * 2


def test_one_rank_far_below_its_baseline_and_its_peers_is_a_sick_device() -> None:
    now = runs_of((1.0, 1.0, 2.0, 1.0), (1.0, 1.0, 1.6, 1.0), hosts=("a", "a", "b", "b"))

    (problem,) = sick_devices(now, runs_of(SOUND, SOUND), machine=GPUS)

    assert problem.startswith("the GPU of rank 2 (GPU 0 of host b) is sick: it did its matrix product of the fixed")
    assert "at 56% of its speed in the baseline and at 56% of the other ranks' speed, in all 2 runs" in problem
    assert "(a sound one: at least 75%); look at nvidia-smi -q" in problem


def test_a_slow_copy_counts_as_well() -> None:
    now = runs_of(SOUND, SOUND, copies=(1.0, 3.0, 1.0, 1.0))

    (problem,) = sick_devices(now, runs_of(SOUND, SOUND), machine=GPUS)

    assert problem.startswith("the GPU of rank 1 is sick: it did its copy of the fixed workload at 33%")


@pytest.mark.parametrize(
    ("now", "then"),
    [
        pytest.param(runs_of((2.0, 2.0, 2.0, 2.0), (2.0, 2.0, 2.0, 2.0)), runs_of(SOUND), id="all are slow"),
        pytest.param(runs_of((1.0, 1.0, 2.0, 1.0)), runs_of(SOUND), id="one launch"),
        pytest.param(runs_of((1.0, 1.0, 2.0, 1.0), SOUND), runs_of(SOUND), id="one of two launches"),
        pytest.param(runs_of((1.0, 1.0, 1.3, 1.0), (1.0, 1.0, 1.3, 1.0)), runs_of(SOUND), id="not by as much"),
        pytest.param(runs_of(*[(1.0, 1.0, 2.0, 1.0)] * 2), runs_of((1.0, 1.0, 2.0, 1.0)), id="as in the baseline"),
        pytest.param(runs_of(*[(1.0, 1.0, 2.0, 1.0)] * 2), runs_of((2.0, 2.0, 2.0, 2.0)), id="the others are faster"),
        pytest.param(runs_of((2.0,), (2.0,)), runs_of((1.0,)), id="a single rank"),
        pytest.param(runs_of(*[(1.0, 2.0)] * 2), runs_of(SOUND), id="another number of ranks"),
        pytest.param(runs_of(*[(1.0, 1.0, 2.0, 1.0)] * 2), [make_run()], id="a baseline without yardsticks"),
        pytest.param([make_run(), make_run()], runs_of(SOUND), id="runs without yardsticks"),
    ],
)
def test_otherwise_no_device_is_sick(now: list[Run], then: list[Run]) -> None:
    assert sick_devices(now, then, machine=GPUS) == []


def test_ranks_of_a_cpu_have_no_device_to_be_sick() -> None:
    now = runs_of(*[(1.0, 1.0, 9.0, 1.0)] * 2)

    assert sick_devices(now, runs_of(SOUND), machine=MACHINE) == []


def test_a_sick_device_makes_the_case_invalid_whatever_its_speed() -> None:
    measurement = replace(make_measurement(), runs=tuple(runs_of(*[(1.0, 1.0, 2.0, 1.0)] * 2)))
    baseline = make_baseline(machine=GPUS, runs=tuple(runs_of(SOUND, SOUND)))

    verdict = judge(measurement, baseline=baseline, machine=GPUS, policy=make_policy())

    assert verdict.kind is VerdictKind.INVALID
    assert "rank 2" in verdict.reasons[0]


@pytest.mark.parametrize(("then", "now"), list(itertools.permutations(CLOCKS, 2)))
def test_no_clock_that_a_sound_h100_had_at_its_power_cap_is_a_fault(then: float, now: float) -> None:
    cap = [RECORDED["power_cap_w"]]

    assert sick_devices(clocked([now], powers=cap), clocked([then], powers=cap), machine=GPUS) == []


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_sound_h100_at_its_power_cap_is_healthy(clock: float) -> None:
    cap = RECORDED["power_cap_w"]
    gpu = GpuHealth(
        gpu=0,
        sm_clock_mhz=MinMedianMax(low=min(CLOCKS), median=clock, high=max(CLOCKS)),
        power_w=MinMedianMax(low=cap, median=cap, high=cap),
        power_cap_w=cap,
        reasons={"sw_power_cap": 1.0},
    )

    assert health_problems(HealthReport(seconds=5.0, num_samples=10, is_measured_steps=True, gpus=(gpu,))) == []


def test_a_clock_far_below_the_baselines_at_equal_power_is_a_fault() -> None:
    (problem,) = sick_devices(clocked([1410.0], powers=[690.0]), clocked([1785.0], powers=[700.0]), machine=GPUS)

    assert problem.startswith(
        "the GPU of rank 0 is sick: its clock was 1,410 MHz at 690 W, in the baseline 1,785 MHz at 700 W (a sound one"
    )
    assert "at least 85% of the baseline's clock at equal power" in problem


def test_a_low_clock_at_less_power_is_a_fault_where_the_other_gpus_keep_theirs() -> None:
    then = clocked([1785.0] * 4, powers=[690.0] * 4)
    now = clocked([1785.0, 1785.0, 1200.0, 1785.0], powers=[690.0, 690.0, 410.0, 690.0])

    (problem,) = sick_devices(now, then, machine=GPUS)

    assert problem.startswith("the GPU of rank 2 is sick: its clock was 1,200 MHz at 410 W")
    assert "and at 67% of the other GPUs' clock" in problem


@pytest.mark.parametrize(
    ("clocks", "powers"),
    [
        pytest.param([1200.0] * 4, [410.0] * 4, id="all take less, as under a lower cap"),
        pytest.param([1400.0] * 4, [790.0] * 4, id="all take more, as with denser kernels"),
        pytest.param([1600.0, 1785.0, 1785.0, 1785.0], [690.0] * 4, id="not by as much"),
        pytest.param([0.0] * 4, [690.0] * 3, id="powers of other ranks are lacking"),
    ],
)
def test_other_low_clocks_are_none(clocks: list[float], powers: list[float]) -> None:
    then = clocked([1785.0] * 4, powers=[690.0] * 4)

    assert sick_devices(clocked(clocks, powers=powers), then, machine=GPUS) == []


def test_a_baseline_that_was_recorded_without_power_judges_no_clock() -> None:
    now = clocked([1200.0], powers=[690.0])
    then = [replace(run, gpu_power_w=()) for run in clocked([1785.0], powers=[690.0])]

    assert sick_devices(now, then, machine=GPUS) == []
