"""Keys of Hugging Face configs, family by family: mixtures of experts and hybrids.

Sources: the configuration and modeling files of huggingface/transformers 5.23, one directory a family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pytest_nemoperf.models.components import Activation
from pytest_nemoperf.models.huggingface.config import (
    ConfigReader,
    read_decoder,
    read_interval,
    read_rope,
    read_rope_dim,
)
from pytest_nemoperf.models.huggingface.deepseek_v4 import read_deepseek_v4
from pytest_nemoperf.models.huggingface.dense import read_qwen3

_LETTERS = {
    "mamba": "M",
    "linear_attention": "M",
    "attention": "*",
    "full_attention": "*",
    "mlp": "-",
    "moe": "E",
}


def _num_experts(config: ConfigReader, *keys: str) -> int:
    """Return the routed experts under the first key that the file has."""
    for key in keys:
        if config.optional(key, kind=int) is not None:
            return int(config.need(key))
    return int(config.need("num_experts"))


def _qwen_moe(config: ConfigReader) -> dict[str, Any]:
    config.expect("decoder_sparse_step", only=1)
    config.expect("mlp_only_layers", only=[])
    return {
        "num_experts": _num_experts(config, "num_experts", "num_local_experts"),
        "topk": config.need("num_experts_per_tok"),
        "ffn_hidden_size": config.need("moe_intermediate_size"),
        "is_normalized": config.get("norm_topk_prob", False),
    }


def _qwen3_moe(config: ConfigReader) -> dict[str, Any]:
    return read_qwen3(config) | {"moe": _qwen_moe(config)}


def _qwen3_next(config: ConfigReader) -> dict[str, Any]:
    config.expect("hidden_act", only="silu")
    config.expect("attention_bias", only=False)
    config.expect("use_sliding_window", only=False)
    values = read_decoder(config) | read_rope(config)
    moe = _qwen_moe(config) | {"shared_ffn_hidden_size": config.need("shared_expert_intermediate_size")}
    return values | {
        "qk_norm": "rms",
        "attention_gate": True,
        "rope_dim": read_rope_dim(config, head_dim=values["head_dim"], default=0.25),
        "full_attention_interval": read_interval(
            config, num_layers=values["num_layers"], default=4, other="linear_attention"
        ),
        "moe": moe | {"shared_gate": True},
        "gated_delta_net": {
            "num_key_heads": config.need("linear_num_key_heads"),
            "key_head_dim": config.need("linear_key_head_dim"),
            "num_value_heads": config.need("linear_num_value_heads"),
            "value_head_dim": config.need("linear_value_head_dim"),
            "conv_kernel": config.get("linear_conv_kernel_dim", 4),
        },
    }


def _latent(config: ConfigReader) -> dict[str, Any]:
    """Return the values of a decoder with multi-head latent attention."""
    config.expect("hidden_act", only="silu")
    config.expect("attention_bias", only=False)
    config.expect("mlp_bias", only=False)
    config.expect("rope_interleave", only=True)
    config.get("head_dim")  # transformers writes the rotary part's width there
    values = read_decoder(config.with_defaults({"head_dim": config.need("v_head_dim")}))
    mla = {"q_lora_rank": config.optional("q_lora_rank", kind=int)}
    for key in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
        mla[key] = config.need(key)
    # num_key_value_heads in the files has no effect: every head has keys and values of its own
    return values | read_rope(config) | {"head_dim": mla["v_head_dim"], "num_kv_heads": values["num_heads"], "mla": mla}


def _deepseek_moe(config: ConfigReader) -> dict[str, Any]:
    config.expect("moe_layer_freq", only=1)
    width = config.need("moe_intermediate_size")
    return {
        "num_experts": config.need("n_routed_experts"),
        "topk": config.need("num_experts_per_tok"),
        "ffn_hidden_size": width,
        "shared_ffn_hidden_size": width * config.get("n_shared_experts", 0),
        "num_dense_layers": config.get("first_k_dense_replace", 0),
        "scaling_factor": config.get("routed_scaling_factor", 1.0),
    }


def _deepseek_v2(config: ConfigReader) -> dict[str, Any]:
    config.expect("scoring_func", only="softmax")
    method = config.get("topk_method", "greedy")
    if method not in {"greedy", "group_limited_greedy"}:
        config.refuse("topk_method", method, "only greedy and group_limited_greedy are")
    groups = {"num_groups": config.get("n_group", 1), "topk_groups": config.get("topk_group", 1)}
    moe = _deepseek_moe(config) | {"is_normalized": config.get("norm_topk_prob", False)}
    if method == "group_limited_greedy":
        moe |= groups
    return _latent(config) | {"moe": moe}


def _deepseek_v3(config: ConfigReader) -> dict[str, Any]:
    config.expect("scoring_func", only="sigmoid")
    config.expect("topk_method", only="noaux_tc")
    moe = _deepseek_moe(config) | {
        "router": "sigmoid",
        "is_normalized": config.get("norm_topk_prob", True),
        "num_groups": config.get("n_group", 1),
        "topk_groups": config.get("topk_group", 1),
        "group_score": "top2",
        "has_score_correction": True,
    }
    depth = config.get("num_nextn_predict_layers", config.get("num_mtp_layers", 0))
    return _latent(config) | {"moe": moe, "mtp_num_layers": depth}


def _mixtral(config: ConfigReader) -> dict[str, Any]:
    config.expect("hidden_act", only="silu")
    config.expect("sliding_window", only=None)
    values = read_decoder(config)
    moe = {
        "num_experts": _num_experts(config, "num_local_experts", "num_experts"),
        "topk": config.need("num_experts_per_tok"),
        "ffn_hidden_size": values["ffn_hidden_size"],
    }
    return values | read_rope(config, theta=1_000_000.0) | {"moe": moe}


def _gpt_oss(config: ConfigReader) -> dict[str, Any]:
    config.expect("hidden_act", only="silu")
    config.expect("attention_bias", only=True)
    config.expect("swiglu_alpha", only=1.702)
    config.expect("swiglu_limit", only=7.0)
    config.get("initial_context_length")  # repeats the scaling's original context
    config.get("experts_per_token")  # repeats num_experts_per_tok
    values = read_decoder(config)
    interval = read_interval(config, num_layers=values["num_layers"], default=2, other="sliding_attention")
    moe = {
        "num_experts": _num_experts(config, "num_local_experts", "num_experts"),
        "topk": config.need("num_experts_per_tok"),
        "ffn_hidden_size": values["ffn_hidden_size"],
        "router_bias": True,
    }
    return (
        values
        | read_rope(config, theta=150_000.0)
        | {"activation": Activation.CLAMPED_SWIGLU, "qkv_bias": True, "out_bias": True, "mlp_bias": True}
        | {"attention_sinks": True, "moe": moe}
        | {"sliding_window": config.need("sliding_window"), "full_attention_interval": interval}
    )


def _nemotron_h(config: ConfigReader) -> dict[str, Any]:
    config.expect("mlp_hidden_act", only="relu2")
    config.expect("mamba_hidden_act", only="silu")
    config.expect("use_conv_bias", only=True)
    for key in ("attention_bias", "mlp_bias", "mamba_proj_bias", "use_bias"):
        config.expect(key, only=False)
    config.expect("sliding_window", only=None)
    for key in ("rope_theta", "partial_rotary_factor", "rope_parameters", "rope_scaling", "rms_norm_eps", "norm_eps"):
        config.get(key)  # in the files, but no layer has rotary positions, and the norms have the key below
    pattern = _hybrid_pattern(config)
    defaults = {"num_hidden_layers": len(pattern), "head_dim": config.optional("attention_head_dim", kind=int)}
    values = read_decoder(config.with_defaults(defaults), norm_eps="layer_norm_epsilon")
    mamba = {
        "num_heads": config.need("mamba_num_heads"),
        "head_dim": config.need("mamba_head_dim"),
        "state_dim": config.need("ssm_state_size"),
        "num_groups": config.need("n_groups"),
        "conv_kernel": config.get("conv_kernel", 4),
    }
    moe = _nemotron_moe(config)
    depth = config.get("num_nextn_predict_layers", 0)
    if depth:
        config.expect("mtp_layers_block_type", only=["full_attention", "moe"])
    config.get("mtp_layers_block_type")
    values |= {"activation": Activation.SQUARED_RELU, "hybrid_pattern": pattern, "mamba": mamba}
    if "E" in pattern:
        values["moe"] = moe
    return values | {"mtp_num_layers": depth}


def _hybrid_pattern(config: ConfigReader) -> str:
    types = config.texts("layers_block_type")
    if types is None:
        types = config.texts("layer_types")
    else:
        config.get("layer_types")
    pattern: str = config.get("hybrid_override_pattern", "")
    if types is None:
        return pattern or str(config.need("layers_block_type", kind=list))
    unknown = set(types) - _LETTERS.keys()
    if unknown:
        config.refuse("layers_block_type", sorted(unknown), f"only {', '.join(_LETTERS)} are")
    return "".join(_LETTERS[name] for name in types)


def _nemotron_moe(config: ConfigReader) -> dict[str, Any]:
    config.expect("n_shared_experts", only=1)
    return {
        "num_experts": config.get("n_routed_experts", 1),
        "topk": config.get("num_experts_per_tok", 1),
        "ffn_hidden_size": config.get("moe_intermediate_size", 1),
        "shared_ffn_hidden_size": config.get("moe_shared_expert_intermediate_size", 0),
        "router": "sigmoid",
        "is_normalized": config.get("norm_topk_prob", True),
        "scaling_factor": config.get("routed_scaling_factor", 1.0),
        "num_groups": config.get("n_group", 1),
        "topk_groups": config.get("topk_group", 1),
        "group_score": "top2",
        "has_score_correction": True,
        "latent_size": config.optional("moe_latent_size", kind=int),
    }


def _need_interval(config: ConfigReader, key: str, *, default: int) -> int:
    if config.get(key, default) < 1:
        config.refuse(key, config.get(key, default), "only a whole number of layers >= 1 is")
    return int(config.get(key, default))


def _llama4(config: ConfigReader) -> dict[str, Any]:
    config.expect("hidden_act", only="silu")
    config.expect("attention_bias", only=False)
    values = read_decoder(config)
    num_layers = values["num_layers"]
    expert_width = values.pop("ffn_hidden_size")
    step = _need_interval(config, "interleave_moe_layer_step", default=1)
    config.expect("moe_layers", only=list(range(step - 1, num_layers, step)))
    interval = _need_interval(config, "no_rope_layer_interval", default=4)
    rotated = [int((i + 1) % interval != 0) for i in range(num_layers)]
    if config.get("no_rope_layers"):
        config.expect("no_rope_layers", only=rotated)
    read_interval(config, num_layers=num_layers, default=interval, other="chunked_attention")
    moe = {
        "num_experts": config.need("num_local_experts"),
        "topk": config.need("num_experts_per_tok"),
        "ffn_hidden_size": expert_width,
        "shared_ffn_hidden_size": expert_width,
        "layer_interval": step,
        "router": "sigmoid",
        "is_normalized": False,
        "scales_input": True,
    }
    qk_norm = "l2" if config.get("use_qk_norm", True) else None
    temperature: tuple[float, float] | None = (config.get("attn_scale", 0.1), float(config.get("floor_scale", 8192)))
    if not config.get("attn_temperature_tuning", True):
        temperature = None
    return (
        values
        | read_rope(config, theta=500_000.0)
        | {"ffn_hidden_size": config.need("intermediate_size_mlp"), "moe": moe}
        | {"qk_norm": qk_norm, "query_temperature": temperature}
        | {"sliding_window": config.get("attention_chunk_size", 8192), "is_window_chunked": True}
        | {"full_attention_interval": interval, "nope_interval": interval}
    )


MIXTURES: Mapping[str, Callable[[ConfigReader], dict[str, Any]]] = MappingProxyType(
    {
        "deepseek_v2": _deepseek_v2,
        "deepseek_v3": _deepseek_v3,
        "deepseek_v4": read_deepseek_v4,
        "gpt_oss": _gpt_oss,
        "kimi_k2": _deepseek_v3,
        "llama4_text": _llama4,
        "mixtral": _mixtral,
        "nemotron_h": _nemotron_h,
        "qwen3_moe": _qwen3_moe,
        "qwen3_next": _qwen3_next,
    }
)
"""Values of ModelConfig for each ``model_type``."""
