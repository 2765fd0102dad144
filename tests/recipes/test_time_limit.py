"""Time limits of runs: generous to every published step, and tied to what is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.published.files import published_rows
from pytest_nemoperf.published.recipes import unpriced_recipe_of
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.recipes.time_limit import STORED_FACTOR, derived_limit, stored_limit, with_limit
from tests.builders import make_plan, make_recipe, make_rl

H100 = find_system("h100")
ONE = {"h100": Layout(gpus=1)}
LEAST_SEC = 120.0


def plan_of(**changes: object) -> Plan:
    values = {"model": "llama3.2-1b", "layouts": ONE, "seq_len": 4096, "global_batch_size": 8, "micro_batch_size": 2}
    return resolve(make_recipe(**{**values, "steps": 20, "warmup_steps": 5, **changes}), system=H100)


def published_steps(system: str) -> Iterator[tuple[Plan, float]]:
    """Yield the plan and the step time of every published row of a system that has both."""
    for row in published_rows(system).rows:
        recipe = unpriced_recipe_of(row).recipe
        if recipe is None:
            continue
        plan = resolve(recipe, system=find_system(system))
        step_time = row.value("step_time_sec")
        rate = row.value("tokens_per_sec_per_gpu")
        if step_time is None and rate is not None and plan.rl is None:
            step_time = plan.tokens_per_step / (rate * plan.layout.total_gpus)
        if step_time is not None:
            yield plan, step_time


@pytest.mark.parametrize("system", ["h100", "b200", "gb200"])
def test_every_published_step_has_thrice_its_time(system: str) -> None:
    tight = []
    steps = list(published_steps(system))
    for plan, step_time in steps:
        one_more = replace(plan, steps=plan.steps + 1)
        allowed = derived_limit(one_more, system=find_system(system)).sec - plan.timeout_sec
        if allowed < 3 * step_time:
            tight.append(f"{plan.case}: {allowed:.1f} s for {step_time:.1f} s")

    assert steps
    assert tight == []


def test_a_measured_case_has_a_limit_of_minutes_not_of_hours() -> None:
    pretraining = plan_of()
    rl = plan_of(
        rl=make_rl(num_prompts_per_step=8, num_generations_per_prompt=8, prompt_len=128, max_response_len=384),
        seq_len=512,
        global_batch_size=32,
        micro_batch_size=8,
        steps=10,
        warmup_steps=3,
    )

    # an H100 took 35 s and 63 s
    assert 3 * 35 < pretraining.timeout_sec < 400
    assert 3 * 63 < rl.timeout_sec < 1300


def test_a_limit_says_where_it_comes_from() -> None:
    plan = plan_of()

    assert plan.timeout_basis == "72 s to start and 25 steps of 10.1 s, derived from FLOPs at 4% of the bf16 peak"


def test_a_stored_step_time_replaces_the_flops() -> None:
    plan = plan_of()

    limit = stored_limit(plan, step_time_sec=0.66)

    assert limit.sec < plan.timeout_sec
    assert limit.sec == pytest.approx(72 + 25 * STORED_FACTOR * 0.66, abs=1)
    assert limit.basis == "72 s to start and 25 steps of 5.28 s, 8x the stored step time of 0.66 s"
    assert with_limit(plan, limit).timeout_sec == limit.sec


def test_a_slow_stored_step_lengthens_the_limit() -> None:
    plan = plan_of()

    assert stored_limit(plan, step_time_sec=100.0).sec > 25 * 100.0 > plan.timeout_sec


def test_no_limit_is_shorter_than_the_least() -> None:
    limit = stored_limit(plan_of(steps=4, warmup_steps=2), step_time_sec=0.001)

    assert limit.sec == LEAST_SEC
    assert limit.basis.startswith("the least there is; 72 s to start and 6 steps")


def test_no_limit_is_longer_than_a_week() -> None:
    limit = stored_limit(plan_of(), step_time_sec=1e6)

    assert limit.sec == 7 * 86_400
    assert limit.basis.startswith("the most there is; ")


def test_more_steps_slower_steps_and_compilation_have_more_time() -> None:
    plan = plan_of()

    assert plan_of(steps=40).timeout_sec > plan.timeout_sec
    assert plan_of(is_compiled=True).timeout_sec == plan.timeout_sec + 300
    slowed = resolve(
        make_recipe(model="llama3.2-1b", layouts=ONE, seq_len=4096, global_batch_size=8, micro_batch_size=2),
        system=H100,
        inject_pct=100.0,
    )
    assert slowed.timeout_sec - 72 == pytest.approx(2 * (replace(slowed, inject_pct=0.0).total_steps * 10.1), rel=0.01)


@pytest.mark.parametrize(
    "changes",
    [{"framework": "automodel"}, {"framework": "torchtitan"}, {"framework": "command", "command": ("train",)}],
    ids=["automodel", "torchtitan", "command"],
)
def test_a_framework_or_command_of_others_has_half_an_hour_to_start(changes: dict[str, object]) -> None:
    assert plan_of(**changes).timeout_sec == pytest.approx(plan_of().timeout_sec - 72 + 1800, abs=1)


def test_ranks_that_import_torch_themselves_have_time_for_it() -> None:
    plan = plan_of(extra_metrics=("time_to_first_step_sec",))

    assert plan.timeout_sec == plan_of().timeout_sec + 300


def test_vllm_has_time_to_start() -> None:
    def rl_plan(generator: str) -> Plan:
        return plan_of(
            rl=make_rl(num_prompts_per_step=8, num_generations_per_prompt=8, max_response_len=384, generator=generator),
            seq_len=512,
            global_batch_size=32,
        )

    assert rl_plan("vllm").timeout_sec == rl_plan("native").timeout_sec + 600


def test_a_cpu_has_no_peak_and_a_rate_of_its_own() -> None:
    plan = make_plan()

    assert plan.device == "cpu"
    assert plan.timeout_sec >= LEAST_SEC
    assert "derived from FLOPs at a CPU rank's slowest rate" in plan.timeout_basis
