"""Estimated step times: what they follow, and where there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.pricing.generation_memory import generation_memory
from pytest_nemoperf.pricing.rough_time import PEAK_SHARES, ModelKind, RoughTime, model_kind, rough_time, startup_sec
from pytest_nemoperf.recipes.algorithms import find_algorithm
from pytest_nemoperf.recipes.recipe import Plan, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.rl import RL
from pytest_nemoperf.recipes.systems import find_system

ROLLOUTS: dict[str, Any] = {
    "num_prompts_per_step": 8,
    "num_generations_per_prompt": 8,
    "prompt_len": 128,
    "max_response_len": 384,
}


def plan_of(*, system: str = "h100", layout: Layout | None = None, **changes: Any) -> Plan:
    values = {"model": "llama3.2-1b", "seq_len": 4096, "global_batch_size": 64, **changes}
    return resolve(Recipe(layouts={system: layout or Layout(gpus=1)}, **values), system=find_system(system))


def estimate(plan: Plan) -> RoughTime:
    made = rough_time(plan, system=find_system(plan.system), generation=generation_memory(plan))
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("model", "changes", "kind"),
    [
        ("llama3.2-1b", {}, ModelKind.DENSE),
        ("llama3.2-1b", {"is_compiled": True}, ModelKind.COMPILED),
        ("qwen3-30b-a3b", {}, ModelKind.MIXTURE),
        ("deepseek-v3", {}, ModelKind.MIXTURE),
        ("gemma3-1b", {}, ModelKind.WINDOWS),
        ("gemma3-1b", {"seq_len": 512}, ModelKind.DENSE),  # one window holds all of it
        ("gpt-oss-20b", {}, ModelKind.SCORES),
        ("gemma2-2b", {}, ModelKind.SCORES),
    ],
)
def test_a_model_is_of_the_kind_that_its_kernels_make_it(model: str, changes: Any, kind: ModelKind) -> None:
    assert model_kind(plan_of(model=model, **changes)) is kind


def test_a_step_takes_its_flops_at_the_share_of_its_kind() -> None:
    plan = plan_of()

    seconds = plan.flops_per_token * plan.tokens_per_step / (PEAK_SHARES[ModelKind.DENSE] * 989e12)

    assert estimate(plan).step_time_sec == pytest.approx(seconds)
    assert "41% of the bf16 peak, as dense models reached on one H100" in estimate(plan).basis


def test_full_recomputation_repeats_a_third() -> None:
    assert estimate(plan_of(recompute="full")).step_time_sec == pytest.approx(4 / 3 * estimate(plan_of()).step_time_sec)


def test_idle_pipeline_ranks_take_time() -> None:
    sharded = estimate(plan_of(model="llama3-8b", layout=Layout(gpus=4, dp_shard=4)))
    pipelined = estimate(plan_of(model="llama3-8b", layout=Layout(gpus=4, pp=4)))

    assert pipelined.step_time_sec == pytest.approx(sharded.step_time_sec / (1 - 3 / 67))


def test_other_chips_and_communication_make_the_slow_end_slower() -> None:
    one = estimate(plan_of())
    other = estimate(plan_of(system="b200"))
    eight = estimate(plan_of(layout=Layout(gpus=8, dp_shard=8)))

    assert one.high_sec / one.step_time_sec == pytest.approx(1.15)
    assert other.high_sec / other.step_time_sec == pytest.approx(1.4 * 1.15)
    assert eight.high_sec / eight.step_time_sec == pytest.approx(1.4 * 1.15)
    assert other.step_time_sec / one.step_time_sec == pytest.approx(989 / 2250)


def test_eight_bits_gain_between_nothing_and_all_of_their_peak() -> None:
    bf16 = estimate(plan_of())

    fp8 = estimate(plan_of(precision="fp8_cs"))

    assert fp8.high_sec == bf16.high_sec
    assert fp8.low_sec == pytest.approx(bf16.low_sec * 989 / 1979)
    assert fp8.low_sec < fp8.step_time_sec < fp8.high_sec


def test_generation_takes_a_pass_for_each_token_of_a_response() -> None:
    plan = plan_of(seq_len=512, global_batch_size=32, rl=RL(**ROLLOUTS))
    longer = plan_of(seq_len=896, global_batch_size=32, rl=RL(**{**ROLLOUTS, "max_response_len": 768}))
    waves = plan_of(seq_len=512, global_batch_size=32, rl=RL(**ROLLOUTS, max_batch_size=32))

    passes = 384 * 16 * 0.46e-3

    assert estimate(plan).step_time_sec > passes
    assert estimate(longer).step_time_sec > estimate(plan).step_time_sec + passes
    assert estimate(waves).step_time_sec == pytest.approx(estimate(plan).step_time_sec + passes)


def test_a_large_cache_takes_longer_to_read_than_kernels_to_launch() -> None:
    plan = plan_of(
        model="llama2-7b",
        seq_len=4096,
        global_batch_size=64,
        recompute="full",
        rl=RL(**{**ROLLOUTS, "num_prompts_per_step": 32, "max_response_len": 3968}),
    )
    memory = generation_memory(plan)
    assert memory is not None

    read = (memory.weights + memory.cache / 2) / (0.9 * 3.35e12)

    assert read > 32 * 0.46e-3
    assert estimate(plan).step_time_sec > 3968 * read


def test_ranks_of_their_own_generate_while_others_train() -> None:
    apart = Layout(gpus=1, generation=GenerationLayout(gpus=1, is_colocated=False))
    grpo = replace(find_algorithm("grpo"), importance_cap=2.0)
    rl = RL(**ROLLOUTS, algorithm=grpo, max_staleness=1)

    passes = 384 * 16 * 0.46e-3

    assert estimate(plan_of(layout=apart, seq_len=512, global_batch_size=32, rl=rl)).step_time_sec == pytest.approx(
        passes
    )


def test_vllm_is_between_reading_alone_and_the_native_generator() -> None:
    native = estimate(plan_of(seq_len=512, global_batch_size=32, rl=RL(**ROLLOUTS)))

    vllm = estimate(plan_of(seq_len=512, global_batch_size=32, rl=RL(**ROLLOUTS, generator="vllm")))

    assert vllm.low_sec < native.low_sec
    assert vllm.high_sec < native.high_sec


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(plan_of(framework="megatron"), id="another-engine"),
        pytest.param(plan_of(system="cpu", model="llama-tiny", precision="fp32"), id="no-peak"),
        pytest.param(plan_of(model="nemotron-h-4b"), id="a-hybrid-that-was-never-measured"),
    ],
)
def test_where_no_share_of_a_peak_is_known_there_is_no_estimate(plan: Plan) -> None:
    assert rough_time(plan, system=find_system(plan.system), generation=None) is None


def test_the_time_to_start_is_known_of_the_native_engine_on_gpus() -> None:
    assert startup_sec(plan_of()) == 18.0
    assert startup_sec(plan_of(seq_len=512, global_batch_size=32, rl=RL(**ROLLOUTS))) == 36.0
    assert startup_sec(plan_of(framework="megatron")) is None
    assert startup_sec(plan_of(system="cpu", model="llama-tiny", precision="fp32")) is None


def test_every_kind_has_a_share() -> None:
    assert PEAK_SHARES.keys() == set(ModelKind)
