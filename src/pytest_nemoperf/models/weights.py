"""Weights of an architecture: name, shape, and sharding over the parallel axes.

The native engine makes exactly these parameters and cuts them as given here; parameter counts and memory of a plan are
sums over them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Final

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import CompressedAttention, FeedForward, Layer, Mixer

_KEPT_MODELS: Final = 64
"""Models whose numbers of parameters are kept."""


class TPGrad(StrEnum):
    """Gradient of a weight on one rank of the tp axis, after backward."""

    OWN = "own"  # the weight is split: the gradient of the part is complete, but copies of a part must be summed
    HEADS = "heads"  # the weight is whole, its gradient partial: that of this rank's heads; ranks must sum
    TOKENS = "tokens"  # whole; under sequence parallelism partial: that of this rank's tokens; ranks must sum


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionCut:
    """Equal parts of one section of a weight, each on one rank or copied to several.

    Attributes:
        start: Start of the section along the dimension that is cut.
        length: Length of a part.
        num_copies: Consecutive ranks that hold the same part.
    """

    start: int
    length: int
    num_copies: int

    def bounds(self, rank: int) -> tuple[int, int]:
        """Return start and end of the part on one rank of the axis."""
        first = self.start + rank // self.num_copies * self.length
        return first, first + self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSpec:
    """Split of a weight over the tp axis, or of an expert's over etp.

    Attributes:
        dim: Dimension that is cut.
        sections: Lengths along it that are cut one by one, so that a rank gets its part of each of the
            matrices fused into one; empty for a weight that is one matrix.
        max_parts: Most parts of each section (key and value heads); with a multiple of that many ranks, consecutive
            ranks hold copies. None for a section without such a limit, empty if no section has one.
        is_padded: The dimension is padded to the next multiple of the degree (a vocabulary).
    """

    dim: int
    sections: tuple[int, ...] = ()
    max_parts: tuple[int | None, ...] = ()
    is_padded: bool = False

    def cuts(self, shape: Sequence[int], *, degree: int) -> tuple[SectionCut, ...]:
        """Return the parts of each section for ``degree`` ranks; uneven parts are rounded up."""
        sections = self.sections or (shape[self.dim],)
        max_parts = self.max_parts or (None,) * len(sections)
        cuts = []
        start = 0
        for section, most in zip(sections, max_parts, strict=True):
            num_copies = 1
            if most is not None:
                num_copies = _num_copies(degree, num_parts=most)
            length = math.ceil(section / (degree // num_copies))
            cuts.append(SectionCut(start=start, length=length, num_copies=num_copies))
            start += section
        return tuple(cuts)

    def equal_cuts(self, shape: Sequence[int], *, degree: int) -> tuple[SectionCut, ...]:
        """Return the parts of each section, which must divide evenly unless the dimension is padded.

        Raises:
            PlanError: If the parts would not be equal.
        """
        cuts = self.cuts(shape, degree=degree)
        for cut, section in zip(cuts, self.sections or (shape[self.dim],), strict=True):
            num_parts = degree // cut.num_copies
            if section % num_parts and not self.is_padded:
                raise PlanError(
                    f"a weight of {tuple(shape)} can't be cut into {num_parts} equal parts along {section} rows; "
                    "choose a degree that divides it"
                )
        return cuts


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One weight of the whole model.

    Attributes:
        name: Name of the native engine's parameter, e.g. ``blocks.0.attention.qkv.weight``.
        shape: Shape of the whole weight; an expert weight has the experts in dimension 0.
        split: Split over tp (etp, for experts); None for a weight every rank of the axis holds whole.
        tp_grad: State of its gradient over the tp axis after backward.
        is_expert: It belongs to routed experts: ep cuts dimension 0.
    """

    name: str
    shape: tuple[int, ...]
    split: ShardSpec | None = None
    tp_grad: TPGrad = TPGrad.OWN
    is_expert: bool = False

    @property
    def numel(self) -> int:
        """Elements of the whole weight."""
        return math.prod(self.shape)


def sharded_dim(shape: Sequence[int], *, num_shards: int, is_expert: bool) -> int:
    """Return the dimension along which FSDP shards a rank's part of a weight.

    Dimension 0, but dimension 1 of an expert's weight if only that divides: whole experts would leave ranks with
    nothing but padding.
    """
    if is_expert and shape[0] % num_shards and shape[1] % num_shards == 0:
        return 1
    return 0


