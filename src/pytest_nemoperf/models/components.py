"""Building blocks of architectures: activations, mixers, experts, latent attention, rotary scaling."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Activation(StrEnum):
    """Non-linearity of an MLP; gated ones have a third matrix."""

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
    """Token mixer of a layer."""

    ATTENTION = "attention"
    COMPRESSED_ATTENTION = "compressed_attention"
    MAMBA = "mamba"
    GATED_DELTA_NET = "gated_delta_net"


class FeedForward(StrEnum):
    """Feed-forward part of a layer: a dense MLP or a mixture of experts."""

    DENSE = "dense"
    MOE = "moe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One decoder layer.

    Attributes:
        mixer: None in a layer of a hybrid that is an MLP only.
        window: Positions a token attends to, itself included; None for all before it.
        is_chunked: The window is a fixed piece of the sequence instead of a sliding one (Llama 4).
        has_rope: Queries and keys are rotated.
        compress_ratio: Tokens of each position that compressed attention adds to the window; 0 for the window alone.
        feed_forward: None in a layer of a hybrid that is a mixer only.
    """

    mixer: Mixer | None
    window: int | None = None
    is_chunked: bool = False
    has_rope: bool = True
    compress_ratio: int = 0
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
        layer_interval: Every N-th of the other layers is a mixture, the last of each N.
        router: Function from scores to probabilities.
        is_normalized: The chosen probabilities are divided by their sum.
        scaling_factor: Factor on the probabilities, after that.
        num_groups: Groups of experts; a token's experts come from the best groups only.
        topk_groups: Groups a token chooses from.
        group_score: Score of a group: its best expert's (DeepSeek-V2) or the sum of its two best (DeepSeek-V3).
        has_score_correction: A load-balancing bias is added to the scores, for the choice of experts only.
        scales_input: Probabilities multiply an expert's input instead of its output (Llama 4).
        router_bias: The router's matrix has a bias.
        shared_gate: A sigmoid gate scales the shared experts' output.
        latent_size: Width routed experts work in, with projections before and after; None for hidden_size.
        num_hash_layers: Mixtures at the beginning whose experts a fixed table gives for each token of the vocabulary;
            the router weighs them only (DeepSeek-V4).
        activation_limit: Experts, shared ones too, clamp their gate at this and their other product at both ends;
            None for no limit (DeepSeek-V4).
    """

    num_experts: int
    topk: int
    ffn_hidden_size: int
    shared_ffn_hidden_size: int = 0
    num_dense_layers: int = 0
    layer_interval: int = 1
    router: Literal["softmax", "sigmoid", "sqrtsoftplus"] = "softmax"
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
    num_hash_layers: int = 0
    activation_limit: float | None = None


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
class CompressedAttention:
    """Attention to a window and to compressed positions before it (DeepSeek-V4).

    One head of keys, which are the values too, serves all query heads. Layers with the ratio ``indexed_ratio``
    compress overlapping pieces, and an indexer chooses the compressed positions that a query attends to; in other
    layers it attends to all before it. Queries have a latent, and a norm of each head without weights; outputs have a
    latent for each group of heads.

    Attributes:
        ratios: Tokens of a compressed position, one number a layer; 0 for a layer with the window alone, as those of
            multi-token prediction are.
        q_lora_rank: Width of the queries' latent.
        rope_head_dim: Rotated part of a head.
        o_lora_rank: Width of the latent of a group's outputs.
        num_output_groups: Groups of heads; divides their number.
        indexed_ratio: Ratio of the layers with an indexer.
        index_num_heads: Query heads of an indexer.
        index_head_dim: Width of each.
        index_topk: Compressed positions a query attends to.
        rope_theta: Base of the rotary frequencies in layers that compress, the only ones whose frequencies are scaled.

    References:
        transformers 5.23 models/deepseek_v4/modeling_deepseek_v4.py
    """

    ratios: tuple[int, ...]
    q_lora_rank: int
    rope_head_dim: int
    o_lora_rank: int
    num_output_groups: int
    indexed_ratio: int = 4
    index_num_heads: int
    index_head_dim: int
    index_topk: int
    rope_theta: float

    def __post_init__(self) -> None:
        ratios: object = self.ratios
        if isinstance(ratios, list):  # plain data
            object.__setattr__(self, "ratios", tuple(ratios))

    def has_indexer(self, ratio: int) -> bool:
        """Whether queries of a layer with this ratio choose among its compressed positions."""
        return ratio == self.indexed_ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class HyperConnections:
    """Several residual streams, which each sub-layer reads as a weighted sum and mixes anew (mHC, DeepSeek-V4).

    Attributes:
        num_streams: Residual streams.
        num_iterations: Iterations of Sinkhorn and Knopp that make the mixing matrix doubly stochastic.

    References:
        transformers 5.23 models/deepseek_v4/modeling_deepseek_v4.py
    """

    num_streams: int
    num_iterations: int

    @property
    def num_weights(self) -> int:
        """Numbers a sub-layer derives from the streams: one to read and one to write each, and the mixing matrix."""
        return (2 + self.num_streams) * self.num_streams


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
    """Rotary frequencies stretched for contexts longer than those of pre-training.

    Attributes:
        kind: ``linear``, ``llama3`` (Llama 3.1's wavelength bands) or ``yarn`` (https://arxiv.org/abs/2309.00071).
        factor: New context length over the original one.
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
