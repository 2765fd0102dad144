"""transformers' own classes with our weights in them, family by family.

Each family has a function from our config to theirs, and one from our weights to theirs: names differ, some
matrices are transposed, fused or in another order; nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import RopeScaling
from tests.native.peer_mixtures import (
    deepseek,
    deepseek_block,
    deepseek_config,
    gpt_oss,
    gpt_oss_config,
    llama4,
    llama4_config,
    mixtral_config,
    moe_config,
    qwen3_next,
    qwen3_next_config,
)
from tests.native.peer_parts import (
    Pairs,
    Weights,
    attention,
    blocks,
    ends,
    layer_types,
    llama,
    max_positions,
    mlp,
    pre_norms,
    rope,
    sizes,
)


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family's classes in transformers.

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
