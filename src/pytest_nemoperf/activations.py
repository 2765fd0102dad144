"""What forward keeps for backward: bytes of one micro-batch on one rank, layer by layer.

In the manner of Korthikanti et al. 2022 (https://arxiv.org/abs/2205.05198, section 4), for the native engine's
operators: attention keeps its inputs, output and the logarithm of its sums, never the scores; an MLP keeps both
halves of its first product, the activation and what enters the second; the loss keeps the probabilities in fp32.
For dense models this is exactly what autograd saves; for the others it is an estimate (docs/plans.md has the errors).
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_nemoperf.architecture import Activation, FeedForward, Layer, Mixer, ModelConfig
from pytest_nemoperf.recipe import Plan, Precision, Recompute

_FP32 = 4
_TOKEN_ID = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Bytes one layer keeps for one micro-batch.

    Attributes:
        block_input: The residual stream that enters the layer: all that full recomputation keeps.
        whole: Without recomputation.
        selective: Where the attention core is computed again.
    """

    block_input: float
    whole: float
    selective: float

    def under(self, recompute: Recompute) -> float:
        """Return the bytes under a kind of recomputation."""
        match recompute:
            case Recompute.NONE:
                return self.whole
            case Recompute.SELECTIVE:
                return self.selective
            case Recompute.FULL:
                return self.block_input


def compute_bytes(precision: Precision) -> int:
    """Return the bytes of an activation element; the 8-bit and 4-bit formats are inside matrix products alone."""
    return _FP32 if precision is Precision.FP32 else 2


