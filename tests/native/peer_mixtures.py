"""Mixtures of experts, and families with latent or gated attention, in transformers' names."""

from __future__ import annotations

from typing import Any

import torch

from pytest_nemoperf.models.architecture import ModelConfig
from tests.native.peer_parts import (
    Pairs,
    Weights,
    attention,
    blocks,
    ends,
    fused_experts,
    interleaved,
    layer_types,
    mlp,
    pre_norms,
    sizes,
)


def llama4(model: ModelConfig, ours: Weights) -> Pairs:
    yield from ends(model, ours)
    for prefix, block in blocks(model, ours):
        yield from pre_norms(block, prefix)
        yield from attention(model, block, prefix=f"{prefix}self_attn.", is_interleaved=True)
        ffn = f"{prefix}feed_forward."
        if "moe.router.weight" in block:
            yield f"{ffn}router.weight", block["moe.router.weight"]
            for name, weight in fused_experts(block, f"{ffn}experts."):
                yield name, weight.transpose(1, 2)
            yield from mlp(block, ours_prefix="moe.shared.", prefix=f"{ffn}shared_expert.")
        else:
            yield from mlp(block, ours_prefix="mlp.", prefix=ffn)


def llama4_config(model: ModelConfig) -> dict[str, Any]:
    assert model.moe is not None
    scale, positions_per_step = model.query_temperature or (0.1, 8192.0)
    return sizes(model) | {
        "intermediate_size": model.moe.ffn_hidden_size,
        "intermediate_size_mlp": model.ffn_hidden_size,
        "num_local_experts": model.moe.num_experts,
        "num_experts_per_tok": model.moe.topk,
        "interleave_moe_layer_step": model.moe.layer_interval,
        "use_qk_norm": model.qk_norm == "l2",
        "attn_temperature_tuning": model.query_temperature is not None,
        "attn_scale": scale,
        "floor_scale": int(positions_per_step),
        "attention_chunk_size": model.sliding_window,
        "no_rope_layers": [int(layer.has_rope) for layer in model.layers],
        "layer_types": layer_types(model, "chunked_attention"),
    }


