"""Metrics of a launch beside its steps: energy, start-up, compile time, checkpoints."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.measure.expected_records import expected_of
from pytest_nemoperf.measure.measurement import Run, measure_run, workload_of
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.health import Energy, HealthReport
from pytest_nemoperf.records.launch_times import CheckpointTimes, StartTimes
from pytest_nemoperf.records.metrics import BESIDE_STEPS, EXTRA_METRICS
from pytest_nemoperf.records.step import RunOutput
from tests.builders import make_plan, make_records

GIB = 2**30
ALL = tuple(metric.name for metric in EXTRA_METRICS)
CHECKPOINT = CheckpointTimes(num_bytes=12 * GIB, save_sec=6.0, async_wait_sec=1.5, async_total_sec=8.0, load_sec=4.0)


def run_of(plan: Plan, *, times: list[float] | None = None, **output: Any) -> Run:
    run = measure_run(expected_of(plan), RunOutput(records=tuple(make_records(plan, times=times or [])), **output)).run
    assert run is not None
    return run


def health_of(energy: Energy) -> HealthReport:
    return HealthReport(seconds=10.0, num_samples=20, is_measured_steps=True, energy=energy)


def test_joules_per_token_are_mean_power_over_the_rate_of_all_gpus() -> None:
    plan = make_plan()  # 256 tokens a step of 0.1 s: 2,560 tokens/s on two ranks
    run = run_of(plan, health=health_of(Energy(source="nvml", joules=5120.0, seconds=10.0, noise_pct=0.4)))

    assert run.metrics["joules_per_token"] == pytest.approx(512.0 / 2560.0)
    assert run.metrics["tokens_per_joule"] == pytest.approx(5.0)
    assert run.energy_noise_pct == 0.4
    assert run.unknown == {}


def test_energy_that_is_not_known_has_a_reason_and_no_figure() -> None:
    run = run_of(make_plan(), health=health_of(Energy(source="powercap", problem="no permission")))

    assert not run.metrics.keys() & {metric.name for metric in BESIDE_STEPS}
    assert run.unknown == {"joules_per_token": "no permission", "tokens_per_joule": "no permission"}
    assert run.energy_noise_pct is None


def test_a_run_that_nobody_watched_has_no_energy_and_no_reason() -> None:
    assert run_of(make_plan()).unknown == {}


def test_what_is_not_asked_for_is_not_there() -> None:
    run = run_of(make_plan(), start=StartTimes(first_step_sec=9.0), checkpoint=CHECKPOINT)

    assert run.metrics.keys() & set(ALL) == set()


def test_start_and_checkpoint_are_taken_as_they_were_timed() -> None:
    plan = make_plan(extra_metrics=ALL, is_compiled=True)
    run = run_of(plan, times=[3.1, 0.4, *[0.1] * 6], start=StartTimes(first_step_sec=9.25), checkpoint=CHECKPOINT)

    beside = {metric.name: run.metrics[metric.name] for metric in BESIDE_STEPS if metric.name in run.metrics}
    assert beside == {
        "time_to_first_step_sec": 9.25,
        "compile_time_sec": pytest.approx(3.0 + 0.3),
        "checkpoint_save_sec": 6.0,
        "checkpoint_async_save_sec": 1.5,
        "checkpoint_async_total_sec": 8.0,
        "checkpoint_load_sec": 4.0,
        "checkpoint_gib": 12.0,
        "checkpoint_save_gib_per_sec": 2.0,
        "checkpoint_load_gib_per_sec": 3.0,
    }


def test_a_save_that_only_a_load_needed_is_not_shown() -> None:
    run = run_of(make_plan(extra_metrics=("checkpoint_load_sec",)), checkpoint=CHECKPOINT)

    assert "checkpoint_save_sec" not in run.metrics
    assert "checkpoint_save_gib_per_sec" not in run.metrics
    assert run.metrics["checkpoint_load_sec"] == 4.0


def test_warm_up_steps_as_fast_as_the_others_take_nothing_off_the_compile_time() -> None:
    plan = make_plan(extra_metrics=("compile_time_sec",), is_compiled=True)

    assert run_of(plan, times=[2.1, 0.05, *[0.1] * 6]).metrics["compile_time_sec"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"is_compiled": False}, "the recipe has is_compiled=False", id="eager"),
        pytest.param({"is_compiled": True}, "nothing was compiled in them", id="no excess"),
    ],
)
def test_compile_time_of_what_was_not_compiled_is_not_known(changes: dict[str, bool], reason: str) -> None:
    run = run_of(make_plan(extra_metrics=("compile_time_sec",), **changes))

    assert "compile_time_sec" not in run.metrics
    assert reason in run.unknown["compile_time_sec"]


def test_another_framework_may_compile_without_the_recipe_saying_so() -> None:
    plan = make_plan(extra_metrics=("compile_time_sec",), framework="command", command=("train",))

    assert run_of(plan, times=[1.1, *[0.1] * 7]).metrics["compile_time_sec"] == pytest.approx(1.0)


@pytest.mark.parametrize("start", [None, StartTimes()], ids=["not noted", "no step seen"])
def test_a_first_step_that_was_not_seen_has_a_reason(start: StartTimes | None) -> None:
    run = run_of(make_plan(extra_metrics=("time_to_first_step_sec",)), start=start)

    assert run.unknown == {"time_to_first_step_sec": "no step was seen to end while the run went on"}


def test_ranks_that_left_no_checkpoint_have_a_reason() -> None:
    run = run_of(make_plan(extra_metrics=("checkpoint_save_sec",)))

    assert run.unknown == {"checkpoint_save_sec": "the ranks have left no time of it"}


def test_asking_for_more_leaves_a_workload_as_it_was() -> None:
    plan = make_plan()

    assert workload_of(replace(plan, extra_metrics=ALL, checkpoint_dir="/disk")) == workload_of(plan)