def num_kv_copies(model: ModelConfig, *, tp: int) -> int:
    """Return the number of tensor parallel ranks that hold the same key-value heads; 1 for latent attention.

    Compressed attention's one head of keys is made of a weight that every rank holds whole, so nothing is cut.

    References:
        vLLM's QKVParallelLinear (num_kv_head_replicas) copies the projections' rows in the same order. Megatron-Core
        cuts the fused projection evenly instead and gathers queries, keys and values in each pass (num_query_groups
        below tensor_model_parallel_size).
    """
    if model.mla is not None or model.compressed_attention is not None:
        return 1
    return _num_copies(tp, num_parts=model.num_kv_heads)


def num_local_kv_heads(model: ModelConfig, *, tp: int) -> float:
    """Return the key-value heads of one tensor parallel rank; a fraction if tp does not divide them.

    Latent attention has as many as query heads.
    """
    heads = model.num_heads if model.mla is not None else model.num_kv_heads
    return max(1.0, heads / tp)


@lru_cache(maxsize=_KEPT_MODELS)
def num_parameters(model: ModelConfig) -> int:
    """Return the parameters of the whole model, norms and multi-token prediction included; a tied head counts once."""
    return sum(count * weight.numel for weight, count in counted_weights(model))


def num_active_parameters(model: ModelConfig) -> int:
    """Return the parameters one token uses: of the routed experts, the ``topk`` it goes to."""
    active = 0
    for weight, count in counted_weights(model):
        if weight.is_expert and model.moe is not None:
            active += count * round(weight.numel * (model.moe.topk / model.moe.num_experts))
        else:
            active += count * weight.numel
    return active


def model_weights(model: ModelConfig) -> Iterator[Weight]:
    """Yield every weight, in the order of the forward pass."""
    yield from embedding_weights(model)
    for index in range(model.num_layers):
        yield from block_weights(model, index)
    yield from head_weights(model)
    for depth in range(model.num_mtp_blocks):
        yield from mtp_weights(model, depth)


def counted_weights(model: ModelConfig) -> Iterator[tuple[Weight, int]]:
    """Yield the weights of one layer of each kind, and all others, with the number of weights that are like it."""
    for weight in embedding_weights(model):
        yield weight, 1
    for layer, count in model.layer_counts.items():
        for weight in layer_weights(model, layer, name=f"blocks.{model.layers.index(layer)}"):
            yield weight, count
    for weight in head_weights(model):
        yield weight, 1
    if model.num_mtp_blocks:
        for weight in mtp_weights(model, 0):
            yield weight, model.num_mtp_blocks


def layer_weights(model: ModelConfig, layer: Layer, *, name: str) -> list[Weight]:
    """Return the weights of one kind of decoder layer; their names begin with ``name`` and a dot."""
    return list(_prefixed(f"{name}.", _layer_weights(model, layer)))


def embedding_weights(model: ModelConfig) -> Iterator[Weight]:
    """Yield the tables of the first pipeline stage."""
    yield Weight(
        name="embedding.weight", shape=(model.vocab_size, model.hidden_size), split=ShardSpec(dim=0, is_padded=True)
    )
    if model.max_positions is not None:
        yield Weight(name="positions.weight", shape=(model.max_positions, model.hidden_size), tp_grad=TPGrad.TOKENS)


def block_weights(model: ModelConfig, index: int) -> Iterator[Weight]:
    """Yield the weights of one decoder layer."""
    yield from layer_weights(model, model.layer(index), name=f"blocks.{index}")


def head_weights(model: ModelConfig) -> Iterator[Weight]:
    """Yield the last norm and the output head of the last pipeline stage; a tied head has no weight of its own."""
    yield from _last_streams(model)
    yield from _norm(model, "norm")
    if model.has_value_head:
        # Like a norm, it is applied to a rank's own tokens of the residual stream.
        yield Weight(name="head.weight", shape=(1, model.hidden_size), tp_grad=TPGrad.TOKENS)
    elif not model.tied_embeddings:
        yield Weight(
            name="head.weight", shape=(model.vocab_size, model.hidden_size), split=ShardSpec(dim=0, is_padded=True)
        )


def mtp_weights(model: ModelConfig, depth: int) -> Iterator[Weight]:
    """Yield the weights of one multi-token prediction depth; embedding and head are the model's own.

    References:
        DeepSeek-V3, section 2.2, https://arxiv.org/abs/2412.19437
    """
    hidden = model.hidden_size
    weights = [
        *_norm(model, "embedding_norm"),
        *_norm(model, "hidden_norm"),
        Weight(name="projection.weight", shape=(hidden, 2 * hidden), tp_grad=TPGrad.TOKENS),
        *_prefixed("block.", _layer_weights(model, model.mtp_layer)),
        *_last_streams(model),
        *_norm(model, "norm"),
    ]
    yield from _prefixed(f"mtp.{depth}.", weights)


