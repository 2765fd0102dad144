"""The Hugging Face config of an architecture, for engines that read no other: the way back from ``huggingface``."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from pytest_nemoperf.architecture import ModelConfig
from pytest_nemoperf.components import RopeScaling
from pytest_nemoperf.errors import PlanError

# What says how large a model is, not how it is built.
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
    """How a kind of dense decoder is called.

    Attributes:
        model_type: Of its config.
        model_class: Of its model with the head.
        parts: Fields of ModelConfig that differ from their defaults; a window has any length.
        keys: Of its config, that say so.
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
)


def unexportable_model(model: ModelConfig) -> str | None:
    """Return why there is no config for an architecture, or None if there is one."""
    scaling = model.rope_scaling
    if scaling is not None and scaling.kind not in _ROPE_SCALINGS:
        return f"rope_scaling.kind={scaling.kind!r} is none of {', '.join(_ROPE_SCALINGS)}"
    if _find_family(model) is None:
        named = ", ".join(f"{name}={value!r}" for name, value in _parts(model).items())
        families = ", ".join(dict.fromkeys(family.model_type for family in _FAMILIES))
        return f"its {named} is not what a dense model of {families} has"
    return None


def huggingface_config(model: ModelConfig, *, max_positions: int) -> dict[str, Any]:
    """Return the values of ``config.json`` in transformers' words (5.0 and later).

    Args:
        model: Architecture.
        max_positions: Tokens of the longest sequence.

    Raises:
        PlanError: If the architecture is none of those that can be said so.
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
    }


def _parts(model: ModelConfig) -> dict[str, Any]:
    """Return the fields that say how a model is built, where they differ from a plain decoder's."""
    values = {item.name: (getattr(model, item.name), item.default) for item in fields(model)}
    return {name: value for name, (value, default) in values.items() if name not in _SIZES and value != default}


def _find_family(model: ModelConfig) -> _Family | None:
    parts = _parts(model)
    if "sliding_window" in parts:
        parts["sliding_window"] = None
    return next((family for family in _FAMILIES if family.parts == parts), None)


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
