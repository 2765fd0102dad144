"""Overrides of NeMo RL's base files for plans: backends, on-policy and off, every axis and setting, or a reason."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.frameworks.plans.nemo_rl import (
    backend_of,
    checkpoint_of,
    own_overrides,
    plan_overrides,
    plan_problems,
)
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.recipes.algorithms import ALGORITHMS
from pytest_nemoperf.recipes.recipe import Plan, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.rl import RL
from pytest_nemoperf.recipes.systems import find_system

TOGETHER = Layout(gpus=16, pp=2, dp_replicate=8, shard_optimizer=True)
SHARDED = Layout(gpus=16, dp_shard=16)
DTENSOR = {"backend": "dtensor"}
OFF_POLICY = replace(ALGORITHMS["grpo"], importance_cap=2.0)


def make_rl(**changes: Any) -> RL:
    values: dict[str, Any] = {
        "num_prompts_per_step": 64,
        "num_generations_per_prompt": 32,
        "prompt_len": 4096,
        "max_response_len": 3072,
        "response_lengths": "sampled",
        "generator": "vllm",
        "is_packed": True,
    }
    return RL(**{**values, **changes})


def plan_of(layout: Layout = TOGETHER, *, rl: RL | None = None, **changes: Any) -> Plan:
    values: dict[str, Any] = {
        "model": "llama3.1-8b",
        "seq_len": 4096,
        "global_batch_size": 512,
        "framework": "nemo_rl",
        **changes,
    }
    recipe = Recipe(layouts={"h100": layout}, rl=rl or make_rl(), **values)
    return resolve(recipe, system=find_system("h100"))


def settings_of(layout: Layout = TOGETHER, *, rl: RL | None = None, **changes: Any) -> dict[str, Any]:
    plan = plan_of(layout, rl=rl, **changes)
    assert plan.rl is not None
    assert not list(plan_problems(plan))
    return own_overrides(plan, rl=plan.rl) | plan_overrides(plan, rl=plan.rl)


def apart(gpus: int, **degrees: int) -> GenerationLayout:
    return GenerationLayout(gpus=gpus, is_colocated=False, **degrees)


def test_batch_and_lengths_are_the_plan_s() -> None:
    settings = settings_of(micro_batch_size=2, seed=7)

    assert {name: settings[name] for name in settings if name.startswith(("grpo.num", "policy.train", "data."))} == {
        "grpo.num_prompts_per_step": 64,
        "grpo.num_generations_per_prompt": 32,
        "policy.train_global_batch_size": 512,
        "policy.train_micro_batch_size": 2,
        "data.max_input_seq_length": 4096,
    }
    assert settings["policy.logprob_batch_size"] == 2
    assert settings["policy.max_total_sequence_length"] == 4096
    assert settings["policy.generation.max_new_tokens"] == 3072
    assert settings["policy.sequence_packing.enabled"] is True
    assert settings["grpo.seed"] == 7


def test_megatron_trains_where_no_backend_is_named() -> None:
    settings = settings_of()

    assert backend_of(plan_of()) == "megatron"
    assert settings["policy.megatron_cfg.enabled"] is True
    assert settings["policy.dtensor_cfg.enabled"] is False
    assert settings["policy.megatron_cfg.pipeline_model_parallel_size"] == 2
    assert settings["policy.megatron_cfg.optimizer.use_distributed_optimizer"] is True


@pytest.mark.parametrize(
    ("layout", "model", "expected"),
    [
        pytest.param(
            Layout(gpus=8, tp=4, cp=2),
            "llama3.1-8b",
            {"tensor_model_parallel_size": 4, "sequence_parallel": True, "context_parallel_size": 2},
            id="tp and cp",
        ),
        pytest.param(
            Layout(gpus=8, ep=4, etp=2, dp_replicate=8),
            "qwen3-30b-a3b",
            {"expert_model_parallel_size": 4, "expert_tensor_parallel_size": 2},
            id="ep and etp",
        ),
        pytest.param(
            Layout(gpus=8, dp_replicate=8),
            "llama3.1-8b",
            {
                "optimizer.use_distributed_optimizer": False,
                "distributed_data_parallel_config.overlap_param_gather": False,
            },
            id="plain data parallelism",
        ),
        pytest.param(
            Layout(gpus=8, pp=8),
            "qwen3-235b-a22b",
            {"num_layers_in_first_pipeline_stage": 11, "num_layers_in_last_pipeline_stage": 11},
            id="94 layers in 8 stages",
        ),
        pytest.param(
            Layout(gpus=8, pp=8),
            "qwen3-32b",
            {"num_layers_in_first_pipeline_stage": None, "num_layers_in_last_pipeline_stage": None},
            id="64 layers in 8 stages",
        ),
        pytest.param(
            Layout(gpus=2, cp=2, cp_comm="a2a"), "llama3.1-8b", {"model_overrides.cp_comm_type": "a2a"}, id="ulysses"
        ),
    ],
)
def test_each_axis_of_megatron_has_its_setting(layout: Layout, model: str, expected: dict[str, Any]) -> None:
    settings = settings_of(layout, model=model)

    assert {name: settings[f"policy.megatron_cfg.{name}"] for name in expected} == expected


def test_each_axis_of_dtensor_has_its_setting() -> None:
    layout = Layout(gpus=16, tp=2, cp=2, dp_replicate=2, dp_shard=2)

    settings = settings_of(layout, framework_options=DTENSOR, recompute="full")

    assert {name: value for name, value in settings.items() if name.startswith("policy.dtensor_cfg.")} == {
        "policy.dtensor_cfg.enabled": True,
        "policy.dtensor_cfg.tensor_parallel_size": 2,
        "policy.dtensor_cfg.sequence_parallel": True,
        "policy.dtensor_cfg.context_parallel_size": 2,
        "policy.dtensor_cfg.expert_parallel_size": 1,
        "policy.dtensor_cfg.dp_replicate_size": 2,
        "policy.dtensor_cfg.activation_checkpointing": True,
    }
    assert settings["policy.megatron_cfg.enabled"] is False
    assert settings["policy.make_sequence_length_divisible_by"] == 8
    assert settings["policy.optimizer.kwargs.lr"] == 1e-5


@pytest.mark.parametrize(
    ("layout", "num_nodes", "per_node", "resources"),
    [
        pytest.param(Layout(gpus=8, dp_replicate=8, generation=apart(8)), 2, 8, (1, 8), id="whole nodes"),
        pytest.param(Layout(gpus=16, dp_replicate=16, generation=apart(48)), 8, 8, (6, 8), id="more nodes"),
        pytest.param(Layout(gpus=2, dp_replicate=2, generation=apart(6, tp=2)), 1, 8, (1, 6), id="one node"),
    ],
)
def test_one_step_off_generates_on_gpus_of_its_own(
    layout: Layout, num_nodes: int, per_node: int, resources: tuple[int, int]
) -> None:
    settings = settings_of(layout, rl=make_rl(max_staleness=1, algorithm=OFF_POLICY))

    assert settings["grpo.async_grpo.enabled"] is True
    assert settings["grpo.async_grpo.max_trajectory_age_steps"] == 1
    assert settings["loss_fn.use_importance_sampling_correction"] is True
    assert settings["loss_fn.truncated_importance_sampling_ratio"] == 2.0
    assert settings["policy.generation.vllm_cfg.async_engine"] is True
    assert settings["policy.generation.colocated.enabled"] is False
    assert (settings["cluster.num_nodes"], settings["cluster.gpus_per_node"]) == (num_nodes, per_node)
    names = ("num_nodes", "gpus_per_node")
    assert tuple(settings[f"policy.generation.colocated.resources.{name}"] for name in names) == resources


def test_on_policy_takes_turns() -> None:
    settings = settings_of()

    assert settings["grpo.async_grpo.enabled"] is False
    assert settings["loss_fn.use_importance_sampling_correction"] is False
    assert settings["policy.generation.colocated.enabled"] is True
    assert settings["policy.generation.vllm_cfg.async_engine"] is False


@pytest.mark.parametrize(("precision", "theirs"), [(None, "bfloat16"), ("fp8", "fp8"), ("fp32", "float32")])
def test_vllm_generates_in_the_precision_of_the_plan(precision: Any, theirs: str) -> None:
    settings = settings_of(rl=make_rl(generation_precision=precision))

    assert settings["policy.generation.vllm_cfg.precision"] == theirs


def test_megatron_generates_in_the_precision_of_the_policy() -> None:
    plan = plan_of(rl=make_rl(generator="megatron", generation_precision="fp8"))

    assert "generation_precision='fp8' is a setting of vLLM" in " ".join(plan_problems(plan))


@pytest.mark.parametrize(
    ("generator", "names"),
    [
        ("vllm", ("vllm_cfg.tensor_parallel_size", "vllm_cfg.pipeline_parallel_size")),
        (
            "megatron",
            (
                "mcore_generation_config.tensor_model_parallel_size",
                "mcore_generation_config.pipeline_model_parallel_size",
            ),
        ),
    ],
)
def test_generation_has_degrees_of_its_own(generator: Any, names: tuple[str, str]) -> None:
    layout = replace(TOGETHER, generation=GenerationLayout(gpus=16, tp=4, pp=2))

    settings = settings_of(layout, rl=make_rl(generator=generator))

    assert tuple(settings[f"policy.generation.{name}"] for name in names) == (4, 2)
    assert settings["policy.generation.backend"] == generator
    assert settings.get("policy.generation.vllm_cfg.async_engine", True) is True  # vLLM's pipeline needs it


@pytest.mark.parametrize(
    ("precision", "expected"), [("bf16", None), ("fp8_sc", "blockwise"), ("fp8_cs", "tensorwise"), ("mxfp8", "mxfp8")]
)
def test_each_precision_has_its_recipe(precision: Any, expected: str | None) -> None:
    settings = settings_of(precision=precision)

    assert settings["policy.precision"] == "bfloat16"
    assert settings["policy.megatron_cfg.fp8_cfg.enabled"] is (expected is not None)
    assert settings.get("policy.megatron_cfg.fp8_cfg.fp8_recipe") == expected


@pytest.mark.parametrize(
    ("recompute", "is_on", "granularity"),
    [("none", False, None), ("selective", True, "selective"), ("full", True, "full")],
)
def test_recomputation_has_its_granularity(recompute: Any, is_on: Any, granularity: str | None) -> None:
    settings = settings_of(recompute=recompute)

    assert settings["policy.megatron_cfg.activation_checkpointing"] is is_on
    assert settings.get("policy.megatron_cfg.recompute_granularity") == granularity


def test_dapo_has_its_sampling_and_its_penalty() -> None:
    settings = settings_of(rl=make_rl(algorithm=replace(ALGORITHMS["dapo"], max_rounds=3)))

    assert settings["grpo.use_dynamic_sampling"] is True
    assert settings["grpo.dynamic_sampling_max_gen_batches"] == 3
    assert settings["loss_fn.ratio_clip_max"] == 0.28
    assert settings["grpo.reward_shaping.enabled"] is True
    assert settings["grpo.reward_shaping.overlong_buffer_length"] == 614
    assert settings["loss_fn.token_level_loss"] is True


def test_sampling_dataset_and_slots_are_told() -> None:
    rl = make_rl(dataset="DAPOMath17K", temperature=0.8, top_k=50, max_batch_size=64)

    settings = settings_of(rl=rl)

    assert settings["data.train.dataset_name"] == "DAPOMath17K"
    assert settings["policy.generation.temperature"] == 0.8
    assert settings["policy.generation.top_k"] == 50
    assert settings["policy.generation.vllm_kwargs.max_num_seqs"] == 64


def test_a_balanced_router_overrides_the_provider() -> None:
    layout = Layout(gpus=8, ep=8, dp_replicate=8)

    settings = settings_of(layout, model="qwen3-30b-a3b", is_router_balanced=True)

    assert settings["policy.megatron_cfg.model_overrides.moe_router_force_load_balancing"] is True


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("llama3.1-8b", "meta-llama/Llama-3.1-8B-Instruct"),
        ("qwen2.5-32b", "Qwen/Qwen2.5-32B-Instruct"),
        ("qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B"),
        ("deepseek-v3", "deepseek-ai/DeepSeek-V3"),
        ("gemma2-9b", "google/gemma-2-9b-it"),
    ],
)
def test_a_checkpoint_has_the_model_s_name_and_follows_instructions(model: str, name: str) -> None:
    assert checkpoint_of(replace(find_model(model), mtp_num_layers=0)) == name


@pytest.mark.parametrize(
    ("layout", "changes", "message"),
    [
        pytest.param(TOGETHER, {"rl": make_rl(algorithm="ppo")}, "algorithm='ppo' .* use 'grpo' or 'dapo'", id="ppo"),
        pytest.param(
            TOGETHER,
            {"rl": make_rl(response_lengths="fixed", prompt_len=1024)},
            "response_lengths='fixed' pins lengths.* use response_lengths='sampled'",
            id="pinned lengths",
        ),
        pytest.param(
            TOGETHER, {"rl": make_rl(generator="sglang")}, "generator='sglang' .* use generator='vllm'", id="generator"
        ),
        pytest.param(
            TOGETHER,
            {"rl": make_rl(max_staleness=1)},
            "max_staleness=1 with ranks that take turns; .* is_colocated=False",
            id="turns",
        ),
        pytest.param(
            Layout(gpus=12, dp_replicate=12, generation=apart(4)),
            {"global_batch_size": 12, "rl": make_rl(num_prompts_per_step=12, num_generations_per_prompt=4)},
            "gpus=12 that train are not whole nodes of 8",
            id="half nodes",
        ),
        pytest.param(SHARDED, {}, "dp_shard=16 with the backend 'megatron', .* 'dtensor'", id="megatron's fsdp"),
        pytest.param(Layout(gpus=8, pp=4, vp=2, dp_replicate=2), {}, "vp=2 has no setting", id="megatron's chunks"),
        pytest.param(Layout(gpus=24, pp=12, dp_replicate=2), {}, "pp=12 leaves stages of unequal layers", id="stages"),
        pytest.param(TOGETHER, {"precision": "nvfp4"}, "precision=nvfp4 is none of the Megatron", id="nvfp4"),
        pytest.param(TOGETHER, {"framework_options": DTENSOR}, "pp=2 is none of the DTensor", id="dtensor's pp"),
        pytest.param(
            Layout(gpus=16, dp_replicate=16, shard_optimizer=True),
            {"framework_options": DTENSOR},
            "shard_optimizer=True is Megatron's",
            id="dtensor's optimizer",
        ),
        pytest.param(
            SHARDED, {"framework_options": DTENSOR, "precision": "fp8_sc"}, "precision=fp8_sc", id="dtensor's fp8"
        ),
        pytest.param(
            SHARDED, {"framework_options": DTENSOR, "recompute": "selective"}, "recompute=selective", id="recomputation"
        ),
        pytest.param(
            Layout(gpus=2, cp=2, cp_comm="a2a"), {"framework_options": DTENSOR}, "cp_comm=a2a", id="dtensor's ulysses"
        ),
        pytest.param(
            TOGETHER,
            {"framework_options": {"backend": "fsdp"}},
            "'fsdp'} is no backend; use megatron or dtensor",
            id="backend",
        ),
        pytest.param(
            TOGETHER,
            {"model": "deepseek-v4-flash"},
            r"deepseek-v4-flash has compressed attention .*, which NeMo RL has no recipe or code for",
            id="DeepSeek-V4",
        ),
        pytest.param(
            TOGETHER, {"model": "llama3.1-8b-twin"}, "is no known checkpoint .*'policy.model_name'", id="a twin"
        ),
        pytest.param(
            TOGETHER,
            {"framework_options": {"policy.model_name": "Qwen/Qwen3-32B"}},
            "'Qwen/Qwen3-32B'} has another architecture than model=llama3.1-8b",
            id="another checkpoint",
        ),
        pytest.param(TOGETHER, {"is_compiled": True}, "is_compiled=True has no setting", id="compiled"),
        pytest.param(
            Layout(gpus=2, pp=2, pp_schedule="zero_bubble"),
            {},
            "pp_schedule=zero_bubble has no counterpart",
            id="schedule",
        ),
    ],
)
def test_what_it_lacks_is_refused_in_words(layout: Layout, changes: dict[str, Any], message: str) -> None:
    problems = "; ".join(plan_problems(plan_of(layout, **changes)))

    assert re.search(message, problems)


def test_pre_training_is_no_plan_of_it() -> None:
    plan = replace(plan_of(), rl=None)

    assert next(plan_problems(plan)).startswith("workload='pretrain' is no reinforcement learning")
