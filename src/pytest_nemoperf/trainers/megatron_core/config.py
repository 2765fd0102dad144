"""Megatron-Core's configuration of a plan."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any, Final

import torch
from megatron.core.activations import squared_relu
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.fusions.fused_bias_geglu import quick_gelu
from megatron.core.optimizer import OptimizerConfig
from megatron.core.transformer import MLATransformerConfig, TransformerConfig
from torch import Tensor
from torch.nn import functional as F

from pytest_nemoperf.layouts.pipeline_stages import stage_layers
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import Activation, FeedForward, MoE
from pytest_nemoperf.recipes.hyperparameters import BETAS, EPS, LEARNING_RATE, MAX_GRAD_NORM, WEIGHT_DECAY
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recompute

_CLAMP: Final = 7.0
"""Bound of GPT-OSS's gate and up projection."""
_FP8: Final[Mapping[Precision, Mapping[str, str]]] = {
    Precision.FP8_DS: {"fp8": "hybrid", "fp8_recipe": "delayed"},
    Precision.FP8_CS: {"fp8": "hybrid", "fp8_recipe": "tensorwise"},
    Precision.FP8_SC: {"fp8": "e4m3", "fp8_recipe": "blockwise"},
    Precision.MXFP8: {"fp8": "e4m3", "fp8_recipe": "mxfp8"},
    Precision.NVFP4: {"fp4": "e2m1", "fp4_recipe": "nvfp4"},
}
"""transformer-engine's recipes by Megatron-LM's names; the formats are those that the native engine takes."""
_RECOMPUTE: Final[Mapping[Recompute, Mapping[str, Any]]] = {
    Recompute.NONE: {},
    Recompute.SELECTIVE: {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]},
    Recompute.FULL: {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
}


def has_transformer_engine() -> bool:
    """Return whether transformer-engine's layers can be used in this interpreter."""
    if importlib.util.find_spec("transformer_engine") is None:
        return False
    importlib.import_module("transformer_engine.pytorch")  # an installation that is broken should say so
    return True


def transformer_config(plan: Plan, *, has_te: bool) -> TransformerConfig:
    """Return the configuration of model, parallelism, number formats and kernels.

    Args:
        plan: Plan to run.
        has_te: Layers are transformer-engine's, not Megatron-Core's own.
    """
    model = plan.model
    options: dict[str, Any] = {
        **_layers(model),
        **_parallelism(plan),
        **_kernels(plan, has_te=has_te),
        **_RECOMPUTE[plan.recompute],
        **_FP8.get(plan.precision, {}),
    }
    if model.moe is not None:
        options |= _experts(model, model.moe, is_balanced=plan.is_router_balanced, has_te=has_te)
    if model.mla is not None:
        return MLATransformerConfig(**options, **_latents(model))
    config = TransformerConfig(**options)
    for name, value in _yarn(model).items():
        setattr(config, name, value)  # Megatron-Core's GPTModel reads them, but they are no fields in 0.16.1
    return config


def ddp_config(plan: Plan) -> DistributedDataParallelConfig:
    """Return the configuration of data parallelism: reductions in fp32, overlapped with backward."""
    return DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=plan.layout.shard_optimizer,
        overlap_grad_reduce=True,
        overlap_param_gather=plan.layout.shard_optimizer,
        check_for_nan_in_grad=False,
    )


def optimizer_config(plan: Plan) -> OptimizerConfig:
    """Return the configuration of AdamW; weights in bf16 have masters in fp32."""
    return OptimizerConfig(
        optimizer="adam",
        lr=LEARNING_RATE,
        min_lr=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        adam_eps=EPS,
        clip_grad=MAX_GRAD_NORM,
        params_dtype=dtype_of(plan),
        bf16=dtype_of(plan) is torch.bfloat16,
        use_distributed_optimizer=plan.layout.shard_optimizer,
        overlap_param_gather=ddp_config(plan).overlap_param_gather,
    )


def dtype_of(plan: Plan) -> torch.dtype:
    """Return the dtype of weights and activations; matrix products may have fewer bits."""
    return torch.float32 if plan.precision is Precision.FP32 else torch.bfloat16


