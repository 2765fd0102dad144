"""Megatron-Bridge's recipe for a plan, and the overrides of its ConfigContainer on top of it.

Names and rules: scripts/training/run_recipe.py, src/megatron/bridge/recipes, training/config.py, training/setup.py and
training/mixed_precision.py of NVIDIA-NeMo/Megatron-Bridge@067f987df.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from pytest_nemoperf.frameworks.plans.megatron_provider import provider_problem, provider_values
from pytest_nemoperf.layouts.pipeline_stages import stage_layers
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import model_catalog
from pytest_nemoperf.recipes import hyperparameters
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recompute

VANILLA: Final = "vanilla_gpt_pretrain_config"
"""Recipe whose model is all attributes of a GPTModelProvider, for architectures that have no recipe of their own."""
LIBRARY: Final[Mapping[str, str]] = MappingProxyType(
    {
        "deepseek-v2": "deepseek_v2_pretrain_config",
        "deepseek-v2-lite": "deepseek_v2_lite_pretrain_config",
        "deepseek-v3": "deepseek_v3_pretrain_config",
        "deepseek-v4-flash": "deepseek_v4_flash_pretrain_config",
        "deepseek-v4-pro": "deepseek_v4_pro_pretrain_config",
        "gemma2-2b": "gemma2_2b_pretrain_config",
        "gemma2-9b": "gemma2_9b_pretrain_config",
        "gemma2-27b": "gemma2_27b_pretrain_config",
        "gpt-oss-20b": "gpt_oss_20b_pretrain_config",
        "gpt-oss-120b": "gpt_oss_120b_pretrain_config",
        "kimi-k2": "kimi_k2_pretrain_config",
        "llama2-7b": "llama2_7b_pretrain_config",
        "llama3-8b": "llama3_8b_pretrain_config",
        "llama3-70b": "llama3_70b_pretrain_config",
        "llama3.1-8b": "llama31_8b_pretrain_config",
        "llama3.1-70b": "llama31_70b_pretrain_config",
        "llama3.1-405b": "llama31_405b_pretrain_config",
        "llama3.2-1b": "llama32_1b_pretrain_config",
        "llama3.2-3b": "llama32_3b_pretrain_config",
        "moonlight-16b-a3b": "moonlight_16b_pretrain_config",
        "nemotron-3-nano-30b-a3b": "nemotron_3_nano_pretrain_config",
        "nemotron-3-super-120b-a12b": "nemotron_3_super_pretrain_config",
        "nemotron-3-ultra-550b-a55b": "nemotron_3_ultra_pretrain_config",
        "nemotron-h-4b": "nemotronh_4b_pretrain_config",
        "nemotron-h-8b": "nemotronh_8b_pretrain_config",
        "nemotron-h-47b": "nemotronh_47b_pretrain_config",
        "nemotron-h-56b": "nemotronh_56b_pretrain_config",
        "nemotron-nano-9b-v2": "nemotron_nano_9b_v2_pretrain_config",
        "nemotron-nano-12b-v2": "nemotron_nano_12b_v2_pretrain_config",
        "qwen2.5-1.5b": "qwen25_1p5b_pretrain_config",
        "qwen2.5-7b": "qwen25_7b_pretrain_config",
        "qwen2.5-14b": "qwen25_14b_pretrain_config",
        "qwen2.5-32b": "qwen25_32b_pretrain_config",
        "qwen2.5-72b": "qwen25_72b_pretrain_config",
        "qwen3-0.6b": "qwen3_600m_pretrain_config",
        "qwen3-1.7b": "qwen3_1p7b_pretrain_config",
        "qwen3-4b": "qwen3_4b_pretrain_config",
        "qwen3-8b": "qwen3_8b_pretrain_config",
        "qwen3-14b": "qwen3_14b_pretrain_config",
        "qwen3-32b": "qwen3_32b_pretrain_config",
        "qwen3-30b-a3b": "qwen3_30b_a3b_pretrain_config",
        "qwen3-235b-a22b": "qwen3_235b_a22b_pretrain_config",
        "qwen3-next-80b-a3b": "qwen3_next_80b_a3b_pretrain_config",
    }
)
"""Recipe of the library by catalog name."""
_PRECISIONS: Final[Mapping[Precision, str]] = MappingProxyType(
    {
        Precision.BF16: "bf16_mixed",
        Precision.FP8_DS: "bf16_with_fp8_delayed_scaling_mixed",
        Precision.FP8_CS: "bf16_with_fp8_current_scaling_mixed",
        Precision.FP8_SC: "bf16_with_fp8_subchannel_scaling_mixed",
        Precision.MXFP8: "bf16_with_mxfp8_mixed",
        Precision.NVFP4: "bf16_with_nvfp4_mixed",
    }
)
"""Registered precision recipe of each of our formats; none keeps fp32 weights and products."""


def base_recipe(model: ModelConfig) -> str:
    """Return the recipe that a plan's overrides are for: the model's own of the library, else the vanilla one.

    Vocabulary and depth of multi-token prediction may differ from the catalog's, and so may the layers of a hybrid that
    num_layers cuts: all are overridden.
    """
    name = _whole_name(model)
    known = model_catalog().get(name)
    if known is None or name not in LIBRARY:
        return VANILLA
    if name != model.name:
        pattern = known.hybrid_pattern[: model.num_layers]
        known = replace(known, name=model.name, num_layers=model.num_layers, hybrid_pattern=pattern)
    same = replace(
        known,
        vocab_size=model.vocab_size,
        mtp_num_layers=model.mtp_num_layers,
        is_mtp_shared=model.is_mtp_shared,
    )
    return LIBRARY[name] if model == same else VANILLA


def _whole_name(model: ModelConfig) -> str:
    """Return the name of the model that a hybrid was cut from, else its own.

    A pattern of letters says all layers of a hybrid without multi-token prediction, whose letters would follow.
    """
    name = model.name.removesuffix(f"-{model.num_layers}layers")
    known = model_catalog().get(name)
    if known is None or not known.hybrid_pattern or known.mtp_num_layers or model.num_layers >= known.num_layers:
        return model.name
    return name


def plan_problems(plan: Plan) -> Iterator[str]:
    """Yield the reasons that Megatron-Bridge can't train a plan: setting, value, and advice."""
    if plan.rl is not None:
        yield (
            f"workload={plan.workload!r} is reinforcement learning, and megatron_bridge's recipes pre-train; use "
            "framework='nemo_rl'"
        )
    if plan.precision not in _PRECISIONS:
        yield (
            f"precision={plan.precision} is not among Megatron-Bridge's precision recipes; use one of "
            f"{', '.join(_PRECISIONS)}"
        )
    if plan.layout.pp_schedule != "1f1b":
        yield f"pp_schedule={plan.layout.pp_schedule} has no counterpart in Megatron-Bridge; use pp_schedule='1f1b'"
    yield from _pipeline_problems(plan)
    if plan.model.compressed_attention is not None:
        yield from _compression_problems(plan)
    if plan.is_compiled:
        yield "is_compiled=True has no setting in Megatron-Bridge, whose layers are transformer-engine's; leave it out"
    if plan.has_varying_lengths:
        yield (
            f"has_varying_lengths=True, and the mock data of a plan fills each sequence to seq_len={plan.seq_len}; "
            "leave it out, or measure a recipe of yours by framework_config"
        )
    if base_recipe(plan.model) == VANILLA:
        problem = provider_problem(plan.model)
        if problem:
            yield (
                f"model {plan.model.name} is none of Megatron-Bridge's library in this form, and {problem}; use a "
                "model of the catalog as it is, or measure a recipe of yours by framework_config"
            )
        rows = plan.model.max_positions
        if rows not in (None, plan.seq_len):
            yield (
                f"model {plan.model.name} has max_positions={rows}, and GPTModelProvider learns as many positions as "
                f"seq_len={plan.seq_len}; use seq_len={rows}"
            )


