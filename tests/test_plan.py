from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.architecture import ModelConfig
from pytest_nemoperf.components import MoE
from pytest_nemoperf.conventions import flops_conventions
from pytest_nemoperf.errors import NoLayoutError, PlanError
from pytest_nemoperf.flops import num_flops_per_token
from pytest_nemoperf.models import find_model
from pytest_nemoperf.parallelism import Layout
from pytest_nemoperf.plan import STARTUP_ALLOWANCE_SEC, STEP_ALLOWANCE_SEC, resolve
from pytest_nemoperf.recipe import Plan, Precision, Recipe
from pytest_nemoperf.records import from_json, to_json
from pytest_nemoperf.schema import validate
from pytest_nemoperf.systems import find_system

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


def _recipe(layout: Layout = FSDP4_TP2, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": "llama3-8b",
        "layouts": {"h100": layout, "cpu": layout},
        "seq_len": 8192,
        "global_batch_size": 128,
    }
    return Recipe(**(values | changes))


def test_a_plan_says_how_a_recipe_runs() -> None:
    plan = resolve(_recipe(micro_batch_size=2), system=H100)

    assert plan.case == "pretrain-llama3-8b-1n8g-torch-bf16-fsdp4tp2-seq8192-gbs128-mbs2"
    assert (plan.system, plan.device, plan.num_nodes) == ("h100", "cuda", 1)
    assert plan.grad_accum_steps == 128 // (2 * 4)
    assert plan.tokens_per_step == 128 * 8192
    assert plan.peak_tflops == 989.0
    assert plan.model == find_model("llama3-8b")


@pytest.mark.parametrize("name", flops_conventions())
def test_flops_are_counted_under_the_recipes_convention(name: str) -> None:
    plan = resolve(_recipe(flops_convention=name), system=H100)

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
    plan = resolve(_recipe(layouts={system: FSDP4_TP2}, precision=precision), system=find_system(system))

    assert plan.peak_tflops == peak


def test_an_unknown_peak_stays_unknown() -> None:
    assert resolve(_recipe(), system=CPU).peak_tflops is None


@pytest.mark.parametrize(
    ("gpus", "nodes"),
    [(1, 1), (4, 1), (8, 1), (16, 2), (64, 8)],
)
def test_a_layout_fills_whole_nodes(gpus: int, nodes: int) -> None:
    plan = resolve(_recipe(Layout(gpus=gpus, dp_shard=gpus)), system=H100)

    assert plan.num_nodes == nodes
    assert f"-{nodes}n{gpus // nodes}g-" in plan.case


def test_a_node_of_grace_blackwell_has_four_gpus() -> None:
    recipe = _recipe(layouts={"gb200": FSDP4_TP2})

    assert resolve(recipe, system=find_system("gb200")).num_nodes == 2


def test_a_cpu_is_one_node_of_any_number_of_ranks() -> None:
    assert resolve(_recipe(Layout(gpus=32, dp_shard=32)), system=CPU).num_nodes == 1


def test_gpus_that_do_not_fill_nodes_are_refused() -> None:
    with pytest.raises(PlanError, match=r"gpus=12 fill 12/8 = 1\.5 nodes.* use 8 or 16 GPUs"):
        resolve(_recipe(Layout(gpus=12, dp_shard=12), global_batch_size=12), system=H100)


def test_a_system_without_a_layout_is_told_apart_from_a_mistake() -> None:
    with pytest.raises(NoLayoutError, match=r"llama3-8b has no layout for system b200; it has layouts for cpu, h100"):
        resolve(_recipe(), system=find_system("b200"))