def moe_config(model: ModelConfig) -> dict[str, Any]:
    assert model.moe is not None
    return sizes(model) | {
        "moe_intermediate_size": model.moe.ffn_hidden_size,
        "num_experts": model.moe.num_experts,
        "num_experts_per_tok": model.moe.topk,
        "norm_topk_prob": model.moe.is_normalized,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def mixtral_config(model: ModelConfig) -> dict[str, Any]:
    assert model.moe is not None
    return sizes(model) | {
        "intermediate_size": model.moe.ffn_hidden_size,
        "num_local_experts": model.moe.num_experts,
        "num_experts_per_tok": model.moe.topk,
        "sliding_window": None,
    }


def gpt_oss(model: ModelConfig, ours: Weights) -> Pairs:
    yield from ends(model, ours)
    for prefix, block in blocks(model, ours):
        yield from pre_norms(block, prefix)
        yield from attention(model, block, prefix=f"{prefix}self_attn.")
        yield f"{prefix}self_attn.sinks", block["attention.sinks"]
        for kind in ("weight", "bias"):
            yield f"{prefix}mlp.router.{kind}", block[f"moe.router.{kind}"]
        experts = f"{prefix}mlp.experts."
        yield f"{experts}gate_up_proj", interleaved(block["moe.experts.gate_up.weight"]).transpose(1, 2)
        yield f"{experts}gate_up_proj_bias", interleaved(block["moe.experts.gate_up.bias"][:, :, None])[:, :, 0]
        yield f"{experts}down_proj", block["moe.experts.down.weight"].transpose(1, 2)
        yield f"{experts}down_proj_bias", block["moe.experts.down.bias"]


def gpt_oss_config(model: ModelConfig) -> dict[str, Any]:
    return mixtral_config(model) | {
        "attention_bias": True,
        "sliding_window": model.sliding_window,
        "layer_types": layer_types(model, "sliding_attention"),
    }


def deepseek(model: ModelConfig, ours: Weights) -> Pairs:
    """DeepSeek-V2 and V3; V2's classes rotate neighbouring columns, V3's are told not to."""
    assert model.mla is not None
    yield from ends(model, ours)
    is_interleaved = model.moe is not None and model.moe.router == "softmax"
    for prefix, block in blocks(model, ours):
        yield from pre_norms(block, prefix)
        yield from deepseek_block(model, block, prefix, is_interleaved=is_interleaved)


def deepseek_block(model: ModelConfig, block: Weights, prefix: str, *, is_interleaved: bool) -> Pairs:
    mla = model.mla
    assert mla is not None
    names = {"q_down": "q_a_proj", "q_down_norm": "q_a_layernorm", "kv_down_norm": "kv_a_layernorm"}
    names |= {"q": "q_proj", "q_up": "q_b_proj", "kv_down": "kv_a_proj_with_mqa", "kv_up": "kv_b_proj", "out": "o_proj"}
    for name, theirs in names.items():
        weight = block.get(f"attention.{name}.weight")
        if weight is None:
            continue
        if is_interleaved and name in {"q", "q_up"}:
            heads = torch.unflatten(weight, 0, (model.num_heads, -1))
            nope, turned = torch.split(heads, [mla.qk_nope_head_dim, mla.qk_rope_head_dim], dim=1)
            weight = torch.cat([nope, interleaved(turned)], dim=1).flatten(0, 1)
        if is_interleaved and name == "kv_down":
            latent, turned = torch.split(weight, [mla.kv_lora_rank, mla.qk_rope_head_dim])
            weight = torch.cat([latent, interleaved(turned)])
        yield f"{prefix}self_attn.{theirs}.weight", weight
    if "moe.router.weight" not in block:
        yield from mlp(block, ours_prefix="mlp.", prefix=f"{prefix}mlp.")
        return
    yield f"{prefix}mlp.gate.weight", block["moe.router.weight"]
    if "moe.router.correction" in block:
        yield f"{prefix}mlp.gate.e_score_correction_bias", block["moe.router.correction"]
    yield from fused_experts(block, f"{prefix}mlp.experts.")
    yield from mlp(block, ours_prefix="moe.shared.", prefix=f"{prefix}mlp.shared_experts.")


def deepseek_config(model: ModelConfig) -> dict[str, Any]:
    moe, mla = model.moe, model.mla
    assert moe is not None
    assert mla is not None
    values = sizes(model) | {
        "moe_intermediate_size": moe.ffn_hidden_size,
        "n_routed_experts": moe.num_experts,
        "n_shared_experts": moe.shared_ffn_hidden_size // moe.ffn_hidden_size,
        "num_experts_per_tok": moe.topk,
        "first_k_dense_replace": moe.num_dense_layers,
        "norm_topk_prob": moe.is_normalized,
        "routed_scaling_factor": moe.scaling_factor,
        "n_group": moe.num_groups,
        "topk_group": moe.topk_groups,
        "q_lora_rank": mla.q_lora_rank,
        "kv_lora_rank": mla.kv_lora_rank,
        "qk_nope_head_dim": mla.qk_nope_head_dim,
        "qk_rope_head_dim": mla.qk_rope_head_dim,
        "v_head_dim": mla.v_head_dim,
    }
    del values["head_dim"]
    if moe.router == "softmax":
        return values | {"topk_method": "group_limited_greedy" if moe.num_groups > 1 else "greedy"}
    return values | {"rope_interleave": False, "num_mtp_layers": model.mtp_num_layers}


def qwen3_next(model: ModelConfig, ours: Weights) -> Pairs:
    """Qwen3-Next with attention in every layer; norms have a weight that one is added to."""
    yield from (pair for pair in ends(model, ours) if "norm" not in pair[0])
    yield "model.norm.weight", ours["norm.weight"] - 1
    for prefix, block in blocks(model, ours):
        yield from ((name, weight - 1) for name, weight in pre_norms(block, prefix))
        for name in ("q_norm", "k_norm"):
            yield f"{prefix}self_attn.{name}.weight", block[f"attention.{name}.weight"] - 1
        sections = [2 * model.num_heads * model.head_dim, *2 * [model.num_kv_heads * model.head_dim]]
        for name, rows in zip("qkv", torch.split(block["attention.qkv.weight"], sections), strict=True):
            yield f"{prefix}self_attn.{name}_proj.weight", rows
        yield f"{prefix}self_attn.o_proj.weight", block["attention.out.weight"]
        yield f"{prefix}mlp.gate.weight", block["moe.router.weight"]
        yield from fused_experts(block, f"{prefix}mlp.experts.")
        yield from mlp(block, ours_prefix="moe.shared.", prefix=f"{prefix}mlp.shared_expert.")
        yield f"{prefix}mlp.shared_expert_gate.weight", block["moe.shared_gate.weight"]


def qwen3_next_config(model: ModelConfig) -> dict[str, Any]:
    assert model.moe is not None
    assert model.rope_dim is not None
    values = moe_config(model) | {
        "shared_expert_intermediate_size": model.moe.shared_ffn_hidden_size,
        "layer_types": layer_types(model, "linear_attention"),
    }
    values["rope_parameters"]["partial_rotary_factor"] = model.rope_dim / model.head_dim
    return values
