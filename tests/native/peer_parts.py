"""Common parts of transformers' families: names of weights, sizes, rotary positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import RopeScaling

Weights = Mapping[str, Tensor]
Pairs = Iterator[tuple[str, Tensor]]


def interleaved(rows: Tensor) -> Tensor:
    """Return the rows of pairs (r, r + R) as (2r, 2r + 1), in dimension -2."""
    first, second = rows.chunk(2, dim=-2)
    return torch.stack([first, second], dim=-2).flatten(-3, -2)


def sizes(model: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_dim,
        "max_position_embeddings": max_positions(model.rope_scaling),
        "rms_norm_eps": model.norm_eps,
        "tie_word_embeddings": model.tied_embeddings,
        "rope_parameters": rope(model.rope_theta, model.rope_scaling),
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def max_positions(scaling: RopeScaling | None) -> int:
    return 256 if scaling is None else max(256, round(scaling.original_context * scaling.factor))


def rope(theta: float, scaling: RopeScaling | None) -> dict[str, Any]:
    if scaling is None:
        return {"rope_type": "default", "rope_theta": theta}
    values: dict[str, Any] = {"rope_type": scaling.kind, "rope_theta": theta, "factor": float(scaling.factor)}
    if scaling.kind == "llama3":
        values |= {"low_freq_factor": scaling.low_freq, "high_freq_factor": scaling.high_freq}
    if scaling.kind == "yarn":
        values |= {"beta_slow": scaling.low_freq, "beta_fast": scaling.high_freq, "truncate": scaling.truncates}
        if scaling.attention_factor is not None:
            values["attention_factor"] = scaling.attention_factor
        if scaling.softmax_mscale:
            values |= {"mscale": scaling.softmax_mscale, "mscale_all_dim": scaling.softmax_mscale}
    if scaling.original_context:
        values["original_max_position_embeddings"] = scaling.original_context
    return values


def layer_types(model: ModelConfig, windowed: str) -> list[str]:
    return ["full_attention" if layer.window is None else windowed for layer in model.layers]


def ends(model: ModelConfig, ours: Weights) -> Pairs:
    yield "model.embed_tokens.weight", ours["embedding.weight"]
    yield "model.norm.weight", ours["norm.weight"]
    yield "lm_head.weight", ours["embedding.weight" if model.tied_embeddings else "head.weight"]


def qkv(model: ModelConfig, rows: Tensor) -> Sequence[Tensor]:
    heads = (model.num_heads, model.num_kv_heads, model.num_kv_heads)
    return torch.split(rows, [number * model.head_dim for number in heads])


def attention(model: ModelConfig, ours: Weights, *, prefix: str, is_interleaved: bool = False) -> Pairs:
    for kind in ("weight", "bias"):
        if f"attention.qkv.{kind}" in ours:
            for name, rows in zip("qkv", qkv(model, ours[f"attention.qkv.{kind}"]), strict=True):
                if is_interleaved and name in "qk":
                    rows = interleaved(torch.unflatten(rows, 0, (-1, model.head_dim))).flatten(0, 1)  # noqa: PLW2901 (the same rows in their order)
                yield f"{prefix}{name}_proj.{kind}", rows
        if f"attention.out.{kind}" in ours:
            yield f"{prefix}o_proj.{kind}", ours[f"attention.out.{kind}"]


def mlp(ours: Weights, *, ours_prefix: str, prefix: str) -> Pairs:
    if f"{ours_prefix}gate_up.weight" in ours:
        gate, up = ours[f"{ours_prefix}gate_up.weight"].chunk(2)
        yield f"{prefix}gate_proj.weight", gate
        yield f"{prefix}up_proj.weight", up
    else:
        yield f"{prefix}up_proj.weight", ours[f"{ours_prefix}up.weight"]
    yield f"{prefix}down_proj.weight", ours[f"{ours_prefix}down.weight"]


def blocks(model: ModelConfig, ours: Weights) -> Iterator[tuple[str, Weights]]:
    """Yield their prefix and our weights of each layer."""
    for index in range(model.num_layers):
        prefix = f"blocks.{index}."
        yield f"model.layers.{index}.", {k.removeprefix(prefix): v for k, v in ours.items() if k.startswith(prefix)}


def pre_norms(block: Weights, prefix: str) -> Pairs:
    yield f"{prefix}input_layernorm.weight", block["attention_norm.weight"]
    yield f"{prefix}post_attention_layernorm.weight", block["mlp_norm.weight"]


def fused_experts(block: Weights, prefix: str) -> Pairs:
    yield f"{prefix}gate_up_proj", block["moe.experts.gate_up.weight"]
    yield f"{prefix}down_proj", block["moe.experts.down.weight"]


def llama(model: ModelConfig, ours: Weights) -> Pairs:
    """Llama, Qwen2, Qwen3 and Mixtral, with their differences."""
    yield from ends(model, ours)
    for prefix, block in blocks(model, ours):
        yield from pre_norms(block, prefix)
        yield from attention(model, block, prefix=f"{prefix}self_attn.")
        for name in ("q_norm", "k_norm"):
            if f"attention.{name}.weight" in block:
                yield f"{prefix}self_attn.{name}.weight", block[f"attention.{name}.weight"]
        if "moe.router.weight" in block:
            yield f"{prefix}mlp.gate.weight", block["moe.router.weight"]
            yield from fused_experts(block, f"{prefix}mlp.experts.")
        else:
            yield from mlp(block, ours_prefix="mlp.", prefix=f"{prefix}mlp.")