def _layer_weights(model: ModelConfig, layer: Layer) -> Iterator[Weight]:
    if layer.mixer is not None:
        yield from _streams(model, "mixer_streams")
    match layer.mixer:
        case Mixer.ATTENTION:
            yield from _norm(model, "attention_norm")
            attention = _attention if model.mla is None else _latent_attention
            yield from _prefixed("attention.", attention(model))
        case Mixer.COMPRESSED_ATTENTION:
            yield from _norm(model, "attention_norm")
            yield from _prefixed("attention.", _compressed_attention(model, ratio=layer.compress_ratio))
        case Mixer.MAMBA:
            yield from _norm(model, "mamba_norm")
            yield from _prefixed("mamba.", _mamba(model))
        case Mixer.GATED_DELTA_NET:
            yield from _norm(model, "delta_norm")
            yield from _prefixed("delta.", _gated_delta_net(model))
        case None:
            pass
    if layer.mixer is not None and model.has_post_norms:
        yield from _norm(model, "attention_post_norm")
    if layer.feed_forward is None:
        return
    yield from _streams(model, "mlp_streams")
    yield from _norm(model, "mlp_norm")
    if layer.feed_forward is FeedForward.MOE:
        yield from _prefixed("moe.", _moe(model))
    else:
        yield from _prefixed("mlp.", _mlp(model, width=model.ffn_hidden_size))
    if model.has_post_norms:
        yield from _norm(model, "mlp_post_norm")


def _attention(model: ModelConfig) -> Iterator[Weight]:
    queries = model.num_heads * model.head_dim
    keys = model.num_kv_heads * model.head_dim
    sections = (queries, keys, keys)
    if model.attention_gate:
        sections = (2 * queries, keys, keys)
    split = ShardSpec(dim=0, sections=sections, max_parts=(None, model.num_kv_heads, model.num_kv_heads))
    yield Weight(name="qkv.weight", shape=(sum(sections), model.hidden_size), split=split)
    if model.qkv_bias:
        yield Weight(name="qkv.bias", shape=(sum(sections),), split=split)
    if model.qk_norm == "rms":
        yield Weight(name="q_norm.weight", shape=(model.head_dim,), tp_grad=TPGrad.HEADS)
        yield Weight(name="k_norm.weight", shape=(model.head_dim,), tp_grad=TPGrad.HEADS)
    if model.attention_sinks:
        yield Weight(name="sinks", shape=(model.num_heads,), split=ShardSpec(dim=0))
    yield from _output("out", model, width=queries, has_bias=model.out_bias)


def _latent_attention(model: ModelConfig) -> Iterator[Weight]:
    mla = model.mla
    assert mla is not None  # noqa: S101 (no layer has one without it)
    hidden = model.hidden_size
    queries = model.num_heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    keys_values = model.num_heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    if mla.q_lora_rank is None:
        yield Weight(name="q.weight", shape=(queries, hidden), split=ShardSpec(dim=0))
    else:
        yield Weight(name="q_down.weight", shape=(mla.q_lora_rank, hidden), tp_grad=TPGrad.HEADS)
        yield Weight(name="q_down_norm.weight", shape=(mla.q_lora_rank,), tp_grad=TPGrad.HEADS)
        yield Weight(name="q_up.weight", shape=(queries, mla.q_lora_rank), split=ShardSpec(dim=0))
    latent = mla.kv_lora_rank + mla.qk_rope_head_dim
    yield Weight(name="kv_down.weight", shape=(latent, hidden), tp_grad=TPGrad.HEADS)
    yield Weight(name="kv_down_norm.weight", shape=(mla.kv_lora_rank,), tp_grad=TPGrad.HEADS)
    yield Weight(name="kv_up.weight", shape=(keys_values, mla.kv_lora_rank), split=ShardSpec(dim=0))
    yield from _output("out", model, width=model.num_heads * mla.v_head_dim, has_bias=model.out_bias)


