"""NeMo RL's recipe file for a plan, and the overrides on top of it.

Names and rules: examples/configs/grpo_math_1B.yaml and grpo_math_1B_megatron.yaml, nemo_rl/algorithms/grpo.py,
nemo_rl/models/megatron/setup.py, nemo_rl/models/automodel/setup.py and nemo_rl/models/generation/vllm of
NVIDIA-NeMo/RL@7ea279abf.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from pytest_nemoperf.frameworks.configs.number_formats import FP8_RECIPES, GENERATION_PRECISIONS
from pytest_nemoperf.layouts.pipeline_stages import stage_layers
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.huggingface.names import hub_models
from pytest_nemoperf.models.trainable import deepseek_v4_parts
from pytest_nemoperf.recipes.algorithms import Algorithm
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recompute
from pytest_nemoperf.recipes.rl import RL

BACKEND_OPTION: Final = "backend"
"""Option that names what trains: one of BACKENDS; the first where it is not given."""
BACKENDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "megatron": "examples/configs/grpo_math_1B_megatron.yaml",
        "dtensor": "examples/configs/grpo_math_1B.yaml",
    }
)
"""Base file by backend."""
MODEL_OPTION: Final = "policy.model_name"
"""Option that names the checkpoint, instead of the one on the hub that has the model's architecture."""
_GENERATORS: Final = ("vllm", "megatron")
_FP8_NAMES: Final = {precision: name for name, precision in FP8_RECIPES.items()}
_TUNED: Final = re.compile(r"instruct|-it$|-chat", re.IGNORECASE)


def backend_of(plan: Plan) -> str:
    """Return the name of the backend that trains a plan, as the option says or the first."""
    return str(plan.framework_options.get(BACKEND_OPTION, next(iter(BACKENDS))))


def checkpoint_of(model: ModelConfig) -> str:
    """Return the hub's name of a checkpoint with an architecture; empty if none is known.

    Among several, one called like the model comes first, and of these one that follows instructions, since the policy
    answers questions of a chat.
    """
    letters = _letters(model.name)
    found = []
    for name, known in hub_models().items():
        if replace(known, name=model.name, mtp_num_layers=0, is_mtp_shared=False) == model:
            tail = name.rpartition("/")[2]
            found.append((letters not in _letters(tail), _TUNED.search(tail) is None, len(name), name))
    return min(found)[-1] if found else ""


def plan_problems(plan: Plan) -> Iterator[str]:
    """Yield the reasons that NeMo RL can't run a plan: setting, value, and advice."""
    rl = plan.rl
    if rl is None:
        yield "workload='pretrain' is no reinforcement learning, and nemo_rl runs plans with rl; use another framework"
        return
    backend = backend_of(plan)
    if backend not in BACKENDS:
        yield f"framework_options={{{BACKEND_OPTION!r}: {backend!r}}} is no backend; use {' or '.join(BACKENDS)}"
        return
    yield from _algorithm_problems(rl)
    yield from _model_problems(plan)
    if plan.is_compiled:
        yield "is_compiled=True has no setting in NeMo RL; leave it out"
    if plan.layout.pp_schedule != "1f1b":
        yield f"pp_schedule={plan.layout.pp_schedule} has no counterpart in NeMo RL; use pp_schedule='1f1b'"
    yield from _generation_problems(plan, rl=rl)
    yield from _node_problems(plan)
    if backend == "megatron":
        yield from _megatron_problems(plan)
    else:
        yield from _dtensor_problems(plan)


def plan_overrides(plan: Plan, *, rl: RL) -> dict[str, Any]:
    """Return the plan's values by the dotted names of the recipe file; options may not change them."""
    overrides: dict[str, Any] = {
        "grpo.num_prompts_per_step": rl.num_prompts_per_step,
        "grpo.num_generations_per_prompt": rl.num_generations_per_prompt,
        "grpo.seed": plan.seed,
        "policy.train_global_batch_size": plan.global_batch_size,
        "policy.train_micro_batch_size": plan.micro_batch_size,
        "policy.max_total_sequence_length": plan.seq_len,
        "policy.precision": "float32" if plan.precision is Precision.FP32 else "bfloat16",
        "policy.sequence_packing.enabled": rl.is_packed,
        "policy.dynamic_batching.enabled": False,
        "policy.generation.max_new_tokens": rl.max_response_len,
        "data.max_input_seq_length": rl.prompt_len,
        "cluster.num_nodes": plan.num_nodes,
        "cluster.gpus_per_node": plan.layout.total_gpus // plan.num_nodes,
        **_algorithm(rl, algorithm=rl.algorithm_config),
        **_generation(plan, rl=rl),
    }
    if rl.dataset:
        overrides["data.train.dataset_name"] = rl.dataset
    if backend_of(plan) == "megatron":
        return overrides | _megatron(plan)
    return overrides | _dtensor(plan)