def _pipeline_problems(plan: Plan) -> Iterator[str]:
    layout = plan.layout
    chunks = layout.pp * layout.vp
    if plan.model.hybrid_pattern and plan.model.num_layers % chunks:
        yield (
            f"pp*vp ({layout.pp}*{layout.vp}={chunks}) does not divide num_layers={plan.model.num_layers}, and "
            "Megatron's hybrid models take no other division; change pp or vp"
        )
    if chunks > plan.model.num_layers + 2:
        yield f"pp*vp={chunks} chunks are more than num_layers={plan.model.num_layers}, embedding and head; lower pp"


def _compression_problems(plan: Plan) -> Iterator[str]:
    """Yield settings that Megatron-Bridge's DeepSeek-V4 lacks, or that plans have no words for.

    References:
        src/megatron/bridge/recipes/deepseek/h100/deepseek_v4.py, models/deepseek/deepseek_v4_bridge.py and
        examples/models/deepseek_v4/README.md of the commit above
    """
    layout = plan.layout
    subject = f"compressed attention of model {plan.model.name}"
    if layout.tp > 1:
        yield f"tp={layout.tp}: {subject} has no tensor parallelism in Megatron-Bridge's recipes; use tp=1"
    if layout.cp > 1:
        yield (
            f"cp={layout.cp}: {subject} needs contiguous pieces of a sequence (model.cp_partition_mode), which plans "
            "don't set; use cp=1"
        )
    if plan.model.mtp_num_layers != 1:
        yield (
            f"mtp_num_layers={plan.model.mtp_num_layers}: {subject} has a list of ratios in Megatron-Bridge, with one "
            "for each depth, which plans don't set; use mtp_num_layers=1"
        )
    if plan.recompute is Recompute.SELECTIVE:
        yield (
            f"recompute=selective: {subject} has kernels of its own, and Megatron-Bridge's recipes compute other parts "
            "again (model.recompute_modules); use none or full"
        )
    num_hashed = 0 if plan.model.moe is None else plan.model.moe.num_hash_layers
    num_first = len(stage_layers(plan.model, pp=layout.pp, vp=layout.vp)[0][0])
    if num_first < num_hashed:
        yield (
            f"pp*vp={layout.pp}*{layout.vp}: the first chunk has {num_first} of the {num_hashed} layers that choose "
            f"experts by token (moe.num_hash_layers={num_hashed}), and all must be beside the embedding; lower pp or vp"
        )


