from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.errors import NoLayoutError, PlanError
from pytest_nemoperf.flops.conventions import flops_conventions
from pytest_nemoperf.flops.count import num_flops_per_token
from pytest_nemoperf.json_codec import from_json, to_json
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.models.components import MoE
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from tests.schema_check import schema_faults

H100 = find_system("h100")
CPU = find_system("cpu")
FSDP4_TP2 = Layout(gpus=8, dp_shard=4, tp=2)
MODEL = ModelConfig(
    name="mine",
    hidden_size=64,
    num_layers=12,
    num_heads=8,
    num_kv_heads=2,
    head_dim=8,
    ffn_hidden_size=192,
    vocab_size=1000,
)

MOE = MoE(num_experts=6, topk=2, ffn_hidden_size=50)
MIXTURE = replace(MODEL, moe=MOE)


def recipe_of(layout: Layout = FSDP4_TP2, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": "llama3-8b",
        "layouts": {"h100": layout, "cpu": layout},
        "seq_len": 8192,
        "global_batch_size": 128,
    }
    return Recipe(**(values | changes))


def test_a_plan_says_how_a_recipe_runs() -> None:
    plan = resolve(recipe_of(micro_batch_size=2), system=H100)

    assert plan.case == "pretrain-llama3-8b-1n8g-torch-bf16-fsdp4tp2-seq8192-gbs128-mbs2"
    assert (plan.system, plan.device, plan.num_nodes) == ("h100", "cuda", 1)
    assert plan.grad_accum_steps == 128 // (2 * 4)
    assert plan.tokens_per_step == 128 * 8192
    assert plan.peak_tflops == 989.0
    assert plan.model == find_model("llama3-8b")


@pytest.mark.parametrize("name", flops_conventions())
def test_flops_are_counted_under_the_recipes_convention(name: str) -> None:
    plan = resolve(recipe_of(flops_convention=name), system=H100)

    expected = num_flops_per_token(find_model("llama3-8b"), seq_len=8192, convention=flops_conventions()[name])
    assert plan.flops_per_token == expected
    assert plan.flops_convention == name


@pytest.mark.parametrize(
    ("system", "precision", "peak"),
    [
        ("h100", "fp8_ds", 1979.0),
        ("h100", "fp8_cs", 1979.0),
        ("b200", "mxfp8", 4500.0),
        ("b200", "nvfp4", 9000.0),
        ("h200", "fp8_cs", None),
    ],
)
def test_the_peak_is_that_of_the_number_format_used(system: str, precision: str, peak: float | None) -> None:
    plan = resolve(recipe_of(layouts={system: FSDP4_TP2}, precision=precision), system=find_system(system))

    assert plan.peak_tflops == peak


def test_an_unknown_peak_stays_unknown() -> None:
    assert resolve(recipe_of(), system=CPU).peak_tflops is None


@pytest.mark.parametrize(
    ("gpus", "nodes"),
    [(1, 1), (4, 1), (8, 1), (16, 2), (64, 8)],
)
def test_a_layout_fills_whole_nodes(gpus: int, nodes: int) -> None:
    plan = resolve(recipe_of(Layout(gpus=gpus, dp_shard=gpus)), system=H100)

    assert plan.num_nodes == nodes
    assert f"-{nodes}n{gpus // nodes}g-" in plan.case


def test_a_node_of_grace_blackwell_has_four_gpus() -> None:
    recipe = recipe_of(layouts={"gb200": FSDP4_TP2})

    assert resolve(recipe, system=find_system("gb200")).num_nodes == 2


def test_a_cpu_is_one_node_of_any_number_of_ranks() -> None:
    assert resolve(recipe_of(Layout(gpus=32, dp_shard=32)), system=CPU).num_nodes == 1


def test_gpus_that_do_not_fill_nodes_are_refused() -> None:
    with pytest.raises(PlanError, match=r"gpus=12 fill 12/8 = 1\.5 nodes.* use 8 or 16 GPUs"):
        resolve(recipe_of(Layout(gpus=12, dp_shard=12), global_batch_size=12), system=H100)


def test_a_system_without_a_layout_is_told_apart_from_a_mistake() -> None:
    with pytest.raises(NoLayoutError, match=r"llama3-8b has no layout for system b200; it has layouts for cpu, h100"):
        resolve(recipe_of(), system=find_system("b200"))


def test_the_recipes_time_out_wins_over_the_derived_and_the_argument_over_both() -> None:
    recipe = recipe_of(timeout_sec=7.0)

    by_recipe = resolve(recipe, system=H100)
    by_option = resolve(recipe, system=H100, timeout_sec=3.0)

    assert (by_recipe.timeout_sec, by_recipe.timeout_basis) == (7.0, "timeout_sec of the recipe")
    assert (by_option.timeout_sec, by_option.timeout_basis) == (3.0, "--perf-timeout")


@pytest.mark.parametrize(
    "arguments",
    [{"timeout_sec": 0.0}, {"timeout_sec": float("inf")}, {"inject_pct": -1.0}, {"inject_pct": float("nan")}],
    ids=str,
)
def test_impossible_arguments_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(PlanError, match=rf"{next(iter(arguments))}=.* must be"):
        resolve(recipe_of(), system=H100, **arguments)


def test_a_command_brings_its_argv_and_the_recipes_model_numbers() -> None:
    plan = resolve(recipe_of(framework="command", command=("python", "train.py")), system=H100)

    assert plan.command == ("python", "train.py")
    assert plan.flops_per_token == resolve(recipe_of(), system=H100).flops_per_token


@given(
    replicas=st.integers(1, 4),
    shards=st.integers(1, 4),
    tp=st.sampled_from([1, 2]),
    micro=st.integers(1, 4),
    accum=st.integers(1, 8),
    precision=st.sampled_from(Precision),
)
def test_a_plan_survives_being_written_for_the_ranks(
    *, replicas: int, shards: int, tp: int, micro: int, accum: int, precision: Precision
) -> None:
    layout = Layout(gpus=replicas * shards * tp, dp_replicate=replicas, dp_shard=shards, tp=tp)
    recipe = recipe_of(
        layout,
        model="llama-tiny",
        precision=precision,
        micro_batch_size=micro,
        global_batch_size=micro * accum * layout.dp,
        env={"A": "b"},
    )

    plan = resolve(recipe, system=CPU)

    text = to_json(plan)
    assert schema_faults(json.loads(text), name="plan") == []
    assert from_json(Plan, text, subject="plan") == plan
    assert plan.grad_accum_steps == accum
