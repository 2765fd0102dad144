"""Scaled-down twins: the same structure in a size that a CPU trains in milliseconds.

Widths shrink in proportion, heads and experts become few, and enough layers stay to show every kind the full model
has. Activation, norms, biases, positions, windows, soft caps, sinks, router, latent vectors and multi-token
prediction are the full model's.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import MLA, CompressedAttention, GatedDeltaNet, Mamba, MoE

TWIN_SUFFIX = "-twin"

_HEAD_DIMS = (8, 16)
_HIDDEN_SIZE = 64  # at least; a multiple of the heads too
_ALIGNMENT = 16  # elements: two tp ranks' parts of a row are still whole vectors of 16 bytes in bf16
_VOCAB_SIZE = 256
_LAYERS = 4  # at least: two pipeline ranks of two chunks
_WINDOW = 8
_POSITIONS_PER_STEP = 4.0
_MAX_POSITIONS = 128
_TOPK = 2
_EXPERTS = 8
_GROUPS = 4


def twin_of(model: ModelConfig) -> ModelConfig:
    """Return the scaled-down twin of an architecture, named ``<name>-twin``.

    Query heads are divisible by 4 and key-value heads by 2 wherever the full model has more than one of them.

    Args:
        model: A full architecture.
    """
    num_kv_heads = _num_kv_heads(model)
    num_heads = num_kv_heads * (model.num_heads // model.num_kv_heads)
    multiple = math.lcm(num_heads, _ALIGNMENT)
    hidden_size = math.ceil(_HIDDEN_SIZE / multiple) * multiple
    width_ratio = hidden_size / model.hidden_size
    head_dim = _head_dim(model, num_heads=num_heads, hidden_size=hidden_size)
    head_dim_ratio = head_dim / model.head_dim
    twin = replace(
        model,
        name=model.name + TWIN_SUFFIX,
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        ffn_hidden_size=_width(model.ffn_hidden_size * width_ratio),
        vocab_size=min(model.vocab_size, _VOCAB_SIZE),
        **_optional_parts(model, width_ratio=width_ratio, head_dim_ratio=head_dim_ratio),
    )
    return _with_fewest_layers(twin)


def _optional_parts(model: ModelConfig, *, width_ratio: float, head_dim_ratio: float) -> dict[str, Any]:
    """Return the twin's values of fields that only some models have.

    Args:
        model: The full architecture.
        width_ratio: The twin's hidden_size over the full model's.
        head_dim_ratio: The same of head_dim.
    """
    parts: dict[str, Any] = {}
    if model.rope_dim is not None:
        parts["rope_dim"] = _even(model.rope_dim * head_dim_ratio)
    if model.max_positions is not None:
        parts["max_positions"] = min(model.max_positions, _MAX_POSITIONS)
    if model.embedding_scale != 1:  # follows hidden_size in the families that have it
        parts["embedding_scale"] = model.embedding_scale * math.sqrt(width_ratio)
    if model.query_scale is not None:  # follows head_dim in the families that have it
        parts["query_scale"] = model.query_scale / math.sqrt(head_dim_ratio)
    if model.query_temperature is not None:
        scale, positions_per_step = model.query_temperature
        parts["query_temperature"] = (scale, min(positions_per_step, _POSITIONS_PER_STEP))
    if model.sliding_window is not None:
        parts["sliding_window"] = min(model.sliding_window, _WINDOW)
    if model.moe is not None:
        parts["moe"] = _moe(model.moe, width_ratio=width_ratio)
    if model.mla is not None:
        parts["mla"] = _mla(model.mla, width_ratio=width_ratio, head_dim_ratio=head_dim_ratio)
    if model.compressed_attention is not None:
        parts["compressed_attention"] = _compressed_attention(
            model.compressed_attention, width_ratio=width_ratio, head_dim_ratio=head_dim_ratio
        )
    if model.mamba is not None:
        parts["mamba"] = _mamba(model.mamba)
    if model.gated_delta_net is not None:
        parts["gated_delta_net"] = _gated_delta_net(model.gated_delta_net)
    return parts


def _num_kv_heads(model: ModelConfig) -> int:
    """Return the fewest key-value heads that keep the size of the groups and split over small tp and cp."""
    if model.num_kv_heads == 1:
        return 1
    group_size = model.num_heads // model.num_kv_heads
    return 2 if group_size % 2 == 0 else 4


def _head_dim(model: ModelConfig, *, num_heads: int, hidden_size: int) -> int:
    """Return the head width that keeps (heads x head width) / hidden_size nearest to the full model's."""
    ratio = model.num_heads * model.head_dim / model.hidden_size
    return min(_HEAD_DIMS, key=lambda head_dim: abs(num_heads * head_dim - ratio * hidden_size))


