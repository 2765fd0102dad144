"""Overrides of Megatron-Bridge's recipes for plans: every axis, batch setting and precision, or a reason."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.frameworks.plans.megatron_bridge import (
    LIBRARY,
    VANILLA,
    base_recipe,
    own_overrides,
    plan_environment,
    plan_overrides,
    plan_problems,
    run_overrides,
)
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.catalog import find_model, model_catalog
from pytest_nemoperf.models.twins import twin_of
from pytest_nemoperf.recipes.recipe import Plan, Precision
from tests.builders import make_plan, make_rl

FLASH = "deepseek-v4-flash"


def plan_of(layout: Layout, **changes: Any) -> Plan:
    values: dict[str, Any] = {"model": "llama3-8b", "precision": "bf16", "seq_len": 4096, "global_batch_size": 64}
    return make_plan(framework="megatron_bridge", layouts={"cpu": layout}, **{**values, **changes})


def problem_of(layout: Layout, **changes: Any) -> str:
    return next(plan_problems(plan_of(layout, **changes)), "")


@pytest.mark.parametrize(
    ("layout", "model", "expected"),
    [
        pytest.param(
            Layout(gpus=8, tp=2, dp_replicate=4),
            "llama3-8b",
            {"model.tensor_model_parallel_size": 2, "model.sequence_parallel": True},
            id="tp",
        ),
        pytest.param(
            Layout(gpus=2, tp=2, sequence_parallel=False), "llama3-8b", {"model.sequence_parallel": False}, id="no sp"
        ),
        pytest.param(
            Layout(gpus=8, pp=4, vp=2, dp_replicate=2),
            "llama3-8b",
            {
                "model.pipeline_model_parallel_size": 4,
                "model.virtual_pipeline_model_parallel_size": 2,
                "model.pipeline_model_parallel_layout": None,
                "model.account_for_embedding_in_pipeline_split": False,
            },
            id="pp and vp",
        ),
        pytest.param(
            Layout(gpus=4, cp=2, dp_replicate=2, shard_optimizer=True),
            "llama3-8b",
            {
                "model.context_parallel_size": 2,
                "ddp.use_distributed_optimizer": True,
                "optimizer.use_distributed_optimizer": True,
            },
            id="cp and sharded optimizer",
        ),
        pytest.param(
            Layout(gpus=8, ep=4, etp=2, dp_replicate=8),
            "qwen3-30b-a3b",
            {"model.expert_model_parallel_size": 4, "model.expert_tensor_parallel_size": 2},
            id="ep and etp",
        ),
        pytest.param(
            Layout(gpus=8, dp_shard=4, dp_replicate=2),
            "llama3-8b",
            {
                "ddp.use_megatron_fsdp": True,
                "ddp.data_parallel_sharding_strategy": "optim_grads_params",
                "ddp.num_distributed_optimizer_instances": 2,
                "ddp.use_distributed_optimizer": True,
            },
            id="fsdp in replicas",
        ),
        pytest.param(
            Layout(gpus=8, dp_replicate=8),
            "llama3-8b",
            {
                "ddp.use_megatron_fsdp": False,
                "ddp.use_distributed_optimizer": False,
                "ddp.overlap_param_gather": False,
                "comm_overlap": None,
            },
            id="plain data parallelism",
        ),
    ],
)
def test_each_axis_has_its_setting(layout: Layout, model: str, expected: dict[str, Any]) -> None:
    overrides = plan_overrides(plan_of(layout, model=model))

    assert {name: overrides[name] for name in expected} == expected


def test_batch_length_and_seed_are_the_plan_s() -> None:
    overrides = plan_overrides(plan_of(Layout(gpus=8, dp_replicate=8), micro_batch_size=4, seed=7))

    assert overrides["train.global_batch_size"] == 64
    assert overrides["train.micro_batch_size"] == 4
    assert overrides["dataset.seq_length"] == 4096
    assert overrides["rng.seed"] == 7


@pytest.mark.parametrize(
    ("precision", "name"),
    [
        ("bf16", "bf16_mixed"),
        ("fp8_ds", "bf16_with_fp8_delayed_scaling_mixed"),
        ("fp8_cs", "bf16_with_fp8_current_scaling_mixed"),
        ("fp8_sc", "bf16_with_fp8_subchannel_scaling_mixed"),
        ("mxfp8", "bf16_with_mxfp8_mixed"),
        ("nvfp4", "bf16_with_nvfp4_mixed"),
    ],
)
def test_each_precision_has_its_recipe(precision: str, name: str) -> None:
    plan = replace(plan_of(Layout(gpus=1)), precision=Precision(precision))

    assert plan_overrides(plan)["mixed_precision"] == name


@pytest.mark.parametrize(
    ("recompute", "expected"),
    [
        ("none", (None, None, None, None)),
        ("selective", ("selective", None, None, ["core_attn"])),
        ("full", ("full", "uniform", 1, None)),
    ],
)
def test_recomputation_leaves_nothing_of_the_library_s_recipe(recompute: str, expected: tuple[Any, ...]) -> None:
    overrides = plan_overrides(plan_of(Layout(gpus=1), recompute=recompute))

    names = ("granularity", "method", "num_layers", "modules")
    assert tuple(overrides[f"model.recompute_{name}"] for name in names) == expected


@pytest.mark.parametrize(
    ("model", "pp", "vp", "stages", "has_ends"),
    [
        pytest.param("llama3.1-405b", 8, 8, None, True, id="embedding and head count as layers"),
        pytest.param("deepseek-v3", 16, 1, "Ettt|" + 14 * "tttt|" + "ttmL", False, id="prediction counts too"),
        pytest.param("llama3-8b", 3, 1, "E" + 10 * "t" + "|" + 11 * "t" + "|" + 11 * "t" + "L", False, id="a rest"),
    ],
)
def test_stages_that_differ_have_the_layers_that_the_plan_is_priced_with(
    model: str, pp: int, vp: int, stages: str | None, has_ends: Any
) -> None:
    overrides = plan_overrides(plan_of(Layout(gpus=pp, pp=pp, vp=vp), model=model))

    assert overrides["model.pipeline_model_parallel_layout"] == stages
    assert overrides["model.account_for_embedding_in_pipeline_split"] is has_ends
    assert overrides["model.account_for_loss_in_pipeline_split"] is has_ends


@pytest.mark.parametrize(("is_balanced", "depth"), [(True, 1), (False, 0)])
def test_a_mixture_has_its_router_and_its_prediction_depth(is_balanced: Any, depth: int) -> None:
    model = replace(find_model("deepseek-v3"), mtp_num_layers=depth)

    overrides = plan_overrides(plan_of(Layout(gpus=1), model=model, is_router_balanced=is_balanced))

    assert overrides["model.moe_router_force_load_balancing"] is is_balanced
    assert overrides["model.mtp_num_layers"] == (depth or None)


def test_a_vocabulary_that_tp_does_not_divide_is_padded() -> None:
    model = replace(find_model("llama3-8b"), vocab_size=50_257)

    padded = plan_overrides(plan_of(Layout(gpus=2, tp=2), model=model))
    whole = plan_overrides(plan_of(Layout(gpus=1), model=model))

    assert padded["tokenizer.use_tokenizer_vocab_size"] is True
    assert whole["tokenizer.use_tokenizer_vocab_size"] is False
    assert whole["model.vocab_size"] == 50_257


@pytest.mark.parametrize(("cp_comm", "expected"), [("all_gather", "all_gather"), ("a2a", "a2a")])
def test_the_exchange_of_context_parallelism_is_an_option(cp_comm: Any, expected: str) -> None:
    plan = plan_of(Layout(gpus=2, cp=2, cp_comm=cp_comm))

    assert own_overrides(plan)["model.cp_comm_type"] == expected
    assert "model.cp_comm_type" not in plan_overrides(plan)


def test_a_run_logs_each_step_and_neither_evaluates_nor_saves() -> None:
    settings = run_overrides(plan_of(Layout(gpus=1)))

    assert settings["train.train_iters"] == 8
    assert settings["logger.log_interval"] == 1
    assert settings["logger.log_throughput"] is True
    assert settings["validation.eval_iters"] == 0
    assert settings["checkpoint.save"] is settings["checkpoint.load"] is None


def test_fsdp_has_more_than_one_connection() -> None:
    assert plan_environment(plan_of(Layout(gpus=2, dp_shard=2))) == {"CUDA_DEVICE_MAX_CONNECTIONS": "32"}
    assert plan_environment(plan_of(Layout(gpus=2, dp_replicate=2))) == {}


def test_a_model_of_the_catalog_has_its_library_s_recipe_whatever_its_vocabulary_and_depth() -> None:
    model = find_model("deepseek-v3")

    assert base_recipe(model) == "deepseek_v3_pretrain_config"
    assert base_recipe(replace(model, vocab_size=1024, mtp_num_layers=0)) == "deepseek_v3_pretrain_config"
    assert base_recipe(replace(find_model("llama3-8b"), num_layers=16)) == VANILLA
    assert base_recipe(twin_of(find_model("llama3-8b"))) == VANILLA


def test_a_hybrid_that_is_cut_is_told_its_layers_on_top_of_the_whole_one_s_recipe() -> None:
    plan = plan_of(Layout(gpus=1), model="nemotron-h-4b", num_layers=12)

    assert next(plan_problems(plan), "") == ""
    assert base_recipe(plan.model) == "nemotronh_4b_pretrain_config"
    assert plan_overrides(plan)["model.num_layers"] == 12
    assert plan_overrides(plan)["model.hybrid_layer_pattern"] == "M-M-M-M*-M-M"
    whole = plan_of(Layout(gpus=1), model="nemotron-h-4b")
    assert "model.hybrid_layer_pattern" not in plan_overrides(whole)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"hidden_size": 1024}, id="another-width"),
        pytest.param({"hybrid_pattern": "M-M*M-M*M-M*"}, id="other-layers"),
    ],
)
def test_a_hybrid_that_only_has_the_name_of_a_cut_one_has_no_recipe(changes: dict[str, Any]) -> None:
    cut = plan_of(Layout(gpus=1), model="nemotron-h-4b", num_layers=12).model

    assert base_recipe(replace(cut, **changes)) == VANILLA


def test_a_model_without_a_pattern_of_layers_is_cut_by_its_attributes() -> None:
    plan = plan_of(Layout(gpus=1), model="llama3.2-1b", num_layers=4)

    assert base_recipe(plan.model) == VANILLA
    assert plan_overrides(plan)["model.num_layers"] == 4


def test_deepseek_v4_runs_the_library_s_recipe_with_the_layout_of_its_published_row() -> None:
    plan = plan_of(Layout(gpus=128, ep=64, dp_replicate=128, shard_optimizer=True), model=FLASH, global_batch_size=2048)
    staged = replace(plan, layout=Layout(gpus=4, pp=4))

    assert next(plan_problems(plan), "") == ""
    assert base_recipe(plan.model) == "deepseek_v4_flash_pretrain_config"
    assert plan_overrides(plan)["model.expert_model_parallel_size"] == 64
    assert plan_overrides(plan)["model.mtp_num_layers"] == 1
    # an even division would leave the layers that choose experts by token with those of other stages
    assert plan_overrides(staged)["model.pipeline_model_parallel_layout"].startswith("Ettt")
    assert plan_overrides(staged)["model.pipeline_model_parallel_layout"].endswith("mL")


def test_the_library_names_models_of_the_catalog() -> None:
    assert set(LIBRARY) <= set(model_catalog())


def test_all_models_of_the_catalog_but_those_named_here_have_a_plan() -> None:
    refused = set()
    for name in model_catalog():
        rows = find_model(name).max_positions
        if next(plan_problems(plan_of(Layout(gpus=1), model=name, seq_len=rows or 4096)), ""):
            refused.add(name)

    assert refused == {
        *("gemma3-1b", "gemma3-4b", "gemma3-12b", "gemma3-27b", "grok-1"),
        *("llama4-scout-16e", "llama4-maverick-128e", "nemotron-3.5-lightning-30b-a3b"),
    }


@pytest.mark.parametrize(
    ("layout", "changes", "message"),
    [
        pytest.param(
            Layout(gpus=1), {"precision": "fp32"}, "precision=fp32 is not among .* use one of bf16, fp8_ds", id="fp32"
        ),
        pytest.param(
            Layout(gpus=2, pp=2, pp_schedule="zero_bubble"),
            {},
            "pp_schedule=zero_bubble .* use .*'1f1b'",
            id="schedule",
        ),
        pytest.param(Layout(gpus=1), {"is_compiled": True}, "is_compiled=True has no setting", id="compiled"),
        pytest.param(
            Layout(gpus=1), {"has_varying_lengths": True}, "has_varying_lengths=True, .* seq_len=4096", id="lengths"
        ),
        pytest.param(
            Layout(gpus=1),
            {"rl": make_rl(), "global_batch_size": 8},
            "workload='grpo' is reinforcement learning.* use framework='nemo_rl'",
            id="reinforcement learning",
        ),
        pytest.param(
            Layout(gpus=1),
            {"model": "gemma3-1b"},
            "model gemma3-1b .* its recipe for other models knows no .* use a model of the catalog as it is",
            id="architecture",
        ),
        pytest.param(
            Layout(gpus=3, pp=3), {"model": "nemotron-h-8b"}, r"pp\*vp \(3\*1=3\) does not divide .*=52", id="hybrid"
        ),
        pytest.param(
            Layout(gpus=1),
            {"model": "gpt3-5b", "seq_len": 1024},
            "max_positions=2048, .* seq_len=1024; use seq_len=2048",
            id="learned positions",
        ),
        pytest.param(
            Layout(gpus=2, tp=2), {"model": FLASH}, "tp=2: compressed attention of model deepseek-v4-flash", id="v4 tp"
        ),
        pytest.param(
            Layout(gpus=2, cp=2), {"model": FLASH}, r"cp=2: .* \(model.cp_partition_mode\), .* use cp=1", id="v4 cp"
        ),
        pytest.param(
            Layout(gpus=1),
            {"model": replace(find_model(FLASH), mtp_num_layers=0)},
            "mtp_num_layers=0: .* use mtp_num_layers=1",
            id="v4 ratios",
        ),
        pytest.param(
            Layout(gpus=1),
            {"model": FLASH, "recompute": "selective"},
            "recompute=selective: .* use none or full",
            id="v4",
        ),
        pytest.param(
            Layout(gpus=16, pp=16),
            {"model": FLASH},
            r"pp\*vp=16\*1: the first chunk has 1 of the 3 layers .* \(moe.num_hash_layers=3\), .* lower pp or vp",
            id="v4 table",
        ),
    ],
)
def test_what_it_lacks_is_refused_in_words(layout: Layout, changes: dict[str, Any], message: str) -> None:
    assert re.search(message, problem_of(layout, **changes))


def test_a_pipeline_longer_than_the_model_is_refused() -> None:
    plan = replace(plan_of(Layout(gpus=4, pp=4), model="llama-tiny"), layout=Layout(gpus=16, pp=16))

    assert "pp*vp=16 chunks are more than num_layers" in "; ".join(plan_problems(plan))