def own_overrides(plan: Plan, *, rl: RL) -> dict[str, Any]:
    """Return values that a plan leaves open; options may change them."""
    overrides: dict[str, Any] = {
        MODEL_OPTION: checkpoint_of(plan.model),
        "policy.logprob_batch_size": plan.micro_batch_size,
        "policy.make_sequence_length_divisible_by": _padding(plan),
        "policy.generation.temperature": rl.temperature,
        "policy.generation.top_p": rl.top_p,
        "policy.generation.top_k": rl.top_k,
    }
    if rl.generator == "vllm":
        is_async = rl.max_staleness > 0 or _generation_pp(plan) > 1
        overrides["policy.generation.vllm_cfg.async_engine"] = is_async
    if rl.max_batch_size is not None:
        overrides["policy.generation.vllm_kwargs.max_num_seqs"] = rl.max_batch_size
    if backend_of(plan) == "megatron":
        overrides["policy.megatron_cfg.optimizer.lr"] = rl.learning_rate
        overrides["policy.megatron_cfg.optimizer.min_lr"] = rl.learning_rate
    else:
        overrides["policy.optimizer.kwargs.lr"] = rl.learning_rate
    return overrides


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _algorithm_problems(rl: RL) -> Iterator[str]:
    algorithm = rl.algorithm_config
    if algorithm.advantage != "group":
        yield (
            f"algorithm={algorithm.name!r} has a value model, and plans of nemo_rl are GRPO's; use 'grpo' or 'dapo', "
            "or a recipe file of PPO by framework_config"
        )
    if rl.has_pinned_lengths:
        yield (
            f"response_lengths={rl.response_lengths!r} pins lengths, and NeMo RL's prompts are those of a dataset; use "
            "response_lengths='sampled'"
        )


def _model_problems(plan: Plan) -> Iterator[str]:
    for part in deepseek_v4_parts(plan.model):
        yield f"model {plan.model.name} has {part}, which NeMo RL has no recipe or code for; use another model"
    given = plan.framework_options.get(MODEL_OPTION)
    if given is None:
        if not checkpoint_of(plan.model):
            yield (
                f"model {plan.model.name} is no known checkpoint of the Hugging Face hub; name one, or the folder of "
                f"one, in framework_options={{{MODEL_OPTION!r}: ...}}"
            )
        return
    known = hub_models().get(str(given))
    if known is not None and replace(known, name=plan.model.name, mtp_num_layers=0, is_mtp_shared=False) != plan.model:
        yield (
            f"framework_options={{{MODEL_OPTION!r}: {given!r}}} has another architecture than model={plan.model.name}; "
            "change one of the two"
        )


def _generation_problems(plan: Plan, *, rl: RL) -> Iterator[str]:
    generation = plan.layout.generation
    if rl.generator not in _GENERATORS:
        yield (
            f"generator={rl.generator!r} is not among those of plans ({', '.join(_GENERATORS)}); use generator='vllm', "
            "or a recipe file by framework_config"
        )
    if rl.max_staleness and generation is not None and generation.is_colocated:
        yield (
            f"max_staleness={rl.max_staleness} with ranks that take turns; give the layout's generation "
            "is_colocated=False and gpus of its own"
        )
    if rl.generator == "megatron" and rl.generation_precision is not None:
        yield (
            f"generation_precision={rl.generation_precision!r} is a setting of vLLM, and Megatron generates in the "
            "policy's; use generator='vllm', or leave it out"
        )
    if rl.generator == "megatron" and rl.max_batch_size is not None:
        yield f"max_batch_size={rl.max_batch_size} is a setting of vLLM; use generator='vllm', or leave it out"
    if rl.generator == "megatron" and backend_of(plan) != "megatron":
        yield "generator='megatron' needs the backend 'megatron'; use generator='vllm'"


