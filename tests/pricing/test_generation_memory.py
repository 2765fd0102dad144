from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.models.weights import num_parameters
from pytest_nemoperf.pricing.generation_memory import GenerationMemory, generation_memory
from pytest_nemoperf.pricing.memory import host_bytes, stage_memory
from pytest_nemoperf.pricing.price import price_plan
from pytest_nemoperf.recipes.memory_rules import native_rules
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.systems import find_system
from tests.builders import ROUND_MODEL, make_plan, make_rl, make_rl_plan


def _plan(generation: GenerationLayout | None = None, *, rl: dict[str, Any] | None = None, **changes: Any) -> Plan:
    layout = Layout(gpus=2, dp_shard=2, generation=generation)
    return make_rl_plan(rl=make_rl(**(rl or {})), model=ROUND_MODEL, layouts={"cpu": layout}, **changes)


def _memory(*args: Any, **changes: Any) -> GenerationMemory:
    memory = generation_memory(_plan(*args, **changes))
    assert memory is not None
    return memory


def test_a_replica_of_one_rank_has_all_weights_and_the_cache_of_its_samples() -> None:
    memory = _memory()

    assert memory.weights == 4 * num_parameters(ROUND_MODEL)
    # 2 prompts x 2 responses of 40 tokens, 4 layers, keys and values of 2 heads of 16, fp32
    assert memory.num_slots == 4
    assert memory.cache == 4 * 40 * 4 * (2 * 2 * 16) * 4
    assert memory.refit_bytes == 2 * memory.weights


def test_vllm_needs_the_cache_of_one_sample_at_least() -> None:
    native = _memory()

    memory = _memory(rl={"generator": "vllm"})

    assert memory.num_slots == native.num_slots
    assert memory.cache * native.num_slots == native.cache


@pytest.mark.parametrize(
    ("generation", "share"),
    [
        pytest.param(GenerationLayout(gpus=2, tp=2), 2, id="tensor parallel"),
        pytest.param(GenerationLayout(gpus=2, pp=2), 2, id="pipeline"),
    ],
)
def test_ranks_of_a_replica_share_the_cache_of_all_samples(generation: GenerationLayout, share: int) -> None:
    whole = _memory()
    shared = _memory(generation)

    assert shared.num_slots == 2 * whole.num_slots
    assert shared.cache == 2 * whole.cache // share
    assert shared.weights < 0.7 * whole.weights


def test_ranks_that_outnumber_the_key_value_heads_cache_copies() -> None:
    layout = Layout(gpus=4, dp_shard=4, generation=GenerationLayout(gpus=4, tp=4))
    plan = make_rl_plan(rl=make_rl(), model=ROUND_MODEL, layouts={"cpu": layout}, global_batch_size=4)
    memory = generation_memory(plan)
    assert memory is not None

    # 8 samples of 40 tokens, 4 layers, a key and a value head of 16, fp32; two ranks have the same
    assert memory.num_kv_copies == 2
    assert memory.cache == 8 * 40 * 4 * (2 * 16) * 4
    assert memory.copied_cache == memory.cache // 2
    assert memory.copied_weights == 4 * (2 * 16) * 64 * 4 // 2
    assert memory.refit_bytes == 4 * memory.weights


def test_slots_bound_the_cache_and_bf16_halves_it() -> None:
    whole = _memory()
    bounded = _memory(rl={"max_batch_size": 1}, precision="bf16")

    assert bounded.num_slots == 1
    assert bounded.cache == whole.cache // 4 // 2
    assert bounded.weights == whole.weights // 2


def test_a_replica_has_slots_for_the_whole_prompts_it_is_dealt() -> None:
    rl = {"num_prompts_per_step": 3, "num_generations_per_prompt": 4}

    assert _memory(rl=rl).num_slots == 2 * 4  # not half of the 12 samples
    assert _memory(rl={**rl, "max_batch_size": 7}).num_slots == 7
    assert _memory(rl={**rl, "max_batch_size": 9}).num_slots == 8


