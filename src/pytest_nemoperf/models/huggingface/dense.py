"""Keys of Hugging Face configs, family by family: dense models.

Sources: the configuration and modeling files of huggingface/transformers 5.23, one directory a family.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pytest_nemoperf.models.components import Activation
from pytest_nemoperf.models.huggingface.config import (
    ConfigReader,
    read_decoder,
    read_head_dim,
    read_interval,
    read_rope,
    read_rope_dim,
)


def _full_attention_only(config: ConfigReader) -> None:
    config.expect("use_sliding_window", only=False)
    config.get("sliding_window")  # unused without the key above
    types = config.texts("layer_types") or []
    if set(types) - {"full_attention"}:
        config.refuse("layer_types", types, 'only "full_attention" is')


def _llama(config: ConfigReader) -> dict[str, Any]:
    config.expect("hidden_act", only="silu")
    bias = config.get("attention_bias", False)
    return (
        read_decoder(config)
        | read_rope(config)
        | {"qkv_bias": bias, "out_bias": bias, "mlp_bias": config.get("mlp_bias", False)}
    )


def _qwen2(config: ConfigReader) -> dict[str, Any]:
    config.expect("hidden_act", only="silu")
    config.expect("use_mrope", only=False)
    _full_attention_only(config)
    return read_decoder(config) | read_rope(config) | {"qkv_bias": True}


def read_qwen3(config: ConfigReader) -> dict[str, Any]:
    """Return the values of a dense Qwen 3, and of the dense part of its mixtures."""
    config.expect("hidden_act", only="silu")
    _full_attention_only(config)
    bias = config.get("attention_bias", False)
    return read_decoder(config) | read_rope(config) | {"qk_norm": "rms", "qkv_bias": bias, "out_bias": bias}


def _gpt2(config: ConfigReader) -> dict[str, Any]:
    config.expect("activation_function", only="gelu_new")
    config.expect("scale_attn_by_inverse_layer_idx", only=False)
    config.expect("add_cross_attention", only=False)
    hidden = config.need("n_embd")
    heads = config.need("n_head")
    return {
        "hidden_size": hidden,
        "num_layers": config.need_layers("n_layer"),
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_dim": read_head_dim(config, hidden="n_embd", heads="n_head"),
        "ffn_hidden_size": config.get("n_inner", 4 * hidden),
        "vocab_size": config.need("vocab_size"),
        "tied_embeddings": config.get("tie_word_embeddings", True),
        "activation": Activation.GELU,
        "norm": "layernorm",
        "norm_eps": config.get("layer_norm_epsilon", 1e-5),
        "max_positions": config.need("n_positions"),
        "qkv_bias": True,
        "out_bias": True,
        "mlp_bias": True,
    }


def _nemotron(config: ConfigReader) -> dict[str, Any]:
    config.expect("hidden_act", only="relu2")
    values = read_decoder(config, norm_eps="norm_eps")
    bias = config.get("attention_bias", False)
    return (
        values
        | read_rope(config)
        | {"activation": Activation.SQUARED_RELU, "norm": "layernorm"}
        | {"qkv_bias": bias, "out_bias": bias, "mlp_bias": config.get("mlp_bias", False)}
        | {"rope_dim": read_rope_dim(config, head_dim=values["head_dim"], default=0.5)}
    )


def _gemma(config: ConfigReader, *, default_interval: int) -> dict[str, Any]:
    config.expect("hidden_activation", only="gelu_pytorch_tanh")
    config.expect("hidden_act", only="gelu_pytorch_tanh")
    config.expect("attention_bias", only=False)
    config.expect("use_bidirectional_attention", only=False)
    values = read_decoder(config, is_tied=True)
    num_layers = values["num_layers"]
    return values | {
        "activation": Activation.GEGLU,
        "has_post_norms": True,
        "embedding_scale": math.sqrt(values["hidden_size"]),
        "query_scale": 1 / math.sqrt(_query_width(config)),
        "attention_softcap": config.optional("attn_logit_softcapping", kind=float),
        "final_softcap": config.optional("final_logit_softcapping", kind=float),
        "sliding_window": config.get("sliding_window", 4096),
        "full_attention_interval": read_interval(
            config, num_layers=num_layers, default=default_interval, other="sliding_attention"
        ),
    }


def _query_width(config: ConfigReader) -> float:
    width: float = config.get("query_pre_attn_scalar", 256.0)
    if width <= 0:
        config.refuse("query_pre_attn_scalar", width, "only a number above 0 is")
    return width


def _gemma2(config: ConfigReader) -> dict[str, Any]:
    return _gemma(config, default_interval=2) | read_rope(config)


def _gemma3(config: ConfigReader) -> dict[str, Any]:
    defaults = {
        "vocab_size": 262_208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "rms_norm_eps": 1e-6,
    }  # files of the larger models leave them out
    values = _gemma(config.with_defaults(defaults), default_interval=6)
    windowed = config.get("rope_parameters", {}).get("sliding_attention", {})
    if not isinstance(windowed, dict):
        config.refuse("rope_parameters", windowed, "only an object for sliding_attention is")
    local = windowed.get("rope_theta")
    return (
        values
        | read_rope(config, theta=1_000_000.0, layers="full_attention")
        | {"rope_local_theta": local or config.get("rope_local_base_freq", 10_000.0), "qk_norm": "rms"}
    )


DENSE: Mapping[str, Callable[[ConfigReader], dict[str, Any]]] = MappingProxyType(
    {
        "gemma2": _gemma2,
        "gemma3_text": _gemma3,
        "gpt2": _gpt2,
        "llama": _llama,
        "nemotron": _nemotron,
        "qwen2": _qwen2,
        "qwen3": read_qwen3,
    }
)
"""Values of ModelConfig for each ``model_type``."""