def _node_problems(plan: Plan) -> Iterator[str]:
    """Yield the reasons that ranks don't fill nodes as NeMo RL divides them."""
    layout = plan.layout
    if layout.total_gpus % plan.num_nodes:
        yield f"gpus={layout.total_gpus} do not fill num_nodes={plan.num_nodes} evenly; change gpus"
        return
    per_node = layout.total_gpus // plan.num_nodes
    generation = layout.generation
    is_apart = generation is not None and not generation.is_colocated
    if is_apart and plan.num_nodes > 1 and layout.gpus % per_node:
        yield (
            f"gpus={layout.gpus} that train are not whole nodes of {per_node}, and NeMo RL gives whole nodes to "
            f"generation; use a multiple of {per_node}"
        )


def _megatron_problems(plan: Plan) -> Iterator[str]:
    layout = plan.layout
    if layout.dp_shard > 1:
        yield (
            f"dp_shard={layout.dp_shard} with the backend 'megatron', which reads use_custom_fsdp but never hands it "
            "on; use dp_replicate with shard_optimizer=True, or the backend 'dtensor'"
        )
    if layout.vp > 1:
        yield f"vp={layout.vp} has no setting in NeMo RL's Megatron backend; use vp=1"
    if plan.precision in (Precision.FP32, Precision.NVFP4):
        yield f"precision={plan.precision} is none of the Megatron backend's; use bf16, {', '.join(_FP8_NAMES)}"
    if layout.pp > 1 and not _is_even_between(plan):
        yield (
            f"pp={layout.pp} leaves stages of unequal layers between the first and the last of "
            f"num_layers={plan.model.num_layers}, which NeMo RL has no setting for; change pp"
        )


def _dtensor_problems(plan: Plan) -> Iterator[str]:
    layout = plan.layout
    for name in ("pp", "vp", "etp"):
        degree = getattr(layout, name)
        if degree > 1:
            yield f"{name}={degree} is none of the DTensor backend's degrees; use the backend 'megatron', or {name}=1"
    if layout.cp_comm == "a2a":
        yield "cp_comm=a2a has no setting in the DTensor backend; use cp_comm='all_gather'"
    if layout.shard_optimizer:
        yield "shard_optimizer=True is Megatron's, and the DTensor backend shards weights too; use dp_shard"
    if plan.precision not in (Precision.FP32, Precision.BF16):
        yield f"precision={plan.precision} is none of the DTensor backend's; use bf16, or the backend 'megatron'"
    if plan.recompute is Recompute.SELECTIVE:
        yield "recompute=selective is none of the DTensor backend's choices; use recompute='full' or 'none'"
    if plan.is_router_balanced:
        yield "is_router_balanced=True needs the backend 'megatron'; leave it out"


def _algorithm(rl: RL, *, algorithm: Algorithm) -> dict[str, Any]:
    """Return the algorithm's settings; on older samples NeMo RL trains with a correction only, so that is on."""
    is_off_policy = rl.max_staleness > 0
    settings: dict[str, Any] = {
        "grpo.normalize_rewards": algorithm.is_std_normalized,
        "grpo.use_leave_one_out_baseline": algorithm.is_leave_one_out,
        "grpo.use_dynamic_sampling": algorithm.has_dynamic_sampling,
        "grpo.async_grpo.enabled": is_off_policy,
        "loss_fn.ratio_clip_min": algorithm.clip_low,
        "loss_fn.ratio_clip_max": algorithm.clip_high,
        "loss_fn.reference_policy_kl_penalty": algorithm.kl_coef,
        "loss_fn.token_level_loss": algorithm.loss_mean == "token",
        "loss_fn.use_importance_sampling_correction": is_off_policy or algorithm.importance_cap is not None,
        "grpo.reward_shaping.enabled": algorithm.overlong_share > 0,
    }
    if is_off_policy:
        settings["grpo.async_grpo.max_trajectory_age_steps"] = rl.max_staleness
    if algorithm.importance_cap is not None:
        settings["loss_fn.truncated_importance_sampling_type"] = "tis"
        settings["loss_fn.truncated_importance_sampling_ratio"] = algorithm.importance_cap
    if algorithm.has_dynamic_sampling:
        settings["grpo.dynamic_sampling_max_gen_batches"] = algorithm.max_rounds
    if algorithm.overlong_share:
        settings["grpo.reward_shaping.max_response_length"] = rl.max_response_len
        settings["grpo.reward_shaping.overlong_buffer_length"] = round(algorithm.overlong_share * rl.max_response_len)
        settings["grpo.reward_shaping.overlong_buffer_penalty"] = algorithm.overlong_penalty
    return settings