def _compressed_attention(model: ModelConfig, *, ratio: int) -> Iterator[Weight]:
    """Yield the weights of attention to a window and to positions that each compress ``ratio`` tokens.

    References:
        Split over tp: NVIDIA-NeMo/Megatron-Bridge@067f987df src/megatron/bridge/models/deepseek/deepseek_v4_bridge.py
    """
    attention = model.compressed_attention
    assert attention is not None  # noqa: S101 (no layer has one without it)
    hidden = model.hidden_size
    width = model.head_dim
    queries = model.num_heads * width
    groups = attention.num_output_groups
    rank = attention.q_lora_rank
    latents = groups * attention.o_lora_rank
    yield Weight(name="q_down.weight", shape=(rank, hidden), tp_grad=TPGrad.HEADS)
    yield Weight(name="q_down_norm.weight", shape=(rank,), tp_grad=TPGrad.HEADS)
    yield Weight(name="q_up.weight", shape=(queries, rank), split=ShardSpec(dim=0))
    yield Weight(name="kv.weight", shape=(width, hidden), tp_grad=TPGrad.HEADS)
    yield Weight(name="kv_norm.weight", shape=(width,), tp_grad=TPGrad.HEADS)
    if model.attention_sinks:
        yield Weight(name="sinks", shape=(model.num_heads,), split=ShardSpec(dim=0))
    if ratio:
        is_indexed = attention.has_indexer(ratio)
        yield from _prefixed("compressor.", _compressor(hidden, width=width, ratio=ratio, is_overlapping=is_indexed))
        if is_indexed:
            yield from _prefixed("indexer.", _indexer(model, attention))
    yield Weight(name="out_groups.weight", shape=(latents, queries // groups), tp_grad=TPGrad.HEADS)
    yield from _output("out", model, width=latents, has_bias=model.out_bias)


def _compressor(hidden: int, *, width: int, ratio: int, is_overlapping: bool) -> Iterator[Weight]:
    """Yield the weights that make positions of ``ratio`` tokens each, or of twice as many for overlapping pieces."""
    rows = 2 * width if is_overlapping else width
    yield Weight(name="kv.weight", shape=(rows, hidden), tp_grad=TPGrad.HEADS)
    yield Weight(name="gate.weight", shape=(rows, hidden), tp_grad=TPGrad.HEADS)
    yield Weight(name="position.bias", shape=(ratio, rows), tp_grad=TPGrad.HEADS)
    yield Weight(name="norm.weight", shape=(width,), tp_grad=TPGrad.HEADS)


def _indexer(model: ModelConfig, attention: CompressedAttention) -> Iterator[Weight]:
    heads = attention.index_num_heads
    width = attention.index_head_dim
    yield Weight(name="q_up.weight", shape=(heads * width, attention.q_lora_rank), tp_grad=TPGrad.HEADS)
    yield Weight(name="head_weights.weight", shape=(heads, model.hidden_size), tp_grad=TPGrad.HEADS)
    compressor = _compressor(model.hidden_size, width=width, ratio=attention.indexed_ratio, is_overlapping=True)
    yield from _prefixed("compressor.", compressor)


def _streams(model: ModelConfig, name: str) -> Iterator[Weight]:
    """Yield the weights that a sub-layer derives its use of several residual streams from; none for one stream."""
    connections = model.hyper_connections
    if connections is None:
        return
    yield from _stream_weights(model, name=name, rows=connections.num_weights, num_scales=3)


def _last_streams(model: ModelConfig) -> Iterator[Weight]:
    """Yield the weights of the sum of the residual streams behind the last layer."""
    connections = model.hyper_connections
    if connections is None:
        return
    yield from _stream_weights(model, name="streams", rows=connections.num_streams, num_scales=1)


def _stream_weights(model: ModelConfig, *, name: str, rows: int, num_scales: int) -> Iterator[Weight]:
    yield Weight(name=f"{name}.weight", shape=(rows, model.stream_size), tp_grad=TPGrad.TOKENS)
    yield Weight(name=f"{name}.bias", shape=(rows,), tp_grad=TPGrad.TOKENS)
    yield Weight(name=f"{name}.scale", shape=(num_scales,), tp_grad=TPGrad.TOKENS)


def _mlp(model: ModelConfig, *, width: int) -> Iterator[Weight]:
    name, sections = _first_matrix(model, width=width)
    yield Weight(
        name=f"{name}.weight", shape=(sum(sections), model.hidden_size), split=ShardSpec(dim=0, sections=sections)
    )
    if model.mlp_bias:
        yield Weight(name=f"{name}.bias", shape=(sum(sections),), split=ShardSpec(dim=0, sections=sections))
    yield from _output("down", model, width=width, has_bias=model.mlp_bias)


def _moe(model: ModelConfig) -> Iterator[Weight]:
    moe = model.moe
    assert moe is not None  # noqa: S101 (no layer has one without it)
    hidden = model.hidden_size
    inner = moe.latent_size or hidden
    yield Weight(name="router.weight", shape=(moe.num_experts, hidden), tp_grad=TPGrad.TOKENS)
    if moe.router_bias:
        yield Weight(name="router.bias", shape=(moe.num_experts,), tp_grad=TPGrad.TOKENS)
    if moe.latent_size is not None:
        yield Weight(name="latent_down.weight", shape=(inner, hidden), tp_grad=TPGrad.TOKENS)
        yield Weight(name="latent_up.weight", shape=(hidden, inner), tp_grad=TPGrad.TOKENS)
    name, sections = _first_matrix(model, width=moe.ffn_hidden_size)
    split = ShardSpec(dim=1, sections=sections)
    shape = (moe.num_experts, sum(sections), inner)
    yield Weight(name=f"experts.{name}.weight", shape=shape, split=split, is_expert=True)
    if model.mlp_bias:
        yield Weight(name=f"experts.{name}.bias", shape=shape[:2], split=split, is_expert=True)
    shape = (moe.num_experts, inner, moe.ffn_hidden_size)
    yield Weight(name="experts.down.weight", shape=shape, split=ShardSpec(dim=2), is_expert=True)
    if model.mlp_bias:
        yield Weight(name="experts.down.bias", shape=shape[:2], is_expert=True)
    if moe.shared_ffn_hidden_size:
        yield from _prefixed("shared.", _mlp(model, width=moe.shared_ffn_hidden_size))
    if moe.shared_gate:
        yield Weight(name="shared_gate.weight", shape=(1, hidden), tp_grad=TPGrad.TOKENS)


def _mamba(model: ModelConfig) -> Iterator[Weight]:
    mamba = model.mamba
    assert mamba is not None  # noqa: S101 (no layer has one without it)
    inner = mamba.num_heads * mamba.head_dim
    states = 2 * mamba.num_groups * mamba.state_dim
    yield Weight(name="in_proj.weight", shape=(2 * inner + states + mamba.num_heads, model.hidden_size))
    yield Weight(name="conv.weight", shape=(inner + states, mamba.conv_kernel))
    yield Weight(name="conv.bias", shape=(inner + states,))
    for name in ("A_log", "D", "dt_bias"):
        yield Weight(name=name, shape=(mamba.num_heads,))
    yield Weight(name="norm.weight", shape=(inner,))
    yield Weight(name="out.weight", shape=(model.hidden_size, inner))


def _gated_delta_net(model: ModelConfig) -> Iterator[Weight]:
    net = model.gated_delta_net
    assert net is not None  # noqa: S101 (no layer has one without it)
    keys = net.num_key_heads * net.key_head_dim
    values = net.num_value_heads * net.value_head_dim
    yield Weight(name="qkvz.weight", shape=(2 * keys + 2 * values, model.hidden_size))
    yield Weight(name="ba.weight", shape=(2 * net.num_value_heads, model.hidden_size))
    yield Weight(name="conv.weight", shape=(2 * keys + values, net.conv_kernel))
    for name in ("A_log", "dt_bias"):
        yield Weight(name=name, shape=(net.num_value_heads,))
    yield Weight(name="norm.weight", shape=(net.value_head_dim,))
    yield Weight(name="out.weight", shape=(model.hidden_size, values))


def _first_matrix(model: ModelConfig, *, width: int) -> tuple[str, tuple[int, ...]]:
    """Return name and sections of an MLP's first matrix; gate and up projection are fused."""
    if model.activation.is_gated:
        return "gate_up", (width, width)
    return "up", (width,)


def _output(name: str, model: ModelConfig, *, width: int, has_bias: bool) -> Iterator[Weight]:
    """Yield a sub-layer's second matrix, and its bias, added after the ranks' outputs are summed."""
    yield Weight(name=f"{name}.weight", shape=(model.hidden_size, width), split=ShardSpec(dim=1))
    if has_bias:
        yield Weight(name=f"{name}.bias", shape=(model.hidden_size,), tp_grad=TPGrad.TOKENS)


def _norm(model: ModelConfig, name: str) -> Iterator[Weight]:
    yield Weight(name=f"{name}.weight", shape=(model.hidden_size,), tp_grad=TPGrad.TOKENS)
    if model.norm == "layernorm":
        yield Weight(name=f"{name}.bias", shape=(model.hidden_size,), tp_grad=TPGrad.TOKENS)


def _num_copies(degree: int, *, num_parts: int) -> int:
    """Return the copies of each part if the degree is a multiple of the parts, else 1."""
    if degree % num_parts:
        return 1
    return degree // num_parts


def _prefixed(prefix: str, weights: Iterator[Weight] | list[Weight]) -> Iterator[Weight]:
    for weight in weights:
        yield replace(weight, name=prefix + weight.name)
