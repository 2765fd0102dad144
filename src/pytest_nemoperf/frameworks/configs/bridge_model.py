"""Architectures of Megatron-Bridge's recipes: a checkpoint's name, or a provider with sizes of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from pytest_nemoperf.frameworks.configs.checkpoint_names import NamedModel, named_model
from pytest_nemoperf.frameworks.configs.megatron_arguments import MegatronArguments, option_words
from pytest_nemoperf.frameworks.configs.megatron_model import megatron_model
from pytest_nemoperf.frameworks.configs.python_values import Opaque, Unknown
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.models.huggingface.names import hub_models

_CHECKPOINT: Final = "from_hf_pretrained"
_SIZES: Final = frozenset(
    {
        "num_layers",
        "hidden_size",
        "ffn_hidden_size",
        "num_attention_heads",
        "num_query_groups",
        "kv_channels",
        "num_moe_experts",
        "moe_ffn_hidden_size",
        "moe_router_topk",
        "moe_layer_freq",
        "hybrid_layer_pattern",
    }
)
"""Attributes that make another architecture than the checkpoint's."""
_ARGUMENTS: Mapping[str, str] = MappingProxyType(
    {
        **{
            name: name.replace("_", "-")
            for name in (
                "num_layers",
                "hidden_size",
                "ffn_hidden_size",
                "num_attention_heads",
                "num_query_groups",
                "kv_channels",
                "vocab_size",
                "normalization",
                "rotary_base",
                "rotary_percent",
                "rope_scaling_factor",
                "position_embedding_type",
                "qk_layernorm",
                "multi_latent_attention",
                "q_lora_rank",
                "kv_lora_rank",
                "qk_head_dim",
                "qk_pos_emb_head_dim",
                "v_head_dim",
                "hybrid_layer_pattern",
                "hybrid_override_pattern",
                "mamba_num_heads",
                "mamba_head_dim",
                "mamba_state_dim",
                "mamba_num_groups",
                "moe_router_topk",
                "moe_ffn_hidden_size",
                "moe_shared_expert_intermediate_size",
                "moe_layer_freq",
                "moe_router_num_groups",
                "moe_router_group_topk",
                "moe_router_topk_scaling_factor",
                "moe_router_score_function",
                "moe_router_enable_expert_bias",
                "moe_latent_size",
                "mtp_num_layers",
                "mtp_use_repeated_layer",
            )
        },
        "num_moe_experts": "num-experts",
        "layernorm_epsilon": "norm-epsilon",
        "seq_length": "max-position-embeddings",
        "add_qkv_bias": "add-qkv-bias",
        "gated_linear_unit": "swiglu",
    }
)
"""Arguments of Megatron-LM by attribute of a provider."""
_PROVIDERS: Final = frozenset({"GPTModelProvider", "HybridModelProvider", "MambaModelProvider"})
"""Providers whose attributes say all there is to their architecture; others' classes add to it."""
_NOT_UNDERSTOOD: Final = (
    "experimental_attention_variant",
    "heterogeneous_layers_config_path",
    "heterogeneous_layers_config_encoded_json",
    "window_size",
)
"""Attributes that change the attention or single layers."""


def provider_of(model: Any) -> Opaque:
    """Return the object that holds a model's sizes: the first of those that it was made from with any."""
    if not isinstance(model, Opaque):
        return Opaque(made_by="")
    for node in model.chain():
        if "num_layers" in node.values or "hidden_size" in node.values:
            return node
    return model


def bridge_model(config: Opaque) -> NamedModel:
    """Return the architecture of a recipe, or the reason that it can't be told."""
    model = config.get("model")
    if not isinstance(model, Opaque):
        return NamedModel(unread="cfg.model can't be told from the source")
    named = _checkpoint(model)
    if named is None:
        named = _spelt(model, config=config)
    if named.unread:
        return named
    depth = model.get("mtp_num_layers", 0 if "mtp_num_layers" in model.values else None)
    if depth is not None or "mtp_num_layers" in model.values:
        is_shared = model.get("mtp_use_repeated_layer") is True
        named = named.with_prediction_depth(depth if type(depth) is int else 0, is_shared=is_shared)
    return _with_vocabulary(named, config=config)