def plan_overrides(plan: Plan) -> dict[str, Any]:
    """Return the plan's values by the dotted names of a ConfigContainer; options may not change them."""
    overrides: dict[str, Any] = {
        "train.global_batch_size": plan.global_batch_size,
        "train.micro_batch_size": plan.micro_batch_size,
        "dataset.seq_length": plan.seq_len,
        "mixed_precision": _PRECISIONS[plan.precision],
        "rng.seed": plan.seed,
    }
    if base_recipe(plan.model) == VANILLA:
        overrides |= provider_values(plan.model)
    elif plan.model.name not in LIBRARY:
        overrides["model.num_layers"] = plan.model.num_layers
        overrides["model.hybrid_layer_pattern"] = plan.model.hybrid_pattern
    return {
        **overrides,
        **_vocabulary(plan),
        **_degrees(plan),
        **_pipeline(plan),
        **_data_parallel(plan),
        **_recomputation(plan),
    }


def own_overrides(plan: Plan) -> dict[str, Any]:
    """Return values that a plan leaves open; options may change them.

    The exchange of context parallel attention is among them, since Megatron's usual one, a ring, has no word here.
    """
    overrides: dict[str, Any] = {
        "optimizer.optimizer": "adam",
        "optimizer.lr": hyperparameters.LEARNING_RATE,
        "optimizer.min_lr": hyperparameters.LEARNING_RATE,
        "optimizer.adam_beta1": hyperparameters.BETAS[0],
        "optimizer.adam_beta2": hyperparameters.BETAS[1],
        "optimizer.adam_eps": hyperparameters.EPS,
        "optimizer.weight_decay": hyperparameters.WEIGHT_DECAY,
        "optimizer.clip_grad": hyperparameters.MAX_GRAD_NORM,
        "scheduler.start_weight_decay": hyperparameters.WEIGHT_DECAY,
        "scheduler.end_weight_decay": hyperparameters.WEIGHT_DECAY,
        "scheduler.lr_decay_style": "constant",
        "scheduler.lr_warmup_iters": 0,
        "scheduler.lr_decay_iters": plan.total_steps,
    }
    if plan.layout.cp > 1:
        overrides["model.cp_comm_type"] = plan.layout.cp_comm
    return overrides


def plan_environment(plan: Plan) -> dict[str, str]:
    """Return variables of a plan's ranks; Megatron-FSDP refuses the one connection that a recipe may ask for."""
    return {"CUDA_DEVICE_MAX_CONNECTIONS": "32"} if plan.layout.dp_shard > 1 else {}


def run_overrides(plan: Plan) -> dict[str, Any]:
    """Return the settings of each run: steps and logging, without evaluation and checkpoints."""
    return {
        "train.train_iters": plan.total_steps,
        "validation.eval_iters": 0,
        "checkpoint.save": None,
        "checkpoint.load": None,
        "logger.log_interval": 1,
        "logger.log_throughput": True,
        "logger.tensorboard_dir": None,
    }


def _vocabulary(plan: Plan) -> dict[str, Any]:
    """Return the model's vocabulary, and a tokenizer without files that has as many tokens.

    A vocabulary that tp does not divide is padded by Megatron, which it does only with the tokenizer's.
    """
    size = plan.model.vocab_size
    return {
        "tokenizer.tokenizer_type": "NullTokenizer",
        "tokenizer.tokenizer_model": None,
        "tokenizer.vocab_size": size,
        "tokenizer.use_tokenizer_vocab_size": size % plan.layout.tp != 0,
        "model.vocab_size": size,
    }


