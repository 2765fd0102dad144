"""Model architectures, layer by layer: input of FLOPs, plans and the native engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Literal

from pytest_nemoperf.bounds import field_problems
from pytest_nemoperf.errors import RecipeError, enum_member, shown
from pytest_nemoperf.models.components import (
    MLA,
    Activation,
    CompressedAttention,
    FeedForward,
    GatedDeltaNet,
    HyperConnections,
    Layer,
    Mamba,
    Mixer,
    MoE,
    RopeScaling,
)

_KEPT_MODELS: Final = 64
"""Models whose layers are kept: pricing and counting ask for them time and again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A decoder of the transformer family.

    Attributes:
        name: Catalog name, or your own; part of the case id.
        hidden_size: Width of the residual stream (D).
        num_layers: Decoder blocks, without those of multi-token prediction.
        num_heads: Query heads.
        num_kv_heads: Key and value heads; divides num_heads.
        head_dim: Width of one head; of a value head under MLA.
        ffn_hidden_size: Width of the dense MLP, also where only some layers, or none, have one.
        vocab_size: Rows of the embedding table, unpadded.
        tied_embeddings: The output head uses the embedding table.
        activation: Non-linearity of the MLPs and experts.
        norm: RMSNorm, or LayerNorm with bias.
        norm_eps: Epsilon of the norms.
        has_post_norms: Norms after the sub-layers too, before they join the residual stream (Gemma).
        rope_theta: Base of the rotary frequencies.
        rope_local_theta: Base in layers with a window; None for the same.
        rope_scaling: Frequency scaling of layers with full attention.
        rope_dim: Rotated part of a head, from its beginning; None for all of it.
        max_positions: Rows of a learned position table, instead of rotary positions; None for rotary.
        embedding_scale: Factor on the embeddings.
        qkv_bias: Biases on queries, keys and values.
        out_bias: Bias on the attention's output projection.
        mlp_bias: Biases on the matrices of MLPs and experts.
        qk_norm: Norm of each query and key head: ``rms`` with weights before rotation, or ``l2`` without, after it.
        attention_gate: Each head's output is gated by a projection of the input (Qwen3-Next).
        attention_sinks: A learned logit per head takes part in each softmax (GPT-OSS).
        attention_softcap: Scores are bounded by c tanh(score / c); None for no bound.
        final_softcap: The same for the output logits.
        logit_scale: Factor on the output logits (Grok-1).
        query_scale: Factor on the scores; None for 1/sqrt(width of a query head).
        query_temperature: Queries of layers without rotary positions grow with log(position) (Llama 4): the
            scale, and the positions per step.
        sliding_window: Positions a token of a windowed layer attends to, itself included; None for no windows.
        is_window_chunked: Windows are fixed pieces of the sequence.
        full_attention_interval: Every N-th layer has full attention, the others the window or a gated delta net;
            0 if all are alike.
        nope_interval: Every N-th layer has no rotary positions; 0 for none.
        moe: Mixture of experts.
        mla: Multi-head latent attention instead of grouped queries.
        compressed_attention: Attention to a window and to compressed positions, in every layer.
        hyper_connections: Several residual streams instead of one.
        mamba: Mixer of the M layers of a hybrid.
        gated_delta_net: Mixer of the layers without attention.
        hybrid_pattern: One letter a layer: M Mamba-2, ``*`` attention, ``-`` MLP, E mixture of experts.
        mtp_num_layers: Multi-token prediction depth: extra blocks with a loss of their own.
        is_mtp_shared: All depths use the weights of one block (Nemotron 3).
        has_value_head: The head has one row: it predicts the reward to come after each token, not the next token.

    Raises:
        RecipeError: If a size is not positive or the parts don't fit together.
    """

    name: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_hidden_size: int
    vocab_size: int
    tied_embeddings: bool = False
    activation: Activation = Activation.SWIGLU
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_eps: float = 1e-5
    has_post_norms: bool = False
    rope_theta: float = 500_000.0
    rope_local_theta: float | None = None
    rope_scaling: RopeScaling | None = None
    rope_dim: int | None = None
    max_positions: int | None = None
    embedding_scale: float = 1.0
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: Literal["rms", "l2"] | None = None
    attention_gate: bool = False
    attention_sinks: bool = False
    attention_softcap: float | None = None
    final_softcap: float | None = None
    logit_scale: float = 1.0
    query_scale: float | None = None
    query_temperature: tuple[float, float] | None = None
    sliding_window: int | None = None
    is_window_chunked: bool = False
    full_attention_interval: int = 0
    nope_interval: int = 0
    moe: MoE | None = None
    mla: MLA | None = None
    compressed_attention: CompressedAttention | None = None
    hyper_connections: HyperConnections | None = None
    mamba: Mamba | None = None
    gated_delta_net: GatedDeltaNet | None = None
    hybrid_pattern: str = ""
    mtp_num_layers: int = 0
    is_mtp_shared: bool = False
    has_value_head: bool = False

    def __post_init__(self) -> None:
        activation = enum_member(Activation, self.activation, subject=f"activation of model {shown(self.name)}")
        object.__setattr__(self, "activation", activation)
        temperature: object = self.query_temperature
        if isinstance(temperature, list):  # which has no hash
            object.__setattr__(self, "query_temperature", tuple(temperature))
        for problem in self._problems():
            name = shown(self.name).strip("'")
            raise RecipeError(f"model {name}: {problem}")

    def _problems(self) -> Iterator[str]:
        yield from field_problems(self)
        for name in _PARTS:
            part = getattr(self, name)
            if part is not None:
                for problem in field_problems(part):
                    yield f"{name}.{problem}"
        if self.num_heads % self.num_kv_heads:
            yield (
                f"num_kv_heads={self.num_kv_heads} does not divide num_heads={self.num_heads}; "
                "every key-value head serves the same number of query heads"
            )
        if self.head_dim % 2:
            yield f"head_dim={self.head_dim} must be even for RoPE"
        if self.moe is not None:
            yield from _moe_problems(self.moe, num_layers=self.num_layers)
        if self.hybrid_pattern:
            yield from _pattern_problems(self)
        if self.compressed_attention is not None:
            yield from _compression_problems(self, self.compressed_attention)
        if self.has_value_head and (self.tied_embeddings or self.mtp_num_layers):
            yield (
                f"has_value_head leaves no vocabulary to predict, but tied_embeddings={self.tied_embeddings} and "
                f"mtp_num_layers={self.mtp_num_layers}; use value_model(...), which turns both off"
            )

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Mixer, window and feed-forward of each of the ``num_layers`` layers, in order."""
        return _layers(self)

    @property
    def layer_counts(self) -> Mapping[Layer, int]:
        """Number of layers of each kind, in the order of the first one of each."""
        return _layer_counts(self)

    @property
    def mtp_layer(self) -> Layer:
        """Layer of each multi-token prediction depth: full attention, and experts if the model has any.

        Under compressed attention it has the window alone.
        """
        feed_forward = FeedForward.DENSE if self.moe is None else FeedForward.MOE
        if self.compressed_attention is not None:
            return Layer(mixer=Mixer.COMPRESSED_ATTENTION, window=self.sliding_window, feed_forward=feed_forward)
        return Layer(mixer=Mixer.ATTENTION, feed_forward=feed_forward)

    @property
    def stream_size(self) -> int:
        """Width of all residual streams together: hidden_size, or a multiple of it under hyper-connections."""
        if self.hyper_connections is None:
            return self.hidden_size
        return self.hyper_connections.num_streams * self.hidden_size

    @property
    def num_mtp_blocks(self) -> int:
        """Blocks of multi-token prediction that have weights: one a depth, or one for all depths."""
        if self.is_mtp_shared:
            return min(self.mtp_num_layers, 1)
        return self.mtp_num_layers

    @property
    def num_experts(self) -> int:
        """Routed experts of a layer; 0 for a dense model."""
        return 0 if self.moe is None else self.moe.num_experts

    def layer(self, index: int) -> Layer:
        """Return mixer, window and feed-forward of one layer."""
        if self.hybrid_pattern:
            return _LAYER_OF_LETTER[self.hybrid_pattern[index]]
        if self.full_attention_interval:
            has_full_attention = (index + 1) % self.full_attention_interval == 0
        else:
            has_full_attention = self.sliding_window is None
        mixer = Mixer.ATTENTION
        window = None
        if not has_full_attention:
            window = self.sliding_window
            if self.gated_delta_net is not None:
                mixer = Mixer.GATED_DELTA_NET
        compress_ratio = 0
        if self.compressed_attention is not None:
            mixer = Mixer.COMPRESSED_ATTENTION
            compress_ratio = self.compressed_attention.ratios[index]
        feed_forward = FeedForward.DENSE
        if self._is_moe_layer(index):
            feed_forward = FeedForward.MOE
        return Layer(
            mixer=mixer,
            window=window,
            compress_ratio=compress_ratio,
            is_chunked=self.is_window_chunked and not has_full_attention,
            has_rope=not self.nope_interval or (index + 1) % self.nope_interval != 0,
            feed_forward=feed_forward,
        )

    def _is_moe_layer(self, index: int) -> bool:
        moe = self.moe
        if moe is None or index < moe.num_dense_layers:
            return False
        return (index - moe.num_dense_layers + 1) % moe.layer_interval == 0


