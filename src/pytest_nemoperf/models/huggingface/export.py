"""Hugging Face config of an architecture, for engines that read no other format: the inverse of ``read``."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import MoE, RopeScaling
from pytest_nemoperf.models.trainable import deepseek_v4_parts

# Sizes; the other fields of ModelConfig decide the family.
_SIZES = frozenset(
    {
        "name",
        "hidden_size",
        "num_layers",
        "num_heads",
        "num_kv_heads",
        "head_dim",
        "ffn_hidden_size",
        "vocab_size",
        "tied_embeddings",
        "norm_eps",
        "rope_theta",
        "rope_scaling",
    }
)
_ROPE_SCALINGS = ("linear", "llama3")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """A kind of decoder.

    Attributes:
        model_type: Value of that key in its config.
        model_class: transformers' class of the model with its head.
        parts: Fields of ModelConfig that differ from their defaults; None for a window of any length, and for a
            mixture of experts that is plain.
        keys: Keys of its config for these parts.
    """

    model_type: str
    model_class: str
    parts: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)


_FAMILIES = (
    _Family(model_type="llama", model_class="LlamaForCausalLM"),
    _Family(
        model_type="llama",
        model_class="LlamaForCausalLM",
        parts={"qkv_bias": True, "out_bias": True},
        keys={"attention_bias": True},
    ),
    _Family(model_type="mistral", model_class="MistralForCausalLM", parts={"sliding_window": None}),
    _Family(model_type="qwen2", model_class="Qwen2ForCausalLM", parts={"qkv_bias": True}),
    _Family(model_type="qwen3", model_class="Qwen3ForCausalLM", parts={"qk_norm": "rms"}),
    _Family(
        model_type="qwen3_moe",
        model_class="Qwen3MoeForCausalLM",
        parts={"qk_norm": "rms", "moe": None},
        keys={
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "output_router_logits": False,
            "router_aux_loss_coef": 0.0,  # no loss but that of the next tokens
        },
    ),
)


def unexportable_model(model: ModelConfig) -> str | None:
    """Return why an architecture has no config, or None if it has one."""
    for part in deepseek_v4_parts(model):
        return f"it has {part}, which no class here has"
    scaling = model.rope_scaling
    if scaling is not None and scaling.kind not in _ROPE_SCALINGS:
        return f"rope_scaling.kind={scaling.kind!r} is none of {', '.join(_ROPE_SCALINGS)}"
    if _find_family(model) is None:
        parts = []
        for name, value in _parts(model).items():
            parts.append(f"{name}={value!r}")
        families = dict.fromkeys([family.model_type for family in _FAMILIES])
        return f"its {', '.join(parts)} is not what a model of {', '.join(families)} has"
    return None


def huggingface_config(model: ModelConfig, *, max_positions: int) -> dict[str, Any]:
    """Return the content of ``config.json``, as transformers 5.0 and later read it.

    Args:
        model: Architecture.
        max_positions: Tokens of the longest sequence.

    Raises:
        PlanError: If the architecture has no such config.
    """
    family = _find_family(model)
    problem = unexportable_model(model)
    if family is None or problem is not None:
        raise PlanError(f"{model.name} has no Hugging Face config: {problem}")
    return {
        "architectures": [family.model_class],
        "model_type": family.model_type,
        **family.keys,
        "sliding_window": model.sliding_window,
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_dim,
        "max_position_embeddings": max_positions,
        "rms_norm_eps": model.norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": model.tied_embeddings,
        "rope_parameters": _rope_parameters(model.rope_theta, scaling=model.rope_scaling),
        "bos_token_id": None,
        "eos_token_id": None,
        **_expert_keys(model.moe),
    }


def _expert_keys(moe: MoE | None) -> dict[str, Any]:
    if moe is None:
        return {}
    return {
        "num_experts": moe.num_experts,
        "num_experts_per_tok": moe.topk,
        "moe_intermediate_size": moe.ffn_hidden_size,
        "norm_topk_prob": moe.is_normalized,
    }


def _parts(model: ModelConfig) -> dict[str, Any]:
    """Return the fields other than sizes that differ from their defaults."""
    parts = {}
    for item in fields(model):
        value = getattr(model, item.name)
        if item.name not in _SIZES and value != item.default:
            parts[item.name] = value
    return parts


def _find_family(model: ModelConfig) -> _Family | None:
    parts = _parts(model)
    if "sliding_window" in parts:
        parts["sliding_window"] = None
    moe = model.moe
    if moe is not None and moe == MoE(
        num_experts=moe.num_experts, topk=moe.topk, ffn_hidden_size=moe.ffn_hidden_size, is_normalized=moe.is_normalized
    ):
        parts["moe"] = None
    for family in _FAMILIES:
        if family.parts == parts:
            return family
    return None


def _rope_parameters(theta: float, *, scaling: RopeScaling | None) -> dict[str, Any]:
    if scaling is None:
        return {"rope_type": "default", "rope_theta": theta}
    values = {"rope_type": scaling.kind, "rope_theta": theta, "factor": float(scaling.factor)}
    if scaling.kind == "llama3":
        values |= {
            "original_max_position_embeddings": scaling.original_context,
            "low_freq_factor": scaling.low_freq,
            "high_freq_factor": scaling.high_freq,
        }
    return values