def _degrees(plan: Plan) -> dict[str, Any]:
    layout = plan.layout
    degrees: dict[str, Any] = {
        "model.tensor_model_parallel_size": layout.tp,
        "model.sequence_parallel": layout.sequence_parallel and layout.tp > 1,
        "model.context_parallel_size": layout.cp,
        "model.expert_model_parallel_size": layout.ep,
    }
    if plan.model.moe is not None:
        degrees["model.expert_tensor_parallel_size"] = layout.etp
        degrees["model.moe_router_force_load_balancing"] = plan.is_router_balanced
    if plan.model.moe is not None or plan.model.mtp_num_layers:
        degrees["model.mtp_num_layers"] = plan.model.mtp_num_layers or None
    if plan.model.is_mtp_shared:
        degrees["model.mtp_use_repeated_layer"] = True
    return degrees


def _pipeline(plan: Plan) -> dict[str, Any]:
    """Return the layers of each stage: as many in each, or else the division that the plan is priced with.

    There the embedding and the head count as a layer each, which Megatron has flags for, or else a list of stages. A
    recipe of the library may have a division of its own, in any of these settings.
    """
    layout = plan.layout
    chunks = layout.pp * layout.vp
    is_uneven = plan.model.num_layers % chunks != 0
    has_ends = is_uneven and not plan.model.mtp_num_layers and (plan.model.num_layers + 2) % chunks == 0
    stages = None
    if is_uneven and not has_ends:
        stages = _stages_text(plan.model, pp=layout.pp, vp=layout.vp)
    return {
        "model.pipeline_model_parallel_size": layout.pp,
        "model.virtual_pipeline_model_parallel_size": layout.vp if layout.vp > 1 else None,
        "model.pipeline_model_parallel_layout": stages,
        "model.num_layers_in_first_pipeline_stage": None,
        "model.num_layers_in_last_pipeline_stage": None,
        "model.account_for_embedding_in_pipeline_split": has_ends,
        "model.account_for_loss_in_pipeline_split": has_ends,
    }


def _stages_text(model: ModelConfig, *, pp: int, vp: int) -> str:
    """Return the stages in Megatron's words: E embedding, t layer, m multi-token prediction, L loss."""
    chunks = stage_layers(model, pp=pp, vp=vp)
    stages = []
    for chunk in range(vp):
        for rank in range(pp):
            stages.append("t" * len(chunks[rank][chunk]))
    stages[0] = f"E{stages[0]}"
    stages[-1] += "m" * model.mtp_num_layers + "L"
    return "|".join(stages)


def _data_parallel(plan: Plan) -> dict[str, Any]:
    """Return the settings of Megatron-FSDP, of the distributed optimizer, or of plain data parallelism.

    Those of Megatron-FSDP are the ones that scripts/performance/utils/overrides.py sets for it.
    """
    layout = plan.layout
    is_sharded = layout.dp_shard > 1
    settings: dict[str, Any] = {
        "ddp.use_megatron_fsdp": is_sharded,
        "ddp.use_distributed_optimizer": is_sharded or layout.shard_optimizer,
        "optimizer.use_distributed_optimizer": is_sharded or layout.shard_optimizer,
    }
    if is_sharded:
        settings["ddp.data_parallel_sharding_strategy"] = "optim_grads_params"
        settings["ddp.num_distributed_optimizer_instances"] = layout.dp_replicate
        settings["ddp.average_in_collective"] = False
        settings["ddp.keep_fp8_transpose_cache"] = False
        settings["model.init_model_with_meta_device"] = True
        settings["model.gradient_accumulation_fusion"] = False
    elif not layout.shard_optimizer:
        settings["ddp.overlap_param_gather"] = False  # gathers what a distributed optimizer shares out
        settings["comm_overlap"] = None  # would switch it on again
    return settings


def _recomputation(plan: Plan) -> dict[str, Any]:
    """Return the granularity with all that belongs to it: a recipe of the library may have one of its own."""
    settings: dict[str, Any] = {
        "model.recompute_granularity": None,
        "model.recompute_method": None,
        "model.recompute_num_layers": None,
        "model.recompute_modules": None,
    }
    if plan.recompute is Recompute.SELECTIVE:
        settings["model.recompute_granularity"] = "selective"
        settings["model.recompute_modules"] = ["core_attn"]
    elif plan.recompute is Recompute.FULL:
        settings["model.recompute_granularity"] = "full"
        settings["model.recompute_method"] = "uniform"
        settings["model.recompute_num_layers"] = 1
    return settings