class TokenCosts:
    """Bytes a rank keeps per micro-batch, under the plan's tensor, context and expert parallelism.

    Args:
        plan: Model, sizes, layout and precision.
    """

    def __init__(self, plan: Plan) -> None:
        layout = plan.layout
        self._model = plan.model
        self._layout = layout
        self._is_cuda = plan.device == "cuda"
        self._element = compute_bytes(plan.precision)
        self.num_tokens = plan.micro_batch_size * plan.seq_len / layout.cp
        """Tokens of a micro-batch inside the sub-layers."""
        is_split = layout.tp > 1 and layout.sequence_parallel
        self.num_stream_tokens = self.num_tokens / layout.tp if is_split else self.num_tokens
        """Tokens of it between the sub-layers."""

    def layer(self, layer: Layer) -> Kept:
        """Return what one layer keeps."""
        block_input = self.num_stream_tokens * self._model.hidden_size * self._element
        core = self._core(layer)
        mixer = 0.0 if layer.mixer is None else self._sublayer_input() + self._mixer(layer) + core
        whole = mixer + self._feed_forward(layer)
        return Kept(block_input=block_input, whole=whole, selective=whole - core)

    def embedding(self) -> float:
        """Return what the lookup keeps: token ids."""
        return self.num_tokens * _TOKEN_ID

    def head(self) -> float:
        """Return what the last norm, the head and the loss keep."""
        return self._sublayer_input(post_norm=False) + self.num_tokens * (self._logits() * _FP32 + _TOKEN_ID)

    def loss_workspace(self) -> float:
        """Return what the loss needs for a moment on top: logits in fp32 before the softmax, and as computed."""
        copies = _FP32 + (self._element if self._element != _FP32 else 0)
        return self.num_tokens * self._logits() * copies

    def _logits(self) -> float:
        return -(-self._model.vocab_size // self._layout.tp)

    def _norm(self, width: float, *, tokens: float) -> float:
        """Return what a norm of rows of that width keeps: on the CPU torch composes it of fp32 operations."""
        if self._is_cuda:
            return tokens * (width * self._element + _FP32)
        upcast = 0 if self._element == _FP32 else width * _FP32
        return tokens * (width * _FP32 + upcast + _FP32)

    def _sublayer_input(self, *, post_norm: bool = True) -> float:
        """Return what the norm before a sub-layer and the sub-layer's first product keep of its input."""
        hidden = self._model.hidden_size
        norms = 2 if post_norm and self._model.has_post_norms else 1
        return norms * self._norm(hidden, tokens=self.num_stream_tokens) + self._gathered_input()

    def _gathered_input(self) -> float:
        return self.num_tokens * self._model.hidden_size * self._element

    def _core(self, layer: Layer) -> float:
        """Return what the attention core keeps that computing it again saves: sums, or scores where it has them."""
        if layer.mixer is not Mixer.ATTENTION:
            return 0.0
        heads = self._model.num_heads / self._layout.tp
        kept = self.num_tokens * heads * _FP32
        if self._model.attention_sinks or self._model.attention_softcap is not None:  # no fused operator has them
            keys = self.num_tokens * self._layout.cp if layer.window is None else min(self.num_tokens, layer.window)
            kept += self.num_tokens * heads * keys * self._element
        return kept

    def _mixer(self, layer: Layer) -> float:
        """Return what the mixer keeps between the two projections, the core apart."""
        model, tp = self._model, self._layout.tp
        match layer.mixer:
            case Mixer.ATTENTION if model.mla is not None:
                width = self._latent_width(model) / tp
            case Mixer.ATTENTION:
                width = self._heads_width(model) / tp
            case Mixer.MAMBA:
                assert model.mamba is not None  # noqa: S101 (no layer has one without it)
                inner = model.mamba.num_heads * model.mamba.head_dim
                states = 2 * model.mamba.num_groups * model.mamba.state_dim
                width = (5 * inner + 2 * states) / tp
            case Mixer.GATED_DELTA_NET:
                net = model.gated_delta_net
                assert net is not None  # noqa: S101 (as above)
                keys, values = net.num_key_heads * net.key_head_dim, net.num_value_heads * net.value_head_dim
                width = (4 * keys + 5 * values) / tp
            case None:
                width = 0.0
        return self.num_tokens * width * self._element

    def _heads_width(self, model: ModelConfig) -> float:
        """Queries and keys after rotation, the fused projection that the values are a view of, and the output."""
        queries, keys = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
        width = (queries + keys) + (queries + 2 * keys) + queries
        if model.qk_norm is not None:
            width += queries + keys
        if model.attention_gate:
            width += 2 * queries
        if self._layout.cp > 1 and self._layout.cp_comm == "all_gather":
            width += 2 * keys * self._layout.cp  # keys and values of the whole sequence
        return width

    @staticmethod
    def _latent_width(model: ModelConfig) -> float:
        """Latents, whole heads of queries and keys, keys and values as projected, and the output."""
        mla = model.mla
        assert mla is not None  # noqa: S101 (the caller has looked)
        qk_head = mla.qk_nope_head_dim + mla.qk_rope_head_dim
        latents = 2 * (mla.q_lora_rank or 0) + 2 * mla.kv_lora_rank + mla.qk_rope_head_dim
        per_head = 3 * qk_head + mla.qk_nope_head_dim + 2 * mla.v_head_dim
        return latents + model.num_heads * per_head

    def _feed_forward(self, layer: Layer) -> float:
        model = self._model
        match layer.feed_forward:
            case None:
                return 0.0
            case FeedForward.DENSE:
                return self._sublayer_input() + self._mlp(model.ffn_hidden_size / self._layout.tp, self.num_tokens)
            case FeedForward.MOE:
                return self._experts()

    def _experts(self) -> float:
        """Return what a mixture keeps, its tokens spread evenly: routed copies go in, through, and out again."""
        model, layout = self._model, self._layout
        moe = model.moe
        assert moe is not None  # noqa: S101 (no layer has one without it)
        hidden = moe.latent_size or model.hidden_size
        own = self.num_stream_tokens
        routed = own * moe.topk * layout.etp
        kept = self._norm(model.hidden_size, tokens=own) + own * model.hidden_size * self._element
        kept += own * moe.num_experts * 2 * _FP32
        kept += routed * hidden * 2 * self._element + self._mlp(moe.ffn_hidden_size / layout.etp, routed)
        if moe.shared_ffn_hidden_size:
            kept += self._gathered_input() * (layout.tp > 1)
            kept += self._mlp(moe.shared_ffn_hidden_size / layout.tp, self.num_tokens)
        return kept

    def _mlp(self, width: float, tokens: float) -> float:
        """Return what lies between the two products: both halves of the first, the activation, the second's input."""
        is_gated = self._model.activation.is_gated
        copies = 4 if is_gated else 2
        if self._model.activation is Activation.SQUARED_RELU:
            copies = 3
        return tokens * width * copies * self._element
