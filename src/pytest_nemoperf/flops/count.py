"""Model FLOPs per token, under a named convention.

One formula serves all models and sources; a source's choices, mistakes included, are data
(``catalog/conventions.json``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.bounds import TOKENS, bound_problem
from pytest_nemoperf.errors import RecipeError, shown
from pytest_nemoperf.flops.compressed_attention import CORE, compressed_attention_macs
from pytest_nemoperf.flops.conventions import FlopsConvention
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import MLA, Activation, FeedForward, Layer, Mixer, MoE
from pytest_nemoperf.models.weights import counted_weights, num_parameters

FLOPS_REL_TOL: Final = 1e-4
"""Relative tolerance between two counts of the same FLOPs: stored numbers keep six significant digits."""
_FORWARD_AND_BACKWARD = 3  # forward, gradient of the input, gradient of the weight
_FLOPS_PER_MAC = 2
_FROZEN = 2  # products of frozen weights: they have no gradient of their own
_KEPT_MODELS: Final = 64
"""Models whose sums over weights are kept: a batch of many lengths asks for them at each."""
_PROJECTIONS = ("qkv.weight", "out.weight", "gate_up.weight", "up.weight", "down.weight")


def num_flops(model: ModelConfig, *, seq_lens: Sequence[int], convention: FlopsConvention, tp: int = 1) -> float:
    """Return model FLOPs of a batch, each sequence counted by its own length.

    Args:
        model: Architecture.
        seq_lens: Real tokens of each sequence; padding between them is not counted.
        convention: Selects the counted terms.
        tp: See num_flops_per_token.

    Returns:
        FLOPs (not TFLOPs), forward plus backward.

    Raises:
        RecipeError: If a length is not positive.
    """
    total = 0.0
    for length, count in Counter(seq_lens).items():
        total += count * length * num_flops_per_token(model, seq_len=length, convention=convention, tp=tp)
    return total


def num_flops_per_token(model: ModelConfig, *, seq_len: int, convention: FlopsConvention, tp: int = 1) -> float:
    """Return model FLOPs per trained token, forward plus backward.

    Two FLOPs per multiply-add; activation recomputation, the embedding
    lookup, norms, RoPE and softmax are not counted.

    Args:
        model: Architecture; of routed experts, those a token goes to.
        seq_len: Tokens per sequence.
        convention: Selects the counted terms, e.g. whether causal attention is halved.
        tp: Tensor parallel degree; some conventions' padded vocabulary depends on it.

    Returns:
        FLOPs (not TFLOPs) per token.

    Raises:
        RecipeError: If seq_len is not positive.

    References:
        Narayanan et al. 2021, section 5.1, https://arxiv.org/abs/2104.04473
    """
    return float(sum(flops_terms(model, seq_len=seq_len, convention=convention, tp=tp).values()))


def flops_terms(model: ModelConfig, *, seq_len: int, convention: FlopsConvention, tp: int = 1) -> Mapping[str, float]:
    """Return the terms of ``num_flops_per_token`` by name; arguments and errors as there.

    Terms that the model or the convention lacks are absent.
    """
    if seq_len < 1:
        raise RecipeError(f"seq_len={shown(seq_len)} must be >= 1")
    if problem := bound_problem(seq_len, name="seq_len", bound=TOKENS):
        raise RecipeError(problem)
    macs: dict[str, float] = {}
    for name, term in _macs(model, seq_len=seq_len, convention=convention, tp=tp):
        macs[name] = macs.get(name, 0.0) + term
    counted_tokens = 1.0
    if convention.packed_sample_len:
        counted_tokens = 1 - 1 / convention.packed_sample_len
    products = _products_with_weights(model, convention)
    core_products = products if convention.lora == "all" else _FORWARD_AND_BACKWARD
    flops = {}
    for name, term in macs.items():
        flops[name] = counted_tokens * _FLOPS_PER_MAC * term * (core_products if name == CORE else products)
    return MappingProxyType(flops)


def _products_with_weights(model: ModelConfig, convention: FlopsConvention) -> float:
    """Return the matrix products a weight takes part in: three, or fewer if it is frozen beside an adapter."""
    if convention.lora is None:
        return _FORWARD_AND_BACKWARD
    return _FROZEN + convention.lora_rank * _adapter_width(model) / num_parameters(model)


@lru_cache(maxsize=_KEPT_MODELS)
def _adapter_width(model: ModelConfig) -> int:
    """Return inputs and outputs of all projections that an adapter of rank 1 would have parameters for."""
    adapter_width = 0
    for weight, count in counted_weights(model):
        if weight.is_expert or not weight.name.endswith(_PROJECTIONS):
            continue
        sections: tuple[int, ...] = ()
        if weight.split is not None:
            sections = weight.split.sections
        for rows in sections or (weight.shape[0],):  # an adapter for each of the fused projections
            adapter_width += count * (weight.shape[1] + rows)
    return adapter_width


def _macs(model: ModelConfig, *, seq_len: int, convention: FlopsConvention, tp: int) -> Iterator[tuple[str, float]]:
    """Yield name and forward multiply-adds per token of each term; names repeat over the layers."""
    for layer, count in model.layer_counts.items():
        for name, term in _layer_macs(model, layer, seq_len=seq_len, convention=convention):
            yield name, count * term
    head_rows = model.vocab_size
    if model.has_value_head:
        head_rows = 1
    elif convention.vocab_multiple > 1:
        multiple = convention.vocab_multiple * tp
        head_rows = -(-model.vocab_size // multiple) * multiple
    head = model.hidden_size * head_rows
    yield "head", head
    streams = 0.0
    if model.hyper_connections is not None and convention.counts_hyper_connections:
        streams = model.hyper_connections.num_streams * model.stream_size
        yield "hyper-connections", streams
    if convention.counts_mtp and model.mtp_num_layers:
        block = 0.0
        for _, term in _layer_macs(model, model.mtp_layer, seq_len=seq_len, convention=convention):
            block += term
        yield "mtp", model.mtp_num_layers * (block + head + streams + _mtp_projection(model, convention))
    if convention.counts_small_parameters:
        yield "norms and biases", _num_small_parameters(model)


def _layer_macs(
    model: ModelConfig, layer: Layer, *, seq_len: int, convention: FlopsConvention
) -> Iterator[tuple[str, float]]:
    match layer.mixer:
        case Mixer.ATTENTION:
            yield from _attention(model, context=_context(layer, seq_len, convention), convention=convention)
        case Mixer.COMPRESSED_ATTENTION:
            yield from compressed_attention_macs(
                model,
                layer,
                window_context=_mean_context(None, seq_len, convention),
                seq_len=convention.packed_sample_len or seq_len,
                convention=convention,
            )
        case Mixer.MAMBA:
            yield "mamba", _mamba(model, convention)
        case Mixer.GATED_DELTA_NET:
            yield "delta net", _gated_delta_net(model)
        case None:
            pass
    if model.hyper_connections is not None and convention.counts_hyper_connections:
        sublayers = (layer.mixer is not None) + (layer.feed_forward is not None)
        products = model.hyper_connections.num_weights + model.hyper_connections.num_streams  # weights, mixing
        yield "hyper-connections", sublayers * products * model.stream_size
    if layer.feed_forward is None:
        return
    matrices = _mlp_matrices(model.activation, convention)
    is_moe = layer.feed_forward is FeedForward.MOE or convention.are_dense_layers_moe
    if is_moe and model.moe is not None:
        yield from _mixture(model, model.moe, matrices=matrices, convention=convention)
    else:
        yield "mlp", matrices * model.hidden_size * model.ffn_hidden_size


def _context(layer: Layer, seq_len: int, convention: FlopsConvention) -> float:
    """Return the convention's mean number of positions a token of a layer attends to."""
    return _mean_context(None if layer.is_chunked else layer.window, seq_len, convention)


