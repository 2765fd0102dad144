"""transformers' own classes with our weights in them, family by family.

Each family has a function from our config to theirs, and one from our weights to theirs: names differ, some
matrices are transposed, fused or in another order; nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

from pytest_nemoperf.architecture import ModelConfig
from pytest_nemoperf.components import RopeScaling

Weights = Mapping[str, Tensor]
Pairs = Iterator[tuple[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Family:
    """How a family is written in transformers.

    Attributes:
        config_class: Name of its configuration class.
        model_class: Name of its class with the head.
        config: Arguments of the configuration.
        weights: From our weights to theirs.
    """

    config_class: str
    model_class: str
    config: Callable[[ModelConfig], dict[str, Any]]
    weights: Callable[[ModelConfig, Weights], Pairs]

    def build(self, model: ModelConfig, weights: Weights) -> Any:
        config = getattr(transformers, self.config_class)(attn_implementation="eager", **self.config(model))
        peer = getattr(transformers, self.model_class)(config).eval()
        peer.load_state_dict(dict(self.weights(model, weights)), strict=True)
        return peer


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
                    rows = interleaved(torch.unflatten(rows, 0, (-1, model.head_dim))).flatten(0, 1)  # noqa: PLW2901
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
    """Llama, Qwen2, Qwen3 and Mixtral with what is different in each."""
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


def gpt2(model: ModelConfig, ours: Weights) -> Pairs:
    yield "transformer.wte.weight", ours["embedding.weight"]
    yield "lm_head.weight", ours["embedding.weight"]
    yield "transformer.wpe.weight", ours["positions.weight"]
    names = {"attention_norm": "ln_1", "mlp_norm": "ln_2", "attention.qkv": "attn.c_attn"}
    names |= {"attention.out": "attn.c_proj", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
    for kind in ("weight", "bias"):
        yield f"transformer.ln_f.{kind}", ours[f"norm.{kind}"]
        for prefix, block in blocks(model, ours):
            for name, theirs in names.items():
                weight = block[f"{name}.{kind}"]
                is_matrix = weight.dim() == 2  # theirs are transposed
                yield (
                    prefix.replace("model.layers", "transformer.h") + f"{theirs}.{kind}",
                    (weight.T if is_matrix else weight),
                )


def gpt2_config(model: ModelConfig) -> dict[str, Any]:
    values = {"n_embd": model.hidden_size, "n_layer": model.num_layers, "n_head": model.num_heads}
    return values | {
        "vocab_size": model.vocab_size,
        "n_positions": model.max_positions,
        "n_inner": model.ffn_hidden_size,
        "layer_norm_epsilon": model.norm_eps,
        "activation_function": "gelu_new",
        "bos_token_id": None,
        "eos_token_id": None,
    }


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


def nemotron(model: ModelConfig, ours: Weights) -> Pairs:
    """Norms have a weight that one is added to."""
    yield from (pair for pair in ends(model, ours) if "norm" not in pair[0])
    yield "model.norm.weight", ours["norm.weight"] - 1
    yield "model.norm.bias", ours["norm.bias"]
    for prefix, block in blocks(model, ours):
        for name, weight in pre_norms(block, prefix):
            yield name, weight - 1
        yield f"{prefix}input_layernorm.bias", block["attention_norm.bias"]
        yield f"{prefix}post_attention_layernorm.bias", block["mlp_norm.bias"]
        yield from attention(model, block, prefix=f"{prefix}self_attn.")
        yield from mlp(block, ours_prefix="mlp.", prefix=f"{prefix}mlp.")


def nemotron_config(model: ModelConfig) -> dict[str, Any]:
    values = sizes(model)
    del values["rms_norm_eps"]
    assert model.rope_dim is not None
    values["rope_parameters"]["partial_rotary_factor"] = model.rope_dim / model.head_dim
    return values | {"norm_eps": model.norm_eps, "hidden_act": "relu2"}


def gemma(model: ModelConfig, ours: Weights) -> Pairs:
    """Norms have a weight that one is added to, those of queries and keys too."""
    names = {
        "attention_norm": "input_layernorm",
        "attention_post_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "mlp_post_norm": "post_feedforward_layernorm",
        "attention.q_norm": "self_attn.q_norm",
        "attention.k_norm": "self_attn.k_norm",
    }
    yield from (pair for pair in ends(model, ours) if "norm" not in pair[0])
    yield "model.norm.weight", ours["norm.weight"] - 1
    for prefix, block in blocks(model, ours):
        for name, theirs in names.items():
            if f"{name}.weight" in block:
                yield f"{prefix}{theirs}.weight", block[f"{name}.weight"] - 1
        yield from attention(model, block, prefix=f"{prefix}self_attn.")
        yield from mlp(block, ours_prefix="mlp.", prefix=f"{prefix}mlp.")


def gemma_config(model: ModelConfig) -> dict[str, Any]:
    assert model.query_scale is not None
    values = sizes(model) | {
        "query_pre_attn_scalar": round(model.query_scale**-2),
        "sliding_window": model.sliding_window,
        "layer_types": layer_types(model, "sliding_attention"),
        "attn_logit_softcapping": model.attention_softcap,
        "final_logit_softcapping": model.final_softcap,
    }
    if model.rope_local_theta is not None:
        values["rope_parameters"] = {
            "full_attention": rope(model.rope_theta, model.rope_scaling),
            "sliding_attention": rope(model.rope_local_theta, None),
        }
    return values


def _family(name: str, config: Callable[[ModelConfig], dict[str, Any]], weights: Any) -> Family:
    stem = name.removesuffix("Text")
    return Family(config_class=f"{name}Config", model_class=f"{stem}ForCausalLM", config=config, weights=weights)


LLAMA = _family("Llama", sizes, llama)
LLAMA4 = _family("Llama4Text", llama4_config, llama4)
QWEN2 = _family("Qwen2", sizes, llama)
QWEN3 = _family("Qwen3", sizes, llama)
QWEN3_MOE = _family("Qwen3Moe", moe_config, llama)
QWEN3_NEXT = _family("Qwen3Next", qwen3_next_config, qwen3_next)
MIXTRAL = _family("Mixtral", mixtral_config, llama)
GPT_OSS = _family("GptOss", gpt_oss_config, gpt_oss)
DEEPSEEK_V2 = _family("DeepseekV2", deepseek_config, deepseek)
DEEPSEEK_V3 = _family("DeepseekV3", deepseek_config, deepseek)
NEMOTRON = _family("Nemotron", nemotron_config, nemotron)
GEMMA2 = _family("Gemma2", gemma_config, gemma)
GEMMA3 = _family("Gemma3Text", gemma_config, gemma)
GPT2 = Family(config_class="GPT2Config", model_class="GPT2LMHeadModel", config=gpt2_config, weights=gpt2)


def mtp_logits(config: ModelConfig, ours: Weights, tokens: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of a DeepSeek-V3 and those of its first depth of multi-token prediction."""
    from transformers.modeling_layers import MtpModel

    peer = DEEPSEEK_V3.build(config, ours)
    depth = MtpModel(peer, 1).eval()
    block = {name.removeprefix("mtp.0.block."): weight for name, weight in ours.items() if ".block." in name}
    weights = dict(pre_norms(block, "mtp_block."))
    weights |= deepseek_block(config, block, "mtp_block.", is_interleaved=False)
    names = {"embedding_norm": "enorm", "hidden_norm": "hnorm", "projection": "eh_proj", "norm": "post_norm"}
    weights |= {f"{theirs}.weight": ours[f"mtp.0.{name}.weight"] for name, theirs in names.items()}
    depth.layers[0].load_state_dict(weights, strict=True)
    hidden = peer.model(tokens).last_hidden_state
    positions = torch.arange(tokens.shape[1])[None]
    ahead = depth.forward_layer(0, hidden, positions, None, input_ids=labels)
    return peer.lm_head(hidden), peer.lm_head(ahead)


def stretched_frequencies(size: int, *, theta: float, scaling: RopeScaling) -> tuple[Tensor, float]:
    """Return the angles per position of each pair of columns, and the factor of cosines and sines."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = transformers.LlamaConfig(
        head_dim=size,
        max_position_embeddings=max_positions(scaling),
        rope_parameters=rope(theta, scaling),
    )
    frequencies, factor = ROPE_INIT_FUNCTIONS[scaling.kind](config, torch.device("cpu"))
    return frequencies, factor
