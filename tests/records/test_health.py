from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.records.health import SLOWDOWNS, CpuHealth, GpuHealth, HealthReport, MinMedianMax, health_problems

QUIET = CpuHealth(num_cores=2, own_share=0.9, foreign_share=0.01, idle_share=0.09, steal_share=0.0)
GPU = GpuHealth(
    gpu=3,
    sm_clock_mhz=MinMedianMax(low=1200, median=1410, high=1980),
    temperature_c=MinMedianMax(low=60, median=80, high=91),
    power_w=MinMedianMax(low=300, median=650, high=699.6),
    power_cap_w=700,
)


def report(*gpus: GpuHealth, cpu: CpuHealth | None = QUIET, **changes: Any) -> HealthReport:
    values: dict[str, Any] = {"seconds": 5.0, "num_samples": 10, "is_measured_steps": True, "cpu": cpu, "gpus": gpus}
    return HealthReport(**{**values, **changes})


@pytest.mark.parametrize(
    "healthy",
    [
        pytest.param(None, id="not watched"),
        pytest.param(report(cpu=None), id="nothing told"),
        pytest.param(report(), id="own load only"),
        pytest.param(report(replace(GPU, reasons={"sw_power_cap": 1.0, "idle": 0.5})), id="at its power cap"),
        pytest.param(report(replace(GPU, reasons={"hw_thermal_slowdown": 0.1})), id="hot for a moment"),
        pytest.param(report(cpu=replace(QUIET, foreign_share=0.4, idle_share=0.5)), id="others, and an idle core"),
        pytest.param(report(cpu=replace(QUIET, foreign_share=0.5, idle_share=0), seconds=0.2), id="too short to tell"),
    ],
)
def test_a_healthy_machine_has_no_problems(healthy: HealthReport | None) -> None:
    assert health_problems(healthy) == []


@pytest.mark.parametrize("reason", SLOWDOWNS)
def test_a_slowed_gpu_is_told_with_clock_heat_and_power(reason: str) -> None:
    (problem,) = health_problems(report(replace(GPU, reasons={reason: 0.4})))

    assert problem.startswith(f"GPU 3 was slowed by {SLOWDOWNS[reason]} in 40% of 10 samples")
    assert "(SM clock 1200 to 1980 MHz, up to 91 C, up to 700 of 700 W; allowed 10%)" in problem


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_memory_errors": 2}, "GPU 3 counted 2 uncorrected memory errors during the run"),
        ({"xids": (79, 13)}, "GPU 3 reported Xid 79, 13 during the run"),
        (
            {"foreign_processes": ("a (process 1)", "b (process 2)", "c (process 3)", "d (process 4)")},
            "GPU 3 was shared with a (process 1), b (process 2), c (process 3), 1 more, there before the ranks",
        ),
    ],
    ids=["memory", "xid", "shared"],
)
def test_a_broken_or_shared_gpu_is_told(changes: dict[str, Any], text: str) -> None:
    (problem,) = health_problems(report(replace(GPU, **changes)))

    assert problem.startswith(text)


def test_a_slowed_gpu_is_told_without_figures_that_its_driver_does_not_report() -> None:
    bare = GpuHealth(gpu=0, reasons={"hw_slowdown": 0.4}, foreign_processes=("a (process 1)",))
    uncapped = replace(bare, power_w=GPU.power_w)

    slowed, shared = health_problems(report(bare))

    assert "(clocks not told; allowed 10%)" in slowed
    assert "was shared with a (process 1), there before" in shared
    assert "(up to 700 W; allowed 10%)" in health_problems(report(uncapped))[0]


def test_other_load_is_told_with_the_largest_processes() -> None:
    cpu = replace(
        QUIET, foreign_share=0.33, idle_share=0.01, foreign_processes={"yes": 0.3, "cron": 0.01, "top": 0.02, "a": 0.0}
    )

    (problem,) = health_problems(report(cpu=cpu))

    assert problem.startswith(
        "other processes took 33% of the 2 cores and left 0.02 cores idle (yes 30%, top 2%, cron 1%; allowed 10%"
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"steal_share": 0.05}, "the hypervisor gave 5.0% of the 2 cores to other guests (allowed 5%)"),
        (
            {"throttled_share": 0.2},
            "the control group's quota stopped this session for 20.0% of the time of the cores it allows",
        ),
    ],
    ids=["steal", "quota"],
)
def test_time_that_was_taken_away_is_told(changes: dict[str, Any], text: str) -> None:
    (problem,) = health_problems(report(cpu=replace(QUIET, **changes)))

    assert problem.startswith(text)


shares = st.floats(0, 1)


@given(shares, shares, shares)
def test_more_load_from_others_never_makes_a_run_sound(foreign: float, more: float, idle: float) -> None:
    low, high = sorted([foreign, more])
    before = replace(QUIET, foreign_share=low, idle_share=idle)
    after = replace(QUIET, foreign_share=high, idle_share=idle)

    assert len(health_problems(report(cpu=before))) <= len(health_problems(report(cpu=after)))
