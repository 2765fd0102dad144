"""Model FLOPs per token, under a named convention that travels with every number.

One formula for all models and all sources: what a source counts, mistakes included, is data
(``catalog/conventions.json``), and the terms below read it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.architecture import ModelConfig
from pytest_nemoperf.components import MLA, Activation, FeedForward, Layer, Mixer, MoE
from pytest_nemoperf.conventions import DEFAULT_CONVENTION, FlopsConvention, find_convention, flops_conventions
from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.weights import model_weights, num_parameters

__all__ = [
    "DEFAULT_CONVENTION",
    "FLOPS_REL_TOL",
    "FlopsConvention",
    "find_convention",
    "flops_conventions",
    "flops_terms",
    "num_flops",
    "num_flops_per_token",
]

FLOPS_REL_TOL: Final = 1e-4
"""How far counts of the same FLOPs may be apart: stored numbers keep six significant digits."""
_FORWARD_AND_BACKWARD = 3  # forward, gradient of the input, gradient of the weight
_FLOPS_PER_MAC = 2
_FROZEN = 2  # products of frozen weights: they have no gradient of their own
_PROJECTIONS = ("qkv.weight", "out.weight", "gate_up.weight", "up.weight", "down.weight")
_CORE = "attention core"


def num_flops(model: ModelConfig, *, seq_lens: Sequence[int], convention: FlopsConvention, tp: int = 1) -> float:
    """Return model FLOPs of a batch whose sequences are counted by their own lengths.

    Args:
        model: Architecture.
        seq_lens: Real tokens of each sequence; padding between them is not counted.
        convention: What is counted.
        tp: See num_flops_per_token.

    Returns:
        FLOPs (not TFLOPs), forward plus backward.

    Raises:
        RecipeError: If a length is not positive.
    """
    return sum(
        count * length * num_flops_per_token(model, seq_len=length, convention=convention, tp=tp)
        for length, count in Counter(seq_lens).items()
    )


def num_flops_per_token(model: ModelConfig, *, seq_len: int, convention: FlopsConvention, tp: int = 1) -> float:
    """Return model FLOPs per trained token, forward plus backward.

    Two FLOPs per multiply-add; activation recomputation, the embedding
    lookup, norms, RoPE and softmax are not counted.

    Args:
        model: Architecture; of routed experts, those a token goes to.
        seq_len: Tokens per sequence.
        convention: What is counted, e.g. whether causal attention is halved.
        tp: Degree of tensor parallelism, which some conventions' padded vocabulary depends on.

    Returns:
        FLOPs (not TFLOPs) per token.

    Raises:
        RecipeError: If seq_len is not positive.

    References:
        Narayanan et al. 2021, section 5.1, https://arxiv.org/abs/2104.04473
    """
    return float(sum(flops_terms(model, seq_len=seq_len, convention=convention, tp=tp).values()))


def flops_terms(model: ModelConfig, *, seq_len: int, convention: FlopsConvention, tp: int = 1) -> Mapping[str, float]:
    """Return the terms of ``num_flops_per_token`` by name; they sum to it.

    Terms a model has not, or a convention does not count, are absent. Arguments and errors as there.
    """
    if seq_len < 1:
        raise RecipeError(f"seq_len={seq_len} must be >= 1")
    macs: dict[str, float] = {}
    for name, term in _macs(model, seq_len=seq_len, convention=convention, tp=tp):
        macs[name] = macs.get(name, 0.0) + term
    counted_tokens = 1 - 1 / convention.packed_sample_len if convention.packed_sample_len else 1.0
    products = _products_with_weights(model, convention)
    return MappingProxyType(
        {
            name: counted_tokens
            * _FLOPS_PER_MAC
            * term
            * (_core_products(convention, products) if name == _CORE else products)
            for name, term in macs.items()
        }
    )


def _products_with_weights(model: ModelConfig, convention: FlopsConvention) -> float:
    """Return how many products a weight takes part in: three, or less if it is frozen behind an adapter."""
    if convention.lora is None:
        return _FORWARD_AND_BACKWARD
    adapters = convention.lora_rank * sum(
        weight.shape[1] + rows
        for weight in model_weights(model)
        if weight.name.endswith(_PROJECTIONS) and not weight.is_expert
        for rows in ((weight.split.sections if weight.split else ()) or (weight.shape[0],))
    )
    return _FROZEN + adapters / num_parameters(model)


def _core_products(convention: FlopsConvention, products: float) -> float:
    """Return the same for the attention core, which has no weights: only a source that scales everything scales it."""
    return products if convention.lora == "all" else _FORWARD_AND_BACKWARD


def _macs(model: ModelConfig, *, seq_len: int, convention: FlopsConvention, tp: int) -> Iterator[tuple[str, float]]:
    """Yield name and forward multiply-adds per token of each term; names repeat over the layers."""
    for layer, count in Counter(model.layers).items():
        for name, term in _layer_macs(model, layer, seq_len=seq_len, convention=convention):
            yield name, count * term
    multiple = convention.vocab_multiple * (tp if convention.vocab_multiple > 1 else 1)
    head_rows = 1 if model.has_value_head else -(-model.vocab_size // multiple) * multiple
    head = model.hidden_size * head_rows
    yield "head", head
    if convention.counts_mtp and model.mtp_num_layers:
        block = sum(term for _, term in _layer_macs(model, model.mtp_layer, seq_len=seq_len, convention=convention))
        yield "mtp", model.mtp_num_layers * (block + head + _mtp_projection(model, convention))
    if convention.counts_small_parameters:
        yield "norms and biases", _num_small_parameters(model)


def _layer_macs(
    model: ModelConfig, layer: Layer, *, seq_len: int, convention: FlopsConvention
) -> Iterator[tuple[str, float]]:
    match layer.mixer:
        case Mixer.ATTENTION:
            yield from _attention(model, context=_context(layer, seq_len, convention), convention=convention)
        case Mixer.MAMBA:
            yield "mamba", _mamba(model, convention)
        case Mixer.GATED_DELTA_NET:
            yield "delta net", _gated_delta_net(model)
        case None:
            pass
    matrices = _mlp_matrices(model.activation, convention)
    if model.moe is not None and (
        layer.feed_forward is FeedForward.MOE or (convention.are_dense_layers_moe and layer.feed_forward is not None)
    ):
        yield from _mixture(model, model.moe, matrices=matrices, convention=convention)
    elif layer.feed_forward is not None:
        yield "mlp", matrices * model.hidden_size * model.ffn_hidden_size


def _context(layer: Layer, seq_len: int, convention: FlopsConvention) -> float:
    """Return the positions a token attends to, averaged over the sequence, as the convention sees them."""
    if convention.packed_sample_len:
        seq_len = convention.packed_sample_len
    if not convention.is_causal_halved:
        return seq_len
    window = None if layer.is_chunked or convention.window == "ignored" else layer.window
    if window is not None and window < seq_len:
        return window - window * (window - 1) / (2 * seq_len)
    return (seq_len + 1) / 2 if convention.counts_diagonal else seq_len / 2


def _attention(model: ModelConfig, *, context: float, convention: FlopsConvention) -> Iterator[tuple[str, float]]:
    if model.mla is not None:
        yield from _latent_attention(model, model.mla, context=context, convention=convention)
        return
    kv_heads = convention.num_kv_heads.get(model.name, model.num_kv_heads)
    if convention.is_mha:
        kv_heads = model.num_heads
    head_dim = model.head_dim if convention.head_dim == "actual" else model.hidden_size / model.num_heads
    query_matrices = 3 if model.attention_gate else 2  # queries, output, and the output's gate
    yield "attention projections", model.hidden_size * head_dim * (query_matrices * model.num_heads + 2 * kv_heads)
    yield _CORE, context * model.num_heads * 2 * head_dim


def _latent_attention(
    model: ModelConfig, mla: MLA, *, context: float, convention: FlopsConvention
) -> Iterator[tuple[str, float]]:
    hidden, heads, rank = model.hidden_size, model.num_heads, mla.kv_lora_rank
    query_dim = mla.qk_nope_head_dim + mla.qk_rope_head_dim
    queries = heads * query_dim
    query_macs = hidden * queries if mla.q_lora_rank is None else mla.q_lora_rank * (hidden + queries)
    keys_values = hidden * (rank + mla.qk_rope_head_dim) + rank * heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    yield "attention projections", query_macs + keys_values + heads * mla.v_head_dim * hidden
    yield _CORE, context * heads * (query_dim + mla.v_head_dim)
    if convention.counts_norms:
        yield "norms", rank + (mla.q_lora_rank or 0)


def _mamba(model: ModelConfig, convention: FlopsConvention) -> float:
    mamba = model.mamba
    assert mamba is not None  # noqa: S101 (no layer has one without it)
    hidden = model.hidden_size
    inner = mamba.num_heads * mamba.head_dim if convention.mamba_width == "actual" else 2 * hidden
    projection = hidden * (2 * inner + 2 * mamba.num_groups * mamba.state_dim + mamba.num_heads)
    scan = convention.scan_flops / _FLOPS_PER_MAC * inner * mamba.state_dim
    return projection + scan + inner * hidden


def _gated_delta_net(model: ModelConfig) -> float:
    net = model.gated_delta_net
    assert net is not None  # noqa: S101 (no layer has one without it)
    keys, values = net.num_key_heads * net.key_head_dim, net.num_value_heads * net.value_head_dim
    projections = model.hidden_size * (2 * keys + 2 * values + 2 * net.num_value_heads + values)
    convolution = net.conv_kernel * (2 * keys + values)
    return projections + convolution + 4 * values * net.value_head_dim


def _mlp_matrices(activation: Activation, convention: FlopsConvention) -> int:
    if convention.needs_silu_for_gate:
        return 3 if activation is Activation.SWIGLU else 2
    return 3 if activation.is_gated else 2


def _mixture(
    model: ModelConfig, moe: MoE, *, matrices: int, convention: FlopsConvention
) -> Iterator[tuple[str, float]]:
    hidden = model.hidden_size
    yield "experts", matrices * (moe.latent_size or hidden) * moe.topk * moe.ffn_hidden_size
    if moe.latent_size is not None:
        yield "latent projections", 2 * hidden * moe.latent_size
    shared = moe.shared_ffn_hidden_size
    if shared:
        width = min(shared, moe.ffn_hidden_size) if convention.is_shared_expert_single else shared
        yield "shared experts", matrices * hidden * width
    if convention.counts_router:
        yield "router", hidden * (moe.num_experts + (1 if moe.shared_gate else 0))


def _mtp_projection(model: ModelConfig, convention: FlopsConvention) -> float:
    """Return multiply-adds of what joins a depth's hidden state and the next token's embedding."""
    if model.hybrid_pattern and not convention.counts_hybrid_mtp_projection:
        return 0.0
    return 2 * model.hidden_size**2 + (3 * model.hidden_size if convention.counts_norms else 0)


def _num_small_parameters(model: ModelConfig) -> float:
    """Return the active parameters that are no matrix a token is multiplied with: norms, biases, convolutions."""
    active = 1.0 if model.moe is None else model.moe.topk / model.moe.num_experts
    return sum(
        weight.numel * (active if weight.is_expert else 1.0)
        for weight in model_weights(model)
        if not weight.name.startswith(("mtp.", "embedding.", "positions."))
        and (len(weight.shape) == 1 or weight.name.endswith((".bias", "conv.weight")))
    )