def _mean_context(window: int | None, seq_len: int, convention: FlopsConvention) -> float:
    """Return the convention's mean number of positions a token attends to, of those in a window."""
    if convention.packed_sample_len:
        seq_len = convention.packed_sample_len
    if not convention.is_causal_halved:
        return seq_len
    if convention.window == "exact" and window is not None and window < seq_len:
        return window - window * (window - 1) / (2 * seq_len)
    if convention.counts_diagonal:
        return (seq_len + 1) / 2
    return seq_len / 2


def _attention(model: ModelConfig, *, context: float, convention: FlopsConvention) -> Iterator[tuple[str, float]]:
    if model.mla is not None:
        yield from _latent_attention(model, model.mla, context=context, convention=convention)
        return
    kv_heads = convention.num_kv_heads.get(model.name, model.num_kv_heads)
    if convention.is_mha:
        kv_heads = model.num_heads
    head_dim: float = model.head_dim
    if convention.head_dim == "hidden":
        head_dim = model.hidden_size / model.num_heads
    query_matrices = 3 if model.attention_gate else 2  # queries, output, and the output's gate
    yield "attention projections", model.hidden_size * head_dim * (query_matrices * model.num_heads + 2 * kv_heads)
    yield CORE, context * model.num_heads * 2 * head_dim