def _generation(plan: Plan, *, rl: RL) -> dict[str, Any]:
    """Return the engine, its degrees, and the ranks that are its own; copies take the ranks that are left."""
    generation = plan.layout.generation
    settings: dict[str, Any] = {"policy.generation.backend": rl.generator}
    section = "policy.generation.vllm_cfg"
    names = ("tensor_parallel_size", "pipeline_parallel_size")
    if rl.generator == "vllm":
        settings[f"{section}.precision"] = GENERATION_PRECISIONS[plan.generation_precision]
    if rl.generator == "megatron":
        section = "policy.generation.mcore_generation_config"
        names = ("tensor_model_parallel_size", "pipeline_model_parallel_size")
    settings[f"{section}.{names[0]}"] = 1 if generation is None else generation.tp
    settings[f"{section}.{names[1]}"] = _generation_pp(plan)
    is_colocated = generation is None or generation.is_colocated
    settings["policy.generation.colocated.enabled"] = is_colocated
    if generation is not None and not is_colocated:
        per_node = plan.layout.total_gpus // plan.num_nodes
        is_one_node = plan.num_nodes == 1
        resources = "policy.generation.colocated.resources"
        settings[f"{resources}.num_nodes"] = 1 if is_one_node else generation.gpus // per_node
        settings[f"{resources}.gpus_per_node"] = generation.gpus if is_one_node else per_node
    return settings


def _generation_pp(plan: Plan) -> int:
    return 1 if plan.layout.generation is None else plan.layout.generation.pp


def _megatron(plan: Plan) -> dict[str, Any]:
    layout = plan.layout
    settings: dict[str, Any] = {
        "enabled": True,
        "tensor_model_parallel_size": layout.tp,
        "sequence_parallel": layout.sequence_parallel and layout.tp > 1,
        "pipeline_model_parallel_size": layout.pp,
        "num_layers_in_first_pipeline_stage": None,
        "num_layers_in_last_pipeline_stage": None,
        "context_parallel_size": layout.cp,
        "expert_model_parallel_size": layout.ep,
        "expert_tensor_parallel_size": layout.etp,
        "optimizer.use_distributed_optimizer": layout.shard_optimizer,
        "distributed_data_parallel_config.use_custom_fsdp": False,
        "distributed_data_parallel_config.overlap_param_gather": layout.shard_optimizer,
        "activation_checkpointing": plan.recompute is not Recompute.NONE,
        "fp8_cfg.enabled": plan.precision in _FP8_NAMES,
    }
    if plan.model.num_layers % layout.pp:
        stages = stage_layers(plan.model, pp=layout.pp, vp=1)
        settings["num_layers_in_first_pipeline_stage"] = len(stages[0][0])
        settings["num_layers_in_last_pipeline_stage"] = len(stages[-1][0])
    if plan.recompute is not Recompute.NONE:
        settings["recompute_granularity"] = str(plan.recompute)
    if plan.precision in _FP8_NAMES:
        settings["fp8_cfg.fp8"] = "e4m3"
        settings["fp8_cfg.fp8_recipe"] = _FP8_NAMES[plan.precision]
    if plan.is_router_balanced:
        settings["model_overrides.moe_router_force_load_balancing"] = True
    if layout.cp_comm == "a2a":
        settings["model_overrides.cp_comm_type"] = "a2a"
    overrides: dict[str, Any] = {"policy.dtensor_cfg.enabled": False}
    for name, value in settings.items():
        overrides[f"policy.megatron_cfg.{name}"] = value
    return overrides


def _is_even_between(plan: Plan) -> bool:
    """Return whether all stages but the first and the last have as many layers."""
    stages = stage_layers(plan.model, pp=plan.layout.pp, vp=1)
    return len({len(chunks[0]) for chunks in stages[1:-1]}) <= 1


def _dtensor(plan: Plan) -> dict[str, Any]:
    layout = plan.layout
    settings: dict[str, Any] = {
        "enabled": True,
        "tensor_parallel_size": layout.tp,
        "sequence_parallel": layout.sequence_parallel and layout.tp > 1,
        "context_parallel_size": layout.cp,
        "expert_parallel_size": layout.ep,
        "dp_replicate_size": layout.dp_replicate,
        "activation_checkpointing": plan.recompute is Recompute.FULL,
    }
    overrides: dict[str, Any] = {"policy.megatron_cfg.enabled": False}
    for name, value in settings.items():
        overrides[f"policy.dtensor_cfg.{name}"] = value
    return overrides


def _padding(plan: Plan) -> int:
    """Return the number that padded lengths are multiples of: two parts for each of cp's ranks, each divided by tp."""
    cp = plan.layout.cp
    return plan.layout.tp * (2 * cp if cp > 1 else 1)
