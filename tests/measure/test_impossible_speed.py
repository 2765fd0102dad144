from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.measure.expected_records import expected_of
from pytest_nemoperf.measure.impossible_speed import speed_problems
from pytest_nemoperf.recipes.recipe import Plan, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system, largest_peak_tflops
from tests.builders import make_plan, make_records, make_rl, make_rl_plan, make_rl_records


@pytest.fixture
def plan() -> Plan:
    """Llama 3 8B on 8 H100 in bf16: 5.4e16 FLOPs a step, whose dense peak is 989 TFLOP/s."""
    recipe = Recipe(
        model="llama3-8b", layouts={"h100": Layout(gpus=8, dp_shard=8)}, seq_len=8192, global_batch_size=128
    )
    return resolve(recipe, system=find_system("h100"))


def problems(plan: Plan, *, step_time_sec: float) -> list[str]:
    return list(speed_problems(expected_of(plan), measured=make_records(plan, step_time_sec=step_time_sec)))


def test_steps_below_the_peak_have_no_problem(plan: Plan) -> None:
    least_sec = plan.flops_per_token * plan.tokens_per_step / 8 / 989e12

    assert problems(plan, step_time_sec=1.01 * least_sec) == []
    assert len(problems(plan, step_time_sec=0.99 * least_sec)) == 1


def test_seconds_read_as_milliseconds_are_told_with_the_arithmetic(plan: Plan) -> None:
    (problem,) = problems(plan, step_time_sec=0.012)

    assert "TFLOP/s/GPU, " in problem
    assert "times the dense peak of the device (989" in problem
    assert " steps of together " in problem
    assert "s on 8 GPUs; maybe seconds were read as milliseconds, the device was not synchronised, or" in problem


def test_a_speed_a_little_above_the_peak_is_no_matter_of_units(plan: Plan) -> None:
    least_sec = plan.flops_per_token * plan.tokens_per_step / 8 / 989e12

    (problem,) = problems(plan, step_time_sec=least_sec / 1.7)

    assert "; maybe the device was not synchronised, or model, batch, sequence length or precision" in problem


def test_a_device_without_a_peak_is_held_to_the_largest_of_all() -> None:
    plan = make_plan()
    flops = plan.flops_per_token * plan.tokens_per_step
    least_sec = flops / plan.layout.total_gpus / (1e12 * (largest_peak_tflops("fp32") or 0))

    (problem,) = problems(plan, step_time_sec=0.9 * least_sec)

    assert plan.peak_tflops is None
    assert "times the largest peak of any device in the catalog in this precision (" in problem
    assert problems(plan, step_time_sec=1.1 * least_sec) == []


def test_training_of_reinforcement_learning_counts_its_own_phase() -> None:
    plan = make_rl_plan()
    records = make_rl_records(plan)
    training_sec = records[0].phases["training"]
    rate = plan.flops_per_token * plan.tokens_per_step / training_sec / plan.layout.gpus / 1e12

    (problem,) = speed_problems(replace(expected_of(plan), most_tflops=0.99 * rate), measured=records)

    assert problem.startswith("training computes ")


def test_a_loop_without_flops_has_no_such_problem(plan: Plan) -> None:
    expected = replace(expected_of(plan), flops_per_token=None, min_flops_per_token=None)
    records = [replace(record, flops=None) for record in make_records(plan, step_time_sec=1e-6)]

    assert list(speed_problems(expected, measured=records)) == []


def test_steps_of_varying_length_have_at_least_the_flops_of_their_tokens(plan: Plan) -> None:
    plan = replace(plan, has_varying_lengths=True)

    (problem,) = problems(plan, step_time_sec=0.012)

    assert problem.startswith("a step computes ")


def test_a_whole_step_of_reinforcement_learning_is_held_to_the_peak() -> None:
    plan = make_rl_plan(rl=make_rl(response_lengths="sampled"))
    records = [replace(record, phases={}, flops=None) for record in make_rl_records(plan, step_time_sec=1e-8)]

    (problem,) = speed_problems(expected_of(plan), measured=records)

    assert problem.startswith("a step computes ")