def _latent_attention(
    model: ModelConfig, mla: MLA, *, context: float, convention: FlopsConvention
) -> Iterator[tuple[str, float]]:
    hidden = model.hidden_size
    heads = model.num_heads
    rank = mla.kv_lora_rank
    query_dim = mla.qk_nope_head_dim + mla.qk_rope_head_dim
    queries = heads * query_dim
    query_macs = hidden * queries
    if mla.q_lora_rank is not None:
        query_macs = mla.q_lora_rank * (hidden + queries)
    keys_values = hidden * (rank + mla.qk_rope_head_dim) + rank * heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    yield "attention projections", query_macs + keys_values + heads * mla.v_head_dim * hidden
    yield CORE, context * heads * (query_dim + mla.v_head_dim)
    if convention.counts_norms:
        yield "norms", rank + (mla.q_lora_rank or 0)


def _mamba(model: ModelConfig, convention: FlopsConvention) -> float:
    mamba = model.mamba
    assert mamba is not None  # noqa: S101 (no layer has one without it)
    hidden = model.hidden_size
    inner = mamba.num_heads * mamba.head_dim
    if convention.mamba_width == "double":
        inner = 2 * hidden
    projection = hidden * (2 * inner + 2 * mamba.num_groups * mamba.state_dim + mamba.num_heads)
    scan = convention.scan_flops / _FLOPS_PER_MAC * inner * mamba.state_dim
    return projection + scan + inner * hidden


def _gated_delta_net(model: ModelConfig) -> float:
    net = model.gated_delta_net
    assert net is not None  # noqa: S101 (no layer has one without it)
    keys = net.num_key_heads * net.key_head_dim
    values = net.num_value_heads * net.value_head_dim
    projections = model.hidden_size * (2 * keys + 2 * values + 2 * net.num_value_heads + values)
    convolution = net.conv_kernel * (2 * keys + values)
    return projections + convolution + 4 * values * net.value_head_dim


def _mlp_matrices(activation: Activation, convention: FlopsConvention) -> int:
    is_gated = activation.is_gated
    if convention.needs_silu_for_gate:
        is_gated = activation is Activation.SWIGLU
    return 3 if is_gated else 2


def _mixture(
    model: ModelConfig, moe: MoE, *, matrices: int, convention: FlopsConvention
) -> Iterator[tuple[str, float]]:
    hidden = model.hidden_size
    yield "experts", matrices * (moe.latent_size or hidden) * moe.topk * moe.ffn_hidden_size
    if moe.latent_size is not None:
        yield "latent projections", 2 * hidden * moe.latent_size
    shared = moe.shared_ffn_hidden_size
    if shared:
        if convention.is_shared_expert_single:
            shared = min(shared, moe.ffn_hidden_size)
        yield "shared experts", matrices * hidden * shared
    if convention.counts_router:
        yield "router", hidden * (moe.num_experts + moe.shared_gate)


def _mtp_projection(model: ModelConfig, convention: FlopsConvention) -> float:
    """Return multiply-adds of the projection of a depth's hidden state and the next token's embedding."""
    if model.hybrid_pattern and not convention.counts_hybrid_mtp_projection:
        return 0.0
    macs = 2 * model.hidden_size**2
    if convention.counts_norms:
        macs += 3 * model.hidden_size
    return macs


@lru_cache(maxsize=_KEPT_MODELS)
def _num_small_parameters(model: ModelConfig) -> float:
    """Return the active parameters outside matrix products: norms, biases, convolutions."""
    active = 1.0
    if model.moe is not None:
        active = model.moe.topk / model.moe.num_experts
    total = 0.0
    for weight, count in counted_weights(model):
        if weight.name.startswith(("mtp.", "embedding.", "positions.")):
            continue
        if len(weight.shape) > 1 and not weight.name.endswith((".bias", "conv.weight", "streams.weight")):
            continue
        total += count * weight.numel * (active if weight.is_expert else 1.0)
    return total
