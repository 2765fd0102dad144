"""Architectures: the numbers that FLOPs, plans and the native engine need, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from types import NoneType
from typing import Any, Literal

from pytest_nemoperf.errors import RecipeError


class Activation(StrEnum):
    """What an MLP does between its matrices; gated ones have a third matrix."""

    SWIGLU = "swiglu"
    GEGLU = "geglu"  # tanh approximation, as in Gemma
    CLAMPED_SWIGLU = "clamped_swiglu"  # GPT-OSS: sigmoid(1.702 gate) * gate * (up + 1), both clamped at 7
    GELU = "gelu"  # tanh approximation, as in GPT-2
    SQUARED_RELU = "squared_relu"

    @property
    def is_gated(self) -> bool:
        """Whether one projection gates another."""
        return self in {Activation.SWIGLU, Activation.GEGLU, Activation.CLAMPED_SWIGLU}


class Mixer(StrEnum):
    """What mixes the tokens of a sequence in one layer."""

    ATTENTION = "attention"
    MAMBA = "mamba"
    GATED_DELTA_NET = "gated_delta_net"


class FeedForward(StrEnum):
    """What works token by token in one layer."""

    DENSE = "dense"
    MOE = "moe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What one decoder layer is made of.

    Attributes:
        mixer: None in hybrids whose layers are either a mixer or an MLP.
        window: Positions a token attends to, itself included; None for all before it.
        is_chunked: The window is a fixed piece of the sequence instead of a sliding one (Llama 4).
        has_rope: Queries and keys are rotated.
        feed_forward: As for the mixer.
    """

    mixer: Mixer | None
    window: int | None = None
    is_chunked: bool = False
    has_rope: bool = True
    feed_forward: FeedForward | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MoE:
    """A mixture of experts in place of the MLP.

    Attributes:
        num_experts: Routed experts of a layer.
        topk: Experts a token goes to.
        ffn_hidden_size: Width of one routed expert.
        shared_ffn_hidden_size: Width of all shared experts together; 0 for none.
        num_dense_layers: Layers at the beginning that keep the dense MLP.
        layer_interval: Of the others every so-manieth is a mixture, counted so that the last one is.
        router: How scores become probabilities.
        is_normalized: The chosen probabilities are divided by their sum.
        scaling_factor: They are multiplied by it afterwards.
        num_groups: Experts are in so many groups, and only those of the best groups are chosen from.
        topk_groups: Groups a token chooses from.
        group_score: What ranks a group: its best expert (DeepSeek-V2) or its two best (DeepSeek-V3).
        has_score_correction: A bias that load balancing moves is added to the scores for choosing alone.
        scales_input: Probabilities multiply an expert's input instead of its output (Llama 4).
        router_bias: The router's matrix has a bias.
        shared_gate: A sigmoid gate scales the shared experts' output.
        latent_size: Width routed experts work in, with projections before and after; None for hidden_size.
    """

    num_experts: int
    topk: int
    ffn_hidden_size: int
    shared_ffn_hidden_size: int = 0
    num_dense_layers: int = 0
    layer_interval: int = 1
    router: Literal["softmax", "sigmoid"] = "softmax"
    is_normalized: bool = True
    scaling_factor: float = 1.0
    num_groups: int = 1
    topk_groups: int = 1
    group_score: Literal["max", "top2"] = "max"
    has_score_correction: bool = False
    scales_input: bool = False
    router_bias: bool = False
    shared_gate: bool = False
    latent_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MLA:
    """Multi-head latent attention (DeepSeek-V2, https://arxiv.org/abs/2405.04434, section 2.1).

    Attributes:
        q_lora_rank: Width of the queries' latent; None projects them directly.
        kv_lora_rank: Width of the keys' and values' latent.
        qk_nope_head_dim: Part of a query-key head without positions.
        qk_rope_head_dim: Part with rotary positions, shared by all heads on the key side.
        v_head_dim: Width of a value head.
    """

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba:
    """A Mamba-2 mixer (Dao and Gu 2024, https://arxiv.org/abs/2405.21060).

    Attributes:
        num_heads: Heads; times head_dim they are the inner width.
        head_dim: Width of a head.
        state_dim: State of a head, per channel.
        num_groups: Groups that share the input and output projections of the state.
        conv_kernel: Taps of the short convolution.
    """

    num_heads: int
    head_dim: int
    state_dim: int
    num_groups: int
    conv_kernel: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedDeltaNet:
    """A gated delta net mixer (Yang et al. 2024, https://arxiv.org/abs/2412.06464).

    Attributes:
        num_key_heads: Query heads, and key heads.
        key_head_dim: Width of each.
        num_value_heads: Value heads.
        value_head_dim: Width of each.
        conv_kernel: Taps of the short convolution.
    """

    num_key_heads: int
    key_head_dim: int
    num_value_heads: int
    value_head_dim: int
    conv_kernel: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched for contexts longer than those of pre-training.

    Attributes:
        kind: ``linear``, ``llama3`` (Llama 3.1's wavelength bands) or ``yarn`` (https://arxiv.org/abs/2309.00071).
        factor: Of the stretch.
        original_context: Positions of pre-training.
        low_freq: llama3: low_freq_factor; yarn: beta_slow.
        high_freq: llama3: high_freq_factor; yarn: beta_fast.
        attention_factor: yarn: scale of cosine and sine; None derives 0.1 ln(factor) + 1.
        softmax_mscale: yarn: mscale_all_dim, which scales attention scores by (0.1 m ln(factor) + 1)**2; 0 for none.
        truncates: yarn: Band limits are rounded to whole dimensions.
    """

    kind: Literal["linear", "llama3", "yarn"]
    factor: float
    original_context: int = 0
    low_freq: float = 1.0
    high_freq: float = 4.0
    attention_factor: float | None = None
    softmax_mscale: float = 0.0
    truncates: bool = True


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
        activation: Of the MLPs and experts.
        norm: RMSNorm, or LayerNorm with bias.
        norm_eps: Epsilon of the norms.
        has_post_norms: Norms after the sub-layers too, before they join the residual stream (Gemma).
        rope_theta: Base of the rotary frequencies.
        rope_local_theta: Base in layers with a window; None for the same.
        rope_scaling: Of layers that see everything.
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
        full_attention_interval: Every so-manieth layer sees everything (and has attention where the others have
            a gated delta net); the others have the window; 0 if all are alike.
        nope_interval: Every so-manieth layer has no rotary positions; 0 for none.
        moe: Mixture of experts.
        mla: Multi-head latent attention instead of grouped queries.
        mamba: Mixer of the M layers of a hybrid.
        gated_delta_net: Mixer of the layers without attention.
        hybrid_pattern: One letter a layer: M Mamba-2, ``*`` attention, ``-`` MLP, E mixture of experts.
        mtp_num_layers: Multi-token prediction depth: extra blocks with a loss of their own.
        is_mtp_shared: All depths use the weights of one block (Nemotron 3).

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
    mamba: Mamba | None = None
    gated_delta_net: GatedDeltaNet | None = None
    hybrid_pattern: str = ""
    mtp_num_layers: int = 0
    is_mtp_shared: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "activation", Activation(self.activation))
        for problem in self._problems():
            raise RecipeError(f"model {self.name}: {problem}")

    def _problems(self) -> Iterator[str]:
        yield from _size_problems(self)
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

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What each of the ``num_layers`` layers is made of, in order."""
        return tuple(self._layer(index) for index in range(self.num_layers))

    @property
    def mtp_layer(self) -> Layer:
        """What the block of each multi-token prediction depth is made of: the last layer with attention's kind."""
        feed_forward = FeedForward.DENSE if self.moe is None else FeedForward.MOE
        return Layer(mixer=Mixer.ATTENTION, feed_forward=feed_forward)

    @property
    def is_hybrid(self) -> bool:
        """Whether some layers mix tokens by something else than attention."""
        return self.mamba is not None or self.gated_delta_net is not None

    @property
    def num_experts(self) -> int:
        """Routed experts of a layer; 0 for a dense model."""
        return 0 if self.moe is None else self.moe.num_experts

    def _layer(self, index: int) -> Layer:
        if self.hybrid_pattern:
            return _LAYER_OF_LETTER[self.hybrid_pattern[index]]
        sees_all = not self.full_attention_interval or (index + 1) % self.full_attention_interval == 0
        if not self.full_attention_interval:
            sees_all = self.sliding_window is None
        return Layer(
            mixer=Mixer.GATED_DELTA_NET if self.gated_delta_net is not None and not sees_all else Mixer.ATTENTION,
            window=None if sees_all else self.sliding_window,
            is_chunked=self.is_window_chunked and not sees_all,
            has_rope=not self.nope_interval or (index + 1) % self.nope_interval != 0,
            feed_forward=FeedForward.MOE if self._is_moe_layer(index) else FeedForward.DENSE,
        )

    def _is_moe_layer(self, index: int) -> bool:
        moe = self.moe
        return (
            moe is not None
            and index >= moe.num_dense_layers
            and (index - moe.num_dense_layers + 1) % moe.layer_interval == 0
        )


def build_model(name: str, values: Mapping[str, Any]) -> ModelConfig:
    """Return a model from the values of its fields, in which parts may be plain mappings and tuples lists.

    Raises:
        RecipeError: See ModelConfig.
    """
    parts = {key: part(**values[key]) for key, part in _PARTS.items() if values.get(key) is not None}
    temperature = values.get("query_temperature")
    tuples = {} if temperature is None else {"query_temperature": (temperature[0], temperature[1])}
    return ModelConfig(name=name, **{**values, **parts, **tuples})


_PARTS = {
    "gated_delta_net": GatedDeltaNet,
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


def _size_problems(part: Any, *, subject: str = "") -> Iterator[str]:
    """Yield each number that is not positive; the ones that may be zero say so by their default."""
    for field in fields(part):
        value = getattr(part, field.name)
        if hasattr(value, "__dataclass_fields__"):
            yield from _size_problems(value, subject=f"{field.name}.")
        elif str(field.type).startswith(("int", "float")) and not isinstance(value, (int, float, NoneType)):
            yield f"{subject}{field.name}={value!r} must be a number"
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            may_be_zero = field.default == 0
            if value < 0 or (value == 0 and not may_be_zero) or value != value:  # noqa: PLR0124 (NaN)
                yield f"{subject}{field.name}={value} must be {'>= 0' if may_be_zero else 'positive'}"


def _moe_problems(moe: MoE, *, num_layers: int) -> Iterator[str]:
    if moe.topk > moe.num_experts:
        yield f"moe.topk={moe.topk} experts of a token are more than moe.num_experts={moe.num_experts}"
    if moe.num_experts % moe.num_groups:
        yield f"moe.num_groups={moe.num_groups} does not divide moe.num_experts={moe.num_experts}"
    if moe.num_dense_layers >= num_layers:
        yield f"moe.num_dense_layers={moe.num_dense_layers} leaves no mixture among num_layers={num_layers}"


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