def _checkpoint(model: Opaque) -> NamedModel | None:
    """Return the architecture of a checkpoint; None for a model that is made otherwise."""
    for node in model.chain():
        if node.made_by == _CHECKPOINT and node.args:
            name = node.args[0]
            if not isinstance(name, str):
                return NamedModel(unread=f"the argument of {_CHECKPOINT} can't be told from the source")
            return _with_sizes(named_model(name, key=_CHECKPOINT), model=model)
        if node.made_by == "to_text_provider":
            return NamedModel(unread="cfg.model is the text part of another model")
    return None


def _with_sizes(named: NamedModel, *, model: Opaque) -> NamedModel:
    """Return a checkpoint's architecture with the vocabulary that a recipe sets, if it sets no other size."""
    if not named.model:
        return named
    known = find_model(named.model) if isinstance(named.model, str) else named.model
    changed = []
    for name in sorted(_SIZES):
        value = model.values.get(name)
        if value is not None and not (name == "kv_channels" and value == known.head_dim):
            changed.append(f"cfg.model.{name}")
    if changed:
        return NamedModel(unread=f"the recipe changes {', '.join(changed)}")
    size = model.values.get("vocab_size")
    if type(size) is int and size != known.vocab_size:
        return NamedModel(model=replace(known, vocab_size=size))
    return named


def _spelt(model: Opaque, *, config: Opaque) -> NamedModel:
    """Return the architecture of a provider with sizes of its own."""
    provider = provider_of(model)
    if provider.made_by not in _PROVIDERS:
        return NamedModel(unread=f"cfg.model made by {provider.made_by} is not understood")
    for name in _NOT_UNDERSTOOD:
        if model.values.get(name, provider.get(name)) is not None:
            return NamedModel(unread=f"cfg.model.{name} is not understood")
    values: dict[str, tuple[str, ...]] = {}
    for name, argument in _ARGUMENTS.items():
        value = model.values.get(name, provider.get(name))
        if value is None or value is False or isinstance(value, (Opaque, Unknown)):
            continue
        values[argument] = option_words(value)
    for argument, is_there in (
        ("group-query-attention", provider.get("num_query_groups") is not None),
        ("disable-bias-linear", provider.get("add_bias_linear", True) is False),
        ("untie-embeddings-and-output-weights", provider.get("share_embeddings_and_output_weights", True) is False),
        ("squared-relu", _name_of(provider.get("activation_func")) == "squared_relu"),
        ("use-rope-scaling", provider.get("rope_scaling") is True),
    ):
        if is_there:
            values[argument] = ()
    if "vocab-size" not in values:
        size = _tokenizer_size(config)
        if size is None:
            return NamedModel(unread="neither cfg.model.vocab_size nor cfg.tokenizer says the size of the vocabulary")
        values["vocab-size"] = (str(size),)
    arguments = MegatronArguments(values, subject="cfg.model")
    named = megatron_model(arguments)
    if named.unread:
        return NamedModel(unread=f"cfg.model made by {provider.made_by}: {named.unread}")
    return named


def _name_of(function: Any) -> str:
    """Return the name of a function, which overrides give as a text."""
    return function.made_by if isinstance(function, Opaque) else str(function)


def _tokenizer_size(config: Opaque) -> int | None:
    tokenizer = config.get("tokenizer")
    if not isinstance(tokenizer, Opaque):
        return None
    size = tokenizer.get("vocab_size")
    if type(size) is int:
        return size
    known = hub_models().get(str(tokenizer.get("tokenizer_model")))
    return None if known is None else known.vocab_size


def _with_vocabulary(named: NamedModel, *, config: Opaque) -> NamedModel:
    """Return the architecture with the rows that a made-up tokenizer leaves to the embedding."""
    tokenizer = config.get("tokenizer")
    if not isinstance(tokenizer, Opaque) or not named.model:
        return named
    size = _tokenizer_size(config)
    is_resized = (
        tokenizer.get("use_tokenizer_vocab_size") is True and tokenizer.get("tokenizer_type") == "NullTokenizer"
    )
    if size is None or not is_resized:
        return named
    model = find_model(named.model) if isinstance(named.model, str) else named.model
    if model.vocab_size == size:
        return named
    return NamedModel(model=replace(model, vocab_size=size))
