"""Activations of Megatron-Core against the formulas of Korthikanti et al. 2022, dropout and scores left out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.pricing.activations import ActivationBytes
from pytest_nemoperf.pricing.megatron_activations import MegatronActivationBytes, activation_bytes
from pytest_nemoperf.recipes.memory_rules import megatron_rules, native_rules
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from tests.builders import make_recipe

GPT = find_model("gpt3-175b")
TOKENS = 2048


def plan_of(model: ModelConfig = GPT, **degrees: Any) -> Plan:
    layout = Layout(**{"gpus": degrees.get("tp", 1) * degrees.get("cp", 1), **degrees})
    recipe = make_recipe(model=model, layouts={"h100": layout}, seq_len=TOKENS, precision="bf16", framework="megatron")
    return resolve(recipe, system=find_system("h100"))


@pytest.mark.parametrize("tp", [1, 4])
def test_a_gpt_layer_keeps_32_bytes_a_token_and_channel_divided_over_tensor_parallel_ranks(tp: int) -> None:
    plan = plan_of(tp=tp)

    kept = MegatronActivationBytes(plan).layer(plan.model.layers[0])

    statistics = 2 * TOKENS / tp * 2 * 4 + TOKENS * GPT.num_heads / tp * 4  # of two norms, and of attention's heads
    assert kept.whole == pytest.approx(32 * TOKENS * GPT.hidden_size / tp + statistics)
    assert kept.block_input == 2 * TOKENS * GPT.hidden_size / tp


def test_without_sequence_parallelism_10_of_them_are_on_every_rank() -> None:
    plan = plan_of(tp=4, sequence_parallel=False)

    kept = MegatronActivationBytes(plan).layer(plan.model.layers[0])

    whole = 8 * TOKENS * GPT.hidden_size + 2 * TOKENS * 2 * 4  # norms' inputs and outputs: 10 with two dropout masks
    assert kept.whole == pytest.approx(whole + 24 * TOKENS * GPT.hidden_size / 4 + TOKENS * GPT.num_heads / 4 * 4)


def test_a_gated_activation_that_is_fused_keeps_its_input_and_its_output() -> None:
    plan = plan_of(find_model("llama3-8b"))
    llama = plan.model
    layer = llama.layers[0]

    less = ActivationBytes(plan).layer(layer).whole - MegatronActivationBytes(plan).layer(layer).whole

    rotated = (llama.num_heads + llama.num_kv_heads) * llama.head_dim  # the engine keeps the projection beside them
    assert less == pytest.approx(TOKENS * (llama.ffn_hidden_size + rotated) * 2)


def test_selective_recomputation_saves_only_what_fused_attention_keeps_of_its_scores() -> None:
    plan = plan_of()

    kept = MegatronActivationBytes(plan).layer(plan.model.layers[0])

    assert kept.whole - kept.selective == TOKENS * GPT.num_heads * 4


@pytest.mark.parametrize("comm", ["all_gather", "a2a"])
def test_context_parallelism_divides_everything_that_attention_keeps(comm: str) -> None:
    whole = plan_of()
    halved = plan_of(cp=2, cp_comm=comm)

    kept = MegatronActivationBytes(halved).layer(GPT.layers[0]).whole

    assert kept == pytest.approx(MegatronActivationBytes(whole).layer(GPT.layers[0]).whole / 2)


@pytest.mark.parametrize("name", ["mixtral-8x7b", "deepseek-v3", "qwen3-30b-a3b", "gpt-oss-20b", "gemma2-9b"])
def test_every_family_has_less_than_under_the_native_engine_and_more_than_its_block_inputs(name: str) -> None:
    plan = plan_of(find_model(name))

    for layer in set(plan.model.layers):
        kept = MegatronActivationBytes(plan).layer(layer)
        assert kept.block_input < kept.selective <= kept.whole < ActivationBytes(plan).layer(layer).whole


def test_the_rules_choose_the_operators() -> None:
    plan = plan_of()

    assert type(activation_bytes(plan, rules=native_rules(plan))) is ActivationBytes
    assert type(activation_bytes(plan, rules=megatron_rules(plan))) is MegatronActivationBytes
    assert type(activation_bytes(plan, rules=replace(native_rules(plan), cast=0))) is ActivationBytes