@lru_cache(maxsize=_KEPT_MODELS)
def _layers(model: ModelConfig) -> tuple[Layer, ...]:
    return tuple(map(model.layer, range(model.num_layers)))


@lru_cache(maxsize=_KEPT_MODELS)
def _layer_counts(model: ModelConfig) -> Mapping[Layer, int]:
    return MappingProxyType(Counter(model.layers))


def value_model(policy: ModelConfig) -> ModelConfig:
    """Return a policy's architecture with a value head."""
    return replace(policy, has_value_head=True, tied_embeddings=False, mtp_num_layers=0)


def build_model(name: str, values: Mapping[str, Any]) -> ModelConfig:
    """Build a model from plain data: mappings instead of dataclasses, lists instead of tuples.

    Raises:
        RecipeError: See ModelConfig.
    """
    arguments = dict(values)
    for key, part in _PARTS.items():
        if values.get(key) is not None:
            arguments[key] = part(**values[key])
    if values.get("query_temperature") is not None:
        arguments["query_temperature"] = tuple(values["query_temperature"])
    return ModelConfig(name=name, **arguments)


_PARTS = {
    "compressed_attention": CompressedAttention,
    "gated_delta_net": GatedDeltaNet,
    "hyper_connections": HyperConnections,
    "mamba": Mamba,
    "mla": MLA,
    "moe": MoE,
    "rope_scaling": RopeScaling,
}