def test_pre_training_generates_nothing() -> None:
    assert generation_memory(make_plan()) is None


def test_ranks_that_take_turns_keep_training_state_beside_generation() -> None:
    plan = _plan()
    memory = generation_memory(plan)
    assert memory is not None

    stage = stage_memory(plan, pp_rank=0)

    assert stage.reference == stage.weights
    assert stage.value_model == 0
    assert stage.generating == stage.weights + stage.optimizer + stage.reference + memory.total
    assert stage.peak == max(stage.total, stage.generating)


def test_a_value_model_is_a_second_trained_model() -> None:
    grpo = stage_memory(_plan(rl={"algorithm": "grpo"}), pp_rank=0)
    ppo = stage_memory(_plan(rl={"algorithm": "ppo"}), pp_rank=0)

    assert ppo.value_model == ppo.weights + ppo.gradients + ppo.optimizer
    assert ppo.total - grpo.total == ppo.value_model
    assert ppo.generating - grpo.generating == ppo.value_model - ppo.gradients


def test_an_algorithm_without_a_reference_keeps_none() -> None:
    assert stage_memory(_plan(rl={"algorithm": "dapo"}), pp_rank=0).reference == 0


def test_ranks_of_their_own_count_in_the_hosts_memory_and_not_in_the_training_ranks() -> None:
    apart = _plan(GenerationLayout(gpus=3, is_colocated=False))
    memory = generation_memory(apart)
    assert memory is not None

    stage = stage_memory(apart, pp_rank=0)

    assert stage.generating == 0
    assert host_bytes(apart) == 2 * stage.total + 3 * memory.total


def test_a_plan_fits_only_if_the_ranks_that_generate_do() -> None:
    system = find_system("h100")
    rl = make_rl(max_response_len=2**17 - 16, num_prompts_per_step=256, num_generations_per_prompt=64)
    layout = Layout(gpus=1, generation=GenerationLayout(gpus=1, is_colocated=False))
    plan = make_rl_plan(rl=rl, model=ROUND_MODEL, layouts={"cpu": layout}, seq_len=2**17, global_batch_size=2)

    price = price_plan(plan, system=system, baseline=None)

    assert price.generation is not None
    assert price.peak_bytes == price.generation.total > (price.capacity_bytes or 0)
    assert price.fullest.peak < (price.capacity_bytes or 0)
    assert price.is_fitting is False


def test_traffic_of_training_is_that_of_all_updates_of_a_step() -> None:
    cpu = find_system("cpu")
    one = price_plan(_plan(global_batch_size=8), system=cpu, baseline=None)
    two = price_plan(_plan(global_batch_size=4), system=cpu, baseline=None)

    # the larger update gathers the weights for twice as many passes
    assert [axis.axis for axis in one.traffic] == ["dp"]
    assert one.traffic == two.traffic
    assert (one.plan.num_updates, two.plan.num_updates) == (1, 2)


def test_what_the_host_keeps_takes_no_memory_of_a_gpu() -> None:
    plan = _plan(rl={"algorithm": "grpo"})
    rules = native_rules(plan)

    there = stage_memory(plan, pp_rank=0, rules=rules)
    on_host = stage_memory(plan, pp_rank=0, rules=replace(rules, has_reference_on_host=True, has_state_on_host=True))

    assert there.reference > 0
    assert on_host.reference == 0
    assert on_host.total == there.total - there.reference
    assert on_host.generating == there.generating - there.reference - there.weights - there.optimizer


def test_compressed_attention_caches_its_window_and_its_compressed_positions() -> None:
    model = find_model("deepseek-v4-flash-twin")
    attention = model.compressed_attention
    assert attention is not None
    assert attention.ratios == (0, 0, 4, 128)
    plan = replace(_plan(), model=model)

    memory = generation_memory(plan)

    assert memory is not None
    length = 40
    compressed = length // 4 * (model.head_dim + attention.index_head_dim) + length // 128 * model.head_dim
    assert memory.cache == 4 * (4 * 8 * model.head_dim + compressed) * 4
