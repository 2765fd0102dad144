"""The native engine's weights under Hugging Face names, for engines that load only those."""

# H query heads, K key-value heads, C width of a head, D hidden, F width of the MLP, V vocabulary

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from pytest_nemoperf.models.architecture import ModelConfig

_LAYER_NAMES = {
    "attention_norm.weight": "input_layernorm.weight",
    "mlp_norm.weight": "post_attention_layernorm.weight",
    "attention.q_norm.weight": "self_attn.q_norm.weight",
    "attention.k_norm.weight": "self_attn.k_norm.weight",
    "attention.out.weight": "self_attn.o_proj.weight",
    "attention.out.bias": "self_attn.o_proj.bias",
    "mlp.down.weight": "mlp.down_proj.weight",
}
_END_NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_GATE_UP = ("mlp.gate_proj", "mlp.up_proj")


def huggingface_weights(model: ModelConfig, *, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield views of the weights under Hugging Face names: fused ones in parts, a tied one under both names.

    Args:
        model: One that ``huggingface_export`` has a config for.
        weights: All of its weights, by the native engine's names.
    """
    for name, weight in weights.items():
        if name in _END_NAMES:
            yield _END_NAMES[name], weight
            if name == "embedding.weight" and model.tied_embeddings:
                yield _END_NAMES["head.weight"], weight
            continue
        _, layer, layer_name = name.split(".", maxsplit=2)  # blocks.<number>.<name in the layer>
        for exported_name, part in _layer_weights(model, name=layer_name, weight=weight):
            yield f"model.layers.{layer}.{exported_name}", part


def _layer_weights(model: ModelConfig, *, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    if name in _LAYER_NAMES:
        yield _LAYER_NAMES[name], weight
        return
    module, _, kind = name.rpartition(".")
    if module == "attention.qkv":  # rows H*C, K*C, K*C of D columns
        q_rows = model.num_heads * model.head_dim
        kv_rows = model.num_kv_heads * model.head_dim
        parts = zip(_QKV, torch.split(weight, [q_rows, kv_rows, kv_rows]), strict=True)
    else:
        assert module == "mlp.gate_up"  # noqa: S101 (nothing else is left); rows F, F of D columns
        parts = zip(_GATE_UP, weight.chunk(2), strict=True)
    for exported_module, part in parts:
        yield f"{exported_module}.{kind}", part