@pytest.mark.parametrize(
    ("layout", "changes", "message"),
    [
        pytest.param(
            FSDP4_TP2,
            {"global_batch_size": 10},
            r"global_batch_size=10 .*micro_batch_size\*dp_replicate\*dp_shard \(1\*1\*4=4\), .* 10/4 = 2\.5 .*"
            r"use global_batch_size=8 or 12,",
            id="batch",
        ),
        pytest.param(
            FSDP4_TP2,
            {"global_batch_size": 4, "micro_batch_size": 3},
            r"\(3\*1\*4=12\), .* 4/12 = 0\.333333 .*use global_batch_size=12,",
            id="batch smaller than one pass",
        ),
        pytest.param(
            Layout(gpus=4, dp_replicate=2, dp_shard=2),
            {"global_batch_size": 6},
            r"\(1\*2\*2=4\)",
            id="batch over replicas and shards",
        ),
        pytest.param(
            Layout(gpus=3, tp=3),
            {"model": MODEL, "seq_len": 8190},
            r"tp=3 does not divide num_heads=8 \(8/3 = 2\.66667\)",
            id="heads",
        ),
        pytest.param(
            Layout(gpus=4, tp=4), {"model": MODEL}, r"tp=4 does not divide num_kv_heads=2", id="key-value heads"
        ),
        pytest.param(
            Layout(gpus=2, tp=2),
            {"model": replace(MODEL, ffn_hidden_size=193)},
            r"tp=2 does not divide ffn_hidden_size=193",
            id="ffn",
        ),
        pytest.param(
            Layout(gpus=2, tp=2),
            {"seq_len": 8191},
            r"seq_len=8191 is not a multiple of tp\*cp \(2\*1=2\) as sequence parallelism needs",
            id="sequence parallel",
        ),
        pytest.param(
            Layout(gpus=2, cp=2),
            {"seq_len": 8190},
            r"seq_len=8190 is not a multiple of 2\*cp \(2\*2=4\)",
            id="context parallel",
        ),
        pytest.param(
            Layout(gpus=8, cp=2, tp=4),
            {"seq_len": 8196},
            r"seq_len=8196 is not a multiple of tp\*cp \(4\*2=8\)",
            id="sequence over context parallel",
        ),
        pytest.param(
            Layout(gpus=5, pp=5),
            {"model": MODEL, "global_batch_size": 4},
            r"4 micro-batches a step are fewer than pp=5 stages; lower pp or micro_batch_size",
            id="micro-batches of a pipeline",
        ),
        pytest.param(
            Layout(gpus=4, pp=4, vp=4),
            {"model": MODEL, "framework": "megatron"},
            r"pp\*vp \(4\*4=16\) model chunks are more than num_layers=12",
            id="more chunks than layers",
        ),
        pytest.param(
            Layout(gpus=4, dp_shard=4, ep=2), {}, r"ep=2 and etp=1 .* this model is dense; use ep=1", id="experts"
        ),
        pytest.param(
            Layout(gpus=4, dp_shard=4, etp=2), {}, r"ep=1 and etp=2 .* this model is dense", id="expert tensors"
        ),
        pytest.param(
            Layout(gpus=4, dp_shard=4, ep=4),
            {"model": MIXTURE},
            r"ep=4 does not divide num_experts=6 \(6/4 = 1\.5\)",
            id="experts of a mixture",
        ),
        pytest.param(
            Layout(gpus=4, dp_shard=4, etp=4),
            {"model": MIXTURE},
            r"etp=4 does not divide moe\.ffn_hidden_size=50",
            id="width of an expert",
        ),
        pytest.param(
            Layout(gpus=2, tp=2, sequence_parallel=False),
            {"model": MIXTURE},
            r"tp=2 without sequence parallelism would send every token to the experts 2 times",
            id="mixture without sequence parallelism",
        ),
        pytest.param(
            Layout(gpus=1),
            {"model": replace(MODEL, max_positions=1024)},
            r"seq_len=8192 is longer than max_positions=1024, .*; use seq_len=1024 or less",
            id="more positions than the model has",
        ),
        pytest.param(
            Layout(gpus=1),
            {"model": replace(MODEL, max_positions=1024), "framework": "megatron"},
            r"seq_len=8192 is longer than max_positions=1024",
            id="more positions under any framework",
        ),
        pytest.param(
            Layout(gpus=2, tp=2),
            {"model": replace(MODEL, moe=replace(MOE, shared_ffn_hidden_size=51))},
            r"tp=2 does not divide moe\.shared_ffn_hidden_size=51",
            id="width of shared experts",
        ),
        pytest.param(
            Layout(gpus=2, tp=2),
            {"model": replace(MODEL, num_kv_heads=1)},
            r"tp=2 does not divide num_kv_heads=1 \(1/2 = 0\.5\); use tp=1$",
            id="one key-value head",
        ),
        pytest.param(
            Layout(gpus=1),
            {"is_router_balanced": True},
            r"is_router_balanced=True is for mixtures of experts, this model is dense; use is_router_balanced=False",
            id="balanced without a router",
        ),
    ],
)
def test_a_broken_rule_shows_the_arithmetic(layout: Layout, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        resolve(_recipe(layout, **changes), system=CPU)


def test_a_published_layout_deals_its_layers_unevenly() -> None:
    # NVIDIA-NeMo/Megatron-Bridge docs/performance-summary.md 25.09, Llama 3.1 405B, 128 GB200
    layout = Layout(gpus=128, tp=4, pp=8, vp=8, cp=2, dp_shard=2)

    plan = resolve(_recipe(layout, model="llama3.1-405b", global_batch_size=64), system=CPU)

    assert plan.model.num_layers % (layout.pp * layout.vp) == 62


@pytest.mark.parametrize(
    ("layout", "changes"),
    [
        pytest.param(Layout(gpus=4, tp=4), {"model": MODEL}, id="tp over copied key-value heads"),
        pytest.param(
            Layout(gpus=2, pp=2, vp=2), {"model": MODEL, "global_batch_size": 5}, id="rounds of micro-batches"
        ),
    ],
)
def test_rules_of_the_native_engine_do_not_bind_other_frameworks(layout: Layout, changes: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=r"tp=|rounds"):
        resolve(_recipe(layout, **changes), system=CPU)

    assert resolve(_recipe(layout, framework="megatron", **changes), system=CPU).layout == layout


def test_a_dense_width_binds_only_models_with_dense_layers() -> None:
    model = replace(MIXTURE, ffn_hidden_size=193)

    assert resolve(_recipe(Layout(gpus=2, tp=2), model=model), system=CPU).model == model
    with pytest.raises(PlanError, match=r"tp=2 does not divide ffn_hidden_size=193"):
        resolve(_recipe(Layout(gpus=2, tp=2), model=replace(model, moe=replace(MOE, num_dense_layers=1))), system=CPU)


def test_without_sequence_parallelism_tp_need_not_divide_the_sequence() -> None:
    layout = Layout(gpus=2, tp=2, sequence_parallel=False)

    assert resolve(_recipe(layout, seq_len=8191), system=H100).seq_len == 8191


def test_a_time_out_is_derived_from_the_steps() -> None:
    plan = resolve(_recipe(steps=5, warmup_steps=2), system=H100)

    assert plan.timeout_sec == STARTUP_ALLOWANCE_SEC + 7 * STEP_ALLOWANCE_SEC


def test_slowed_steps_get_more_time() -> None:
    plan = resolve(_recipe(steps=5, warmup_steps=5), system=H100, inject_pct=100.0)

    assert plan.inject_pct == 100.0
    assert plan.timeout_sec == STARTUP_ALLOWANCE_SEC + 20 * STEP_ALLOWANCE_SEC


def test_the_recipes_time_out_wins_over_the_derived_and_the_argument_over_both() -> None:
    recipe = _recipe(timeout_sec=7.0)

    assert resolve(recipe, system=H100).timeout_sec == 7.0
    assert resolve(recipe, system=H100, timeout_sec=3.0).timeout_sec == 3.0


@pytest.mark.parametrize(
    "arguments",
    [{"timeout_sec": 0.0}, {"timeout_sec": float("inf")}, {"inject_pct": -1.0}, {"inject_pct": float("nan")}],
    ids=str,
)
def test_impossible_arguments_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(PlanError, match=rf"{next(iter(arguments))}=.* must be"):
        resolve(_recipe(), system=H100, **arguments)


def test_a_command_brings_its_argv_and_the_recipes_model_numbers() -> None:
    plan = resolve(_recipe(framework="command", command=("python", "train.py")), system=H100)

    assert plan.command == ("python", "train.py")
    assert plan.flops_per_token == resolve(_recipe(), system=H100).flops_per_token


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
    recipe = _recipe(
        layout,
        model="llama-tiny",
        precision=precision,
        micro_batch_size=micro,
        global_batch_size=micro * accum * layout.dp,
        env={"A": "b"},
    )

    plan = resolve(recipe, system=CPU)

    text = to_json(plan)
    validate(json.loads(text), name="plan", subject="plan", error=PlanError)
    assert from_json(Plan, text, subject="plan") == plan
    assert plan.grad_accum_steps == accum