_LAYER_OF_LETTER = {
    "M": Layer(mixer=Mixer.MAMBA, feed_forward=None),
    "*": Layer(mixer=Mixer.ATTENTION, has_rope=False, feed_forward=None),
    "-": Layer(mixer=None, feed_forward=FeedForward.DENSE),
    "E": Layer(mixer=None, feed_forward=FeedForward.MOE),
}


def _moe_problems(moe: MoE, *, num_layers: int) -> Iterator[str]:
    if moe.topk > moe.num_experts:
        yield f"moe.topk={moe.topk} experts of a token are more than moe.num_experts={moe.num_experts}"
    if moe.num_experts % moe.num_groups:
        yield f"moe.num_groups={moe.num_groups} does not divide moe.num_experts={moe.num_experts}"
    if moe.num_hash_layers > num_layers - moe.num_dense_layers:
        yield f"moe.num_hash_layers={moe.num_hash_layers} are more mixtures than num_layers={num_layers} hold"
    if moe.num_dense_layers >= num_layers:
        yield f"moe.num_dense_layers={moe.num_dense_layers} leaves no mixture among num_layers={num_layers}"


def _compression_problems(model: ModelConfig, attention: CompressedAttention) -> Iterator[str]:
    if len(attention.ratios) != model.num_layers:
        yield f"compressed_attention.ratios has {len(attention.ratios)} numbers for num_layers={model.num_layers}"
    for name in ("mla", "gated_delta_net", "hybrid_pattern", "full_attention_interval", "attention_gate"):
        if getattr(model, name):
            yield f"compressed_attention is the mixer of every layer, so {name} must be left out"
    if model.sliding_window is None:
        yield "compressed_attention is added to a window, so sliding_window must be given"
    if model.num_kv_heads != 1:
        yield f"num_kv_heads={model.num_kv_heads}, and compressed_attention has one head of keys; use num_kv_heads=1"
    if model.num_heads % attention.num_output_groups:
        yield (
            f"compressed_attention.num_output_groups={attention.num_output_groups} does not divide "
            f"num_heads={model.num_heads}"
        )
    if attention.rope_head_dim > model.head_dim or attention.rope_head_dim % 2:
        yield (
            f"compressed_attention.rope_head_dim={attention.rope_head_dim} must be even and at most "
            f"head_dim={model.head_dim}"
        )


def _pattern_problems(model: ModelConfig) -> Iterator[str]:
    pattern = model.hybrid_pattern
    if len(pattern) != model.num_layers:
        yield f"hybrid_pattern has {len(pattern)} letters for num_layers={model.num_layers}"
    unknown = sorted(set(pattern) - _LAYER_OF_LETTER.keys())
    if unknown:
        yield f"hybrid_pattern has the letters {', '.join(unknown)}; it knows M, *, - and E"
    for letter, part, name in (("M", model.mamba, "mamba"), ("E", model.moe, "moe")):
        if letter in pattern and part is None:
            yield f"hybrid_pattern has {letter} layers, so {name} must be given"