def _layers(model: ModelConfig) -> dict[str, Any]:
    options: dict[str, Any] = {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "num_attention_heads": model.num_heads,
        "num_query_groups": model.num_kv_heads,
        "kv_channels": model.head_dim,
        "ffn_hidden_size": model.ffn_hidden_size,
        "normalization": "RMSNorm" if model.norm == "rmsnorm" else "LayerNorm",
        "layernorm_epsilon": model.norm_eps,
        "gated_linear_unit": model.activation.is_gated,
        "add_bias_linear": model.mlp_bias,
        "add_qkv_bias": model.qkv_bias,
        # Latent vectors have norms in every model that has latent vectors.
        "qk_layernorm": model.qk_norm == "rms" or model.mla is not None,
        "qk_l2_norm": model.qk_norm == "l2",
        "softmax_scale": model.query_scale,
        "softmax_type": "learnable" if model.attention_sinks else "vanilla",
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
    }
    if model.activation is Activation.CLAMPED_SWIGLU:
        options |= {"glu_linear_offset": 1.0, "activation_func_clamp_value": _CLAMP}
    if model.sliding_window is not None:
        windows = [0 if layer.window is None else 1 for layer in model.layers]
        options |= {"window_size": (model.sliding_window - 1, 0), "window_attn_skip_freq": windows}
    if model.nope_interval:
        options["no_rope_freq"] = [0 if layer.has_rope else 1 for layer in model.layers]
    return options


def _parallelism(plan: Plan) -> dict[str, Any]:
    layout = plan.layout
    is_interleaved = layout.vp > 1
    options: dict[str, Any] = {
        "tensor_model_parallel_size": layout.tp,
        "sequence_parallel": layout.sequence_parallel and layout.tp > 1,
        "pipeline_model_parallel_size": layout.pp,
        "virtual_pipeline_model_parallel_size": layout.vp if is_interleaved else None,
        "pipeline_dtype": dtype_of(plan),
        "deallocate_pipeline_outputs": layout.pp > 1,
        # As Megatron-LM: the interleaved schedule overlaps its messages, the other one sends them in pairs. Gloo can do
        # neither: it has no order of messages that are under way together.
        "overlap_p2p_comm": is_interleaved and plan.device == "cuda",
        "batch_p2p_comm": plan.device == "cuda" and not is_interleaved,
        "context_parallel_size": layout.cp,
        "cp_comm_type": layout.cp_comm,
        "expert_model_parallel_size": layout.ep,
        "expert_tensor_parallel_size": layout.etp,
    }
    if plan.model.num_layers % (layout.pp * layout.vp):
        options["pipeline_model_parallel_layout"] = _uneven_stages(plan)
    return options


def _uneven_stages(plan: Plan) -> list[list[str]]:
    """Return the parts of each piece of the model, in the order of the forward pass."""
    stages = stage_layers(plan.model, pp=plan.layout.pp, vp=plan.layout.vp)
    pieces = []
    for chunk in range(plan.layout.vp):
        for rank in range(plan.layout.pp):
            pieces.append(["decoder"] * len(stages[rank][chunk]))
    pieces[0].insert(0, "embedding")
    pieces[-1].append("loss")
    return pieces


def _kernels(plan: Plan, *, has_te: bool) -> dict[str, Any]:
    """Return number formats and fusions: on GPUs Megatron-LM's defaults, as far as their kernels are installed."""
    model = plan.model
    is_cuda = plan.device == "cuda"
    is_fused = is_cuda and _has_fused_activation(model)
    return {
        "params_dtype": dtype_of(plan),
        "bf16": dtype_of(plan) is torch.bfloat16,
        "use_cpu_initialization": not is_cuda,
        "transformer_impl": "transformer_engine" if has_te else "local",
        "activation_func": _activation(model.activation, is_fused=is_fused),
        "bias_activation_fusion": is_fused,
        # transformer-engine's experts add their biases themselves.
        "bias_dropout_fusion": is_cuda and not (model.mlp_bias and model.moe is not None),
        "apply_rope_fusion": is_cuda and has_te and model.mla is None,
        "gradient_accumulation_fusion": is_cuda and _has_kernel("fused_weight_gradient_mlp_cuda"),
        "masked_softmax_fusion": is_cuda and _has_kernel("scaled_upper_triang_masked_softmax_cuda"),
    }


