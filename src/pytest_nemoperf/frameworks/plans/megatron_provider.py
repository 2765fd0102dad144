"""An architecture as attributes of Megatron-Bridge's GPTModelProvider, for its recipe that sets none of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import Activation, MoE

_ACTIVATIONS: Final[Mapping[Activation, str]] = MappingProxyType(
    {
        Activation.SWIGLU: "silu",
        Activation.GEGLU: "fast_gelu",
        Activation.GELU: "fast_gelu",
        Activation.SQUARED_RELU: "squared_relu",
    }
)
"""Names of megatron/bridge/utils/activation_map.py; ``gelu`` there is the exact one, ours is its approximation."""
_LINEAR_BIASES: Final = (
    {"model.add_bias_linear": False, "model.add_qkv_bias": False},
    {"model.add_bias_linear": False, "model.add_qkv_bias": True},
    {"model.add_bias_linear": True, "model.add_qkv_bias": True},
)
"""No biases, those of queries, keys and values alone, and all of them: Megatron has no other choice."""
_BIASES: Final = ((False, False, False), (True, False, False), (True, True, True))
_UNSPOKEN: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "mla": None,
        "compressed_attention": None,
        "hyper_connections": None,
        "hybrid_pattern": "",
        "gated_delta_net": None,
        "sliding_window": None,
        "full_attention_interval": 0,
        "nope_interval": 0,
        "has_post_norms": False,
        "attention_gate": False,
        "attention_sinks": False,
        "attention_softcap": None,
        "final_softcap": None,
        "logit_scale": 1.0,
        "embedding_scale": 1.0,
        "query_scale": None,
        "query_temperature": None,
        "rope_local_theta": None,
        "has_value_head": False,
    }
)
"""Parts of an architecture that no attribute of the provider describes, each with its value where there is none."""
_UNSPOKEN_EXPERTS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "num_groups": 1,
        "scales_input": False,
        "router_bias": False,
        "shared_gate": False,
        "latent_size": None,
        "num_hash_layers": 0,
        "activation_limit": None,
    }
)
_WORDS: Final = "its recipe for other models knows"
_LLAMA3_CONTEXT: Final = 8192
"""Positions that Megatron-Core's scaling of rotary frequencies starts from."""


def provider_problem(model: ModelConfig) -> str:
    """Return the part of an architecture that a GPTModelProvider can't be told; empty if there is none."""
    return next(_problems(model), "")


def provider_values(model: ModelConfig) -> dict[str, Any]:
    """Return the attributes of an architecture without a provider_problem, by dotted name."""
    values: dict[str, Any] = {
        "model.num_layers": model.num_layers,
        "model.hidden_size": model.hidden_size,
        "model.ffn_hidden_size": model.ffn_hidden_size,
        "model.num_attention_heads": model.num_heads,
        "model.num_query_groups": model.num_kv_heads,
        "model.kv_channels": model.head_dim,
        "model.normalization": "RMSNorm" if model.norm == "rmsnorm" else "LayerNorm",
        "model.layernorm_epsilon": model.norm_eps,
        "model.activation_func": _ACTIVATIONS[model.activation],
        "model.gated_linear_unit": model.activation.is_gated,
        "model.qk_layernorm": model.qk_norm == "rms",
        "model.share_embeddings_and_output_weights": model.tied_embeddings,
        "model.hidden_dropout": 0.0,
        "model.attention_dropout": 0.0,
        **_LINEAR_BIASES[_BIASES.index(_biases(model))],
        **_positions(model),
    }
    if model.moe is not None:
        values |= _experts(model, moe=model.moe)
    return values


def _problems(model: ModelConfig) -> Iterator[str]:
    for name, neutral in _UNSPOKEN.items():
        value = getattr(model, name)
        if value != neutral:
            yield f"{_WORDS} no {name}={_short(value)}"
    if model.activation not in _ACTIVATIONS:
        yield f"{_WORDS} no activation={model.activation}"
    if model.qk_norm == "l2":
        yield f"{_WORDS} no qk_norm={model.qk_norm}"
    if _biases(model) not in _BIASES:
        yield f"{_WORDS} no biases of some linear layers alone but those of queries, keys and values"
    scaling = model.rope_scaling
    if scaling is not None and (scaling.kind, scaling.original_context) != ("llama3", _LLAMA3_CONTEXT):
        yield f"{_WORDS} no rope_scaling of kind {scaling.kind} from {scaling.original_context} positions"
    if model.moe is None:
        return
    for name, neutral in _UNSPOKEN_EXPERTS.items():
        value = getattr(model.moe, name)
        if value != neutral:
            yield f"{_WORDS} no moe.{name}={_short(value)}"
    if model.moe.router == "sqrtsoftplus":
        yield f"{_WORDS} no moe.router={model.moe.router}"
    if model.moe.router == "sigmoid" and not model.moe.is_normalized:
        yield f"{_WORDS} no sigmoid router without normalized probabilities"


def _short(value: Any) -> str:
    return str(value) if isinstance(value, (str, int, float, bool)) else type(value).__name__


def _biases(model: ModelConfig) -> tuple[bool, bool, bool]:
    return model.qkv_bias, model.out_bias, model.mlp_bias


def _positions(model: ModelConfig) -> dict[str, Any]:
    if model.max_positions is not None:
        return {"model.position_embedding_type": "learned_absolute"}
    positions: dict[str, Any] = {
        "model.position_embedding_type": "rope",
        "model.rotary_base": int(model.rope_theta),
        "model.rotary_percent": (model.rope_dim or model.head_dim) / model.head_dim,
        "model.rope_scaling": model.rope_scaling is not None,
    }
    if model.rope_scaling is not None:
        positions["model.rope_scaling_factor"] = model.rope_scaling.factor
    return positions


def _experts(model: ModelConfig, *, moe: MoE) -> dict[str, Any]:
    pattern = [int(layer.feed_forward == "moe") for layer in model.layers]
    return {
        "model.num_moe_experts": moe.num_experts,
        "model.moe_router_topk": moe.topk,
        "model.moe_ffn_hidden_size": moe.ffn_hidden_size,
        "model.moe_shared_expert_intermediate_size": moe.shared_ffn_hidden_size or None,
        "model.moe_layer_freq": 1 if all(pattern) else pattern,
        "model.moe_router_score_function": moe.router,
        "model.moe_router_pre_softmax": moe.router == "softmax" and not moe.is_normalized,
        "model.moe_router_topk_scaling_factor": moe.scaling_factor if moe.scaling_factor != 1.0 else None,
        "model.moe_router_enable_expert_bias": moe.has_score_correction,
        "model.moe_router_load_balancing_type": "none",
        "model.moe_grouped_gemm": True,
        "model.moe_token_dispatcher_type": "alltoall",
    }