def _with_fewest_layers(twin: ModelConfig) -> ModelConfig:
    """Return the twin with the fewest layers, an even number, that still has every kind of layer."""
    layers = twin.layers
    last_first = max(layers.index(kind) for kind in twin.layer_counts)
    num_layers = max(_LAYERS, last_first + 1 + (last_first + 1) % 2)
    if num_layers >= twin.num_layers:
        return twin
    attention = twin.compressed_attention
    if attention is not None:
        attention = replace(attention, ratios=attention.ratios[:num_layers])
    return replace(
        twin,
        num_layers=num_layers,
        hybrid_pattern=twin.hybrid_pattern[:num_layers],
        compressed_attention=attention,
    )


def _moe(moe: MoE, *, width_ratio: float) -> MoE:
    width = _width(moe.ffn_hidden_size * width_ratio)
    num_groups = topk_groups = 1
    if moe.num_groups > 1:
        num_groups = _GROUPS
        topk_groups = min(moe.topk_groups, _GROUPS // 2)
    return replace(
        moe,
        num_experts=min(moe.num_experts, _EXPERTS),
        topk=min(moe.topk, _TOPK),
        ffn_hidden_size=width,
        shared_ffn_hidden_size=round(moe.shared_ffn_hidden_size / moe.ffn_hidden_size * width),
        num_dense_layers=min(moe.num_dense_layers, 1),
        num_hash_layers=min(moe.num_hash_layers, 1),
        num_groups=num_groups,
        topk_groups=topk_groups,
        latent_size=None if moe.latent_size is None else _width(moe.latent_size * width_ratio),
    )


def _mla(mla: MLA, *, width_ratio: float, head_dim_ratio: float) -> MLA:
    return MLA(
        q_lora_rank=None if mla.q_lora_rank is None else _width(mla.q_lora_rank * width_ratio),
        kv_lora_rank=_width(mla.kv_lora_rank * width_ratio),
        qk_nope_head_dim=_even(mla.qk_nope_head_dim * head_dim_ratio),
        qk_rope_head_dim=_even(mla.qk_rope_head_dim * head_dim_ratio),
        v_head_dim=_even(mla.v_head_dim * head_dim_ratio),
    )


def _compressed_attention(
    attention: CompressedAttention, *, width_ratio: float, head_dim_ratio: float
) -> CompressedAttention:
    return replace(
        attention,
        q_lora_rank=_width(attention.q_lora_rank * width_ratio),
        rope_head_dim=_even(attention.rope_head_dim * head_dim_ratio),
        o_lora_rank=_ALIGNMENT,
        index_num_heads=min(attention.index_num_heads, 4),
        index_head_dim=_HEAD_DIMS[0],
        index_topk=_TOPK,
    )


def _mamba(mamba: Mamba) -> Mamba:
    return replace(
        mamba, num_heads=8, head_dim=_HEAD_DIMS[0], state_dim=_ALIGNMENT, num_groups=min(mamba.num_groups, 2)
    )


def _gated_delta_net(net: GatedDeltaNet) -> GatedDeltaNet:
    return replace(
        net,
        num_key_heads=2,
        key_head_dim=_HEAD_DIMS[0],
        num_value_heads=2 * (net.num_value_heads // net.num_key_heads),
        value_head_dim=_HEAD_DIMS[0],
    )


def _width(size: float) -> int:
    return max(_ALIGNMENT, round(size / _ALIGNMENT) * _ALIGNMENT)


def _even(size: float) -> int:
    return max(2, round(size / 2) * 2)