def _has_fused_activation(model: ModelConfig) -> bool:
    """Return whether Megatron-Core has kernels of the activation with its bias for every layer: it refuses others."""
    has_experts = model.moe is not None
    match model.activation:
        case Activation.SWIGLU:
            return True
        case Activation.GEGLU:
            return not has_experts
        case Activation.GELU:
            return not has_experts and model.mlp_bias
        case Activation.CLAMPED_SWIGLU:
            has_dense = any(layer.feed_forward is FeedForward.DENSE for layer in model.layers)
            return model.moe is not None and not has_dense and not model.moe.shared_ffn_hidden_size
        case Activation.SQUARED_RELU:
            return False


def _has_kernel(module: str) -> bool:
    """Return whether a module of Apex is installed."""
    return importlib.util.find_spec(module) is not None


def _activation(activation: Activation, *, is_fused: bool) -> Any:
    match activation:
        case Activation.SWIGLU:
            return F.silu
        case Activation.CLAMPED_SWIGLU:
            return quick_gelu
        case Activation.GELU | Activation.GEGLU:
            # The fused kernels have the tanh approximation, and are chosen by torch's function.
            return F.gelu if is_fused else _tanh_gelu
        case Activation.SQUARED_RELU:
            return squared_relu


def _tanh_gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _experts(model: ModelConfig, moe: MoE, *, is_balanced: bool, has_te: bool) -> dict[str, Any]:
    options: dict[str, Any] = {
        "num_moe_experts": moe.num_experts,
        "moe_ffn_hidden_size": moe.ffn_hidden_size,
        "moe_shared_expert_intermediate_size": moe.shared_ffn_hidden_size or None,
        "moe_shared_expert_gate": moe.shared_gate,
        "moe_layer_freq": [1 if layer.feed_forward is FeedForward.MOE else 0 for layer in model.layers],
        "moe_router_topk": moe.topk,
        "moe_router_score_function": moe.router,
        # A softmax over the chosen scores is the normalised softmax over all.
        "moe_router_pre_softmax": moe.router == "softmax" and not moe.is_normalized,
        "moe_router_dtype": "fp32",
        "moe_router_load_balancing_type": "none",
        "moe_router_force_load_balancing": is_balanced,
        "moe_router_enable_expert_bias": moe.has_score_correction,
        "moe_router_bias_update_rate": 0.0,  # the native engine's corrections stay zero
        "moe_apply_probs_on_input": moe.scales_input,
        "moe_token_dispatcher_type": "alltoall",
        "moe_grouped_gemm": has_te,
    }
    if moe.scaling_factor != 1:
        options["moe_router_topk_scaling_factor"] = moe.scaling_factor
    if moe.num_groups > 1:
        options |= {"moe_router_num_groups": moe.num_groups, "moe_router_group_topk": moe.topk_groups}
    return options


def _latents(model: ModelConfig) -> dict[str, Any]:
    mla = model.mla
    assert mla is not None  # noqa: S101 (the caller checked it)
    options: dict[str, Any] = {
        "q_lora_rank": mla.q_lora_rank,
        "kv_lora_rank": mla.kv_lora_rank,
        "qk_head_dim": mla.qk_nope_head_dim,
        "qk_pos_emb_head_dim": mla.qk_rope_head_dim,
        "v_head_dim": mla.v_head_dim,
        "rope_type": "rope",
        "rotary_base": model.rope_theta,
        "rotary_scaling_factor": 1.0,
    }
    scaling = model.rope_scaling
    if scaling is not None:
        options |= {
            "rope_type": "yarn",
            "rotary_scaling_factor": scaling.factor,
            "original_max_position_embeddings": scaling.original_context,
            "beta_fast": scaling.high_freq,
            "beta_slow": scaling.low_freq,
            # Cosines and sines are scaled by the quotient of the two, which is 1 if they are equal.
            "mscale": scaling.softmax_mscale if scaling.attention_factor == 1 else 1.0,
            "mscale_all_dim": scaling.softmax_mscale,
        }
    return options


def _yarn(model: ModelConfig) -> dict[str, Any]:
    scaling = model.rope_scaling
    if scaling is None or scaling.kind != "yarn":
        return {}
    return {
        "yarn_rotary_scaling_factor": scaling.factor,
        "yarn_original_max_position_embeddings": scaling.original_context,
        "yarn_beta_fast": scaling.high_freq,
        "yarn_beta_slow": scaling.low_freq,
        "yarn_mscale": scaling.softmax_mscale if scaling.attention_factor == 1 else 1.0,
        "yarn_mscale_all_dim": scaling.softmax_mscale,
        "yarn_correction_range_round_to_int": scaling.truncates,
    }
