"""Values of ModelConfig from a Hugging Face config of DeepSeek-V4: the released files' keys, and transformers' own.

References:
    transformers 5.23 models/deepseek_v4/configuration_deepseek_v4.py; DeepseekV4Config folds the released keys
    (compress_ratios, num_hash_layers, qk_rope_head_dim, rope_scaling) into its own
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from pytest_nemoperf.models.huggingface.config import ConfigReader, read_decoder, read_rope

_KINDS: Final = ("sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention")
_RATES: Final[Mapping[str, int]] = MappingProxyType({_KINDS[1]: 4, _KINDS[2]: 128})


def read_deepseek_v4(config: ConfigReader) -> dict[str, Any]:
    """Return the values of a ``deepseek_v4`` config."""
    config.expect("hidden_act", only="silu")
    config.expect("attention_bias", only=False)
    config.expect("mlp_bias", only=False)
    config.expect("topk_method", only="noaux_tc")
    config.expect("norm_topk_prob", only=True)
    config.expect("num_key_value_heads", only=1)
    for key in ("hc_eps", "expert_dtype", "default_num_hash_layers"):
        config.get(key)  # a floor of the iterations, the format of stored experts, a constant of the class
    width = config.need("moe_intermediate_size")
    head_dim = config.need("head_dim")
    values = read_decoder(config.with_defaults({"intermediate_size": width, "num_key_value_heads": 1}))
    num_layers = values["num_layers"]
    depth = config.get("num_nextn_predict_layers", 1)
    rates = _rates(config)
    ratios = _ratios(config, num_layers=num_layers, depth=depth, rates=rates)
    main, compressed = _rope(config)
    return values | {
        "rope_theta": main,
        "rope_scaling": compressed["rope_scaling"],
        "attention_sinks": True,
        "sliding_window": config.need("sliding_window"),
        "mtp_num_layers": depth,
        "compressed_attention": {
            "ratios": ratios,
            "q_lora_rank": config.need("q_lora_rank"),
            "rope_head_dim": _rope_head_dim(config, head_dim=head_dim),
            "o_lora_rank": config.need("o_lora_rank"),
            "num_output_groups": config.need("o_groups"),
            "indexed_ratio": rates[_KINDS[1]],
            "index_num_heads": config.need("index_n_heads"),
            "index_head_dim": config.need("index_head_dim"),
            "index_topk": config.need("index_topk"),
            "rope_theta": compressed["rope_theta"],
        },
        "hyper_connections": {
            "num_streams": config.need("hc_mult"),
            "num_iterations": config.need("hc_sinkhorn_iters"),
        },
        "moe": _experts(config, width=width, num_layers=num_layers),
    }


def _experts(config: ConfigReader, *, width: int, num_layers: int) -> dict[str, Any]:
    scores = config.get("scoring_func", "sqrtsoftplus")
    if scores not in {"sqrtsoftplus", "softmax", "sigmoid"}:
        config.refuse("scoring_func", scores, "only sqrtsoftplus, softmax and sigmoid are")
    # transformers' classes have one shared expert, whatever the file says
    config.expect("n_shared_experts", only=1)
    return {
        "num_experts": config.need("n_routed_experts"),
        "topk": config.need("num_experts_per_tok"),
        "ffn_hidden_size": width,
        "shared_ffn_hidden_size": width,
        "router": scores,
        "scaling_factor": config.get("routed_scaling_factor", 1.5),
        "has_score_correction": True,
        "num_hash_layers": _num_hash_layers(config, num_layers=num_layers),
        "activation_limit": config.get("swiglu_limit", 10.0),
    }


def _num_hash_layers(config: ConfigReader, *, num_layers: int) -> int:
    number: int = min(config.get("num_hash_layers", 3), num_layers)
    kinds = config.texts("mlp_layer_types")
    if not kinds:
        return number
    hashed = kinds.count("hash_moe")
    if kinds != ["hash_moe"] * hashed + ["moe"] * (num_layers - hashed):
        config.refuse("mlp_layer_types", kinds, "only hash_moe layers before moe layers, one entry a layer, are")
    return hashed


def _rates(config: ConfigReader) -> Mapping[str, int]:
    """Return the tokens of a compressed position by the kind of the layer."""
    rates = {**_RATES, **config.get("compress_rates", {})}
    for kind, key in zip(_KINDS[1:], ("compress_rate_csa", "compress_rate_hca"), strict=True):
        rates[kind] = config.get(key, rates[kind])
    if rates.keys() != _RATES.keys() or not all(type(rate) is int and rate > 0 for rate in rates.values()):
        config.refuse("compress_rates", rates, f"only a whole number of tokens for each of {', '.join(_RATES)} is")
    return rates


def _ratios(config: ConfigReader, *, num_layers: int, depth: int, rates: Mapping[str, int]) -> list[int]:
    """Return one ratio a layer: of ``layer_types``, or of ``compress_ratios``, cut behind the last layer."""
    kinds = config.texts("layer_types")
    listed: list[Any] = config.get("compress_ratios", [])
    known = [0, *rates.values()]
    if listed:
        if len(listed) < num_layers or not all(ratio in known for ratio in listed):
            config.refuse(
                "compress_ratios", listed, f"only one of {known} for each of num_hidden_layers={num_layers} is"
            )
        if any(listed[num_layers : num_layers + depth]):
            config.refuse("compress_ratios", listed, "only 0 for blocks of multi-token prediction is")
    if kinds:
        if len(kinds) != num_layers or not all(kind in _KINDS for kind in kinds):
            config.refuse("layer_types", kinds, f"only one of {', '.join(_KINDS)} for each layer is")
        return [rates.get(kind, 0) for kind in kinds]
    if listed:
        return listed[:num_layers]
    heavy, sparse = rates[_KINDS[2]], rates[_KINDS[1]]
    ratios = [heavy] * min(num_layers, 2)
    for index in range(num_layers - 2):
        ratios.append(sparse if index % 2 else heavy)
    return ratios


def _rope_head_dim(config: ConfigReader, *, head_dim: int) -> int:
    share = config.get("partial_rotary_factor", 64 / 512)
    return int(config.get("qk_rope_head_dim", int(head_dim * share)))


def _rope(config: ConfigReader) -> tuple[float, dict[str, Any]]:
    """Return the base of layers with the window alone, and base and scaling of layers that compress.

    Cosines and sines are never scaled: transformers sets attention_factor=1 where a file has none.
    """
    parameters = config.get("rope_parameters", {})
    for kind in ("main", "compress"):
        if not isinstance(parameters.get(kind, {}), dict):
            config.refuse("rope_parameters", parameters, f"only an object for {kind} is")
    base = config.get("rope_theta", 10_000.0)
    main = parameters.get("main", {})
    if main.get("rope_type", "default") != "default":
        config.refuse("rope_parameters", main, "only unscaled frequencies of the window are")
    base = main.get("rope_theta", base)
    if type(base) not in (int, float):
        config.refuse("rope_theta", base, "only a number is")
    compressed = read_rope(config, layers="compress")
    theta = config.get("compress_rope_theta", 160_000.0)
    if "compress" not in parameters:
        compressed["rope_theta"] = float(theta)
    scaling = compressed["rope_scaling"]
    if scaling is not None and scaling["kind"] == "yarn":
        scaling.setdefault("attention_factor", 1.0)
    return float(base), compressed
