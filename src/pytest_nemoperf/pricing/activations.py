"""Activations kept for backward: bytes of one micro-batch on one rank, layer by layer.

Counted as in Korthikanti et al. 2022 (https://arxiv.org/abs/2205.05198, section 4), for the native engine's
operators: fused attention keeps its inputs, its output and the logarithm of its sums, never the scores; an MLP keeps
both halves of its first product, the activation and the input of the second; the loss keeps the probabilities in fp32.
Tests compare with autograd's saved tensors; docs/plans.md has the errors.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_nemoperf.layouts.shards import num_a2a_kv_copies
from pytest_nemoperf.models.components import Activation, FeedForward, Layer, Mixer
from pytest_nemoperf.models.weights import num_local_kv_heads
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recompute

_FP32 = 4
_INDEX = 8
_MLP_COPIES = {
    Activation.SWIGLU: 4,
    Activation.GEGLU: 4,
    Activation.CLAMPED_SWIGLU: 7,
    Activation.GELU: 2,
    Activation.SQUARED_RELU: 2,
}
"""Kept multiples of an MLP's width: first product (two if gated), activation, input of the second product."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptActivations:
    """Bytes one layer keeps for one micro-batch.

    Attributes:
        block_input: Residual stream that enters the layer; full recomputation keeps nothing else.
        whole: Without recomputation.
        selective: With the attention core computed again.
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
    """Return the bytes of an activation element; 8-bit and 4-bit formats exist only inside matrix products."""
    if precision is Precision.FP32:
        return _FP32
    return 2


class ActivationBytes:
    """Bytes a rank keeps per micro-batch, under the plan's tensor, context and expert parallelism.

    Args:
        plan: Model, sizes, layout and precision.
    """

    def __init__(self, plan: Plan) -> None:
        layout = plan.layout
        self._model = plan.model
        self._layout = layout
        self._seq_len = plan.seq_len
        self._is_cuda = plan.device == "cuda"
        self._is_compiled = plan.is_compiled
        self._element = compute_bytes(plan.precision)
        self.num_tokens = plan.micro_batch_size * plan.seq_len / layout.cp
        """Tokens of a micro-batch inside the sub-layers."""
        self.num_stream_tokens = self.num_tokens
        """Tokens of it between the sub-layers."""
        if layout.tp > 1 and layout.sequence_parallel:
            self.num_stream_tokens /= layout.tp

    def layer(self, layer: Layer) -> KeptActivations:
        """Return the bytes one layer keeps."""
        block_input = self.num_stream_tokens * self._model.stream_size * self._element
        around = self._feed_forward(layer)
        if layer.mixer is not None:
            around += self._sublayer_input()
        num_sublayers = (layer.mixer is not None) + (layer.feed_forward is not None)
        around += num_sublayers * self._streams()
        whole, selective = self._mixer(layer)
        return KeptActivations(block_input=block_input, whole=around + whole, selective=around + selective)

    def tables(self) -> float:
        """Return bytes of the rotary cosines and sines, which all micro-batches and layers share."""
        model = self._model
        if model.max_positions is not None:
            return 0.0
        width = model.rope_dim or model.head_dim
        if model.compressed_attention is not None:  # frequencies of the window, and of layers that compress
            return 2 * self._seq_len / self._layout.cp * model.compressed_attention.rope_head_dim * self._element
        if model.mla is not None and not model.rope_dim:
            width = model.mla.qk_rope_head_dim
        num_tables = 1 if model.rope_local_theta is None else 2
        return num_tables * self._seq_len / self._layout.cp * width * self._element

    def embedding(self) -> float:
        """Return bytes of a micro-batch's token ids, or of its labels, which are as large."""
        return self.num_tokens * _INDEX

    def head(self) -> float:
        """Return bytes kept by the last norm, the head and the loss; a value head keeps its input in fp32."""
        if self._model.has_value_head:
            hidden = self._model.hidden_size
            return self._norm(hidden, tokens=self.num_stream_tokens) + self.num_stream_tokens * hidden * _FP32
        per_logit = _FP32
        if self._model.final_softcap is not None:
            per_logit += self._element
        return (
            self._streams()
            + self._sublayer_input(has_post_norm=False)
            + self.num_tokens * self._num_logits() * per_logit
        )

    def mtp(self, recompute: Recompute) -> float:
        """Return bytes kept by one depth of multi-token prediction: two norms, their projection, a block, a head."""
        hidden = self._model.hidden_size
        joined = 2 * (self._norm(hidden, tokens=self.num_stream_tokens) + self._gathered_input())
        return self.embedding() + joined + self.layer(self._model.mtp_layer).under(recompute) + self.head()

    def loss_workspace(self) -> float:
        """Return transient bytes of the loss: logits in fp32 before the softmax, and as computed."""
        return self.num_tokens * self._num_logits() * self._with_fp32_copy()

    def _num_logits(self) -> int:
        if self._model.has_value_head:
            return 1
        return -(-self._model.vocab_size // self._layout.tp)

    def _with_fp32_copy(self) -> int:
        """Return bytes of an element in fp32 and, if that is another type, in the compute type."""
        if self._element == _FP32:
            return _FP32
        return _FP32 + self._element

    def _norm(self, width: float, *, tokens: float, rows: float = 1) -> float:
        """Return bytes a norm keeps: its input, and on the CPU, without a fused kernel, a scaled copy in fp32.

        Args:
            width: Elements of a token.
            tokens: Number of tokens.
            rows: Norms per token, each with a scale of its own.
        """
        if self._model.norm == "layernorm":
            return tokens * (width * self._element + 2 * rows * _FP32)
        if self._is_cuda:
            return tokens * (width * self._element + rows * _FP32)
        num_copies = 1 if self._element == _FP32 else 2
        return tokens * (num_copies * width + rows) * _FP32

    def _sublayer_input(self, *, has_post_norm: bool = True) -> float:
        """Return bytes kept by the norms around a sub-layer and by its first product."""
        norms = 2 if has_post_norm and self._model.has_post_norms else 1
        return norms * self._norm(self._model.hidden_size, tokens=self.num_stream_tokens) + self._gathered_input()

    def _gathered_input(self) -> float:
        return self.num_tokens * self._model.hidden_size * self._element

    def _streams(self) -> float:
        """Return bytes kept to weigh several residual streams: all of them, and the sub-layer's output; from below."""
        connections = self._model.hyper_connections
        if connections is None:
            return 0.0
        width = self._model.stream_size + self._model.hidden_size
        return self.num_stream_tokens * (width * self._element + connections.num_weights * _FP32)

    def _mixer(self, layer: Layer) -> tuple[float, float]:
        """Return bytes kept between a mixer's projections: without recomputation, and with its core computed again."""
        model = self._model
        match layer.mixer:
            case None:
                return 0.0, 0.0
            case Mixer.ATTENTION:
                return self._attention(layer)
            case Mixer.COMPRESSED_ATTENTION:
                return self._compressed_attention(layer)
            case Mixer.MAMBA:
                assert model.mamba is not None  # noqa: S101 (no layer has one without it)
                inner = model.mamba.num_heads * model.mamba.head_dim
                width = 5 * inner + 4 * model.mamba.num_groups * model.mamba.state_dim
            case Mixer.GATED_DELTA_NET:
                net = model.gated_delta_net
                assert net is not None  # noqa: S101 (as above)
                width = 4 * net.num_key_heads * net.key_head_dim + 5 * net.num_value_heads * net.value_head_dim
        kept = self.num_tokens / self._layout.tp * width * self._element
        return kept, kept

    def _attention(self, layer: Layer) -> tuple[float, float]:
        """Return bytes attention keeps: without recomputation, and with its core computed again."""
        model = self._model
        layout = self._layout
        tokens = self.num_tokens / layout.tp
        if model.mla is not None:
            queries: float = model.num_heads * (model.mla.qk_nope_head_dim + model.mla.qk_rope_head_dim)
            out = model.num_heads * model.mla.v_head_dim
            keys = queries
            values: float = out
            query_source = queries
            inputs = queries + keys + model.num_heads * model.mla.qk_nope_head_dim + values
            around = self._latents()
        else:
            queries = out = model.num_heads * model.head_dim
            keys = values = num_local_kv_heads(model, tp=layout.tp) * layout.tp * model.head_dim
            query_source = inputs = queries + keys + values  # the projection, of which values are a view
            if layer.has_rope and model.max_positions is None:  # rotated queries and keys beside it
                query_source = queries + keys
                inputs += query_source
            around = self._head_norms(layer)
        inputs_bytes = tokens * inputs * self._element
        num_outputs = 3 if model.attention_gate else 1
        around += tokens * out * self._element * num_outputs
        core_inputs = inputs_bytes
        if layout.cp > 1 and layout.cp_comm == "all_gather":
            core_inputs = tokens * (query_source + (keys + values) * layout.cp + out) * self._element
        elif layout.cp > 1:
            num_copies = num_a2a_kv_copies(model, layout=layout)
            keys *= num_copies
            values *= num_copies
            core_inputs = tokens * (queries + keys + values + out) * self._element
        core = self._core(layer, queries=queries, keys=keys, values=values, inputs=core_inputs)
        return around + core, around + inputs_bytes

    def _compressed_attention(self, layer: Layer) -> tuple[float, float]:
        """Return bytes kept by attention to a window and to compressed positions, from below.

        Counted are inputs of norms, of products and of the core, and the core's output, each once; not what its
        kernels keep beside these.
        """
        model = self._model
        attention = model.compressed_attention
        assert attention is not None  # noqa: S101 (no layer has one without it)
        tp = self._layout.tp
        queries = model.num_heads * model.head_dim / tp
        latents = attention.num_output_groups * attention.o_lora_rank / tp
        width = 2 * attention.q_lora_rank + 3 * queries + 2 * model.head_dim + latents
        kept = 0.0
        if layer.compress_ratio:
            num_parts = 2 if attention.has_indexer(layer.compress_ratio) else 1
            width += 2 * num_parts * model.head_dim + 2 * model.head_dim / layer.compress_ratio
            if attention.has_indexer(layer.compress_ratio):
                width += attention.index_num_heads * (attention.index_head_dim + 1) + 4 * attention.index_head_dim
                kept += self.num_tokens * attention.index_topk * _FP32  # places of the chosen positions
        kept += self.num_tokens * width * self._element
        return kept + self.num_tokens * model.num_heads / tp * _FP32, kept

    def _core(self, layer: Layer, *, queries: float, keys: float, values: float, inputs: float) -> float:
        """Return bytes kept by the attention core: its inputs, or copies of them and scores without a fused kernel."""
        model = self._model
        layout = self._layout
        tokens = self.num_tokens
        heads = model.num_heads / layout.tp
        copies = tokens / layout.tp * (queries + keys + values)
        if model.attention_sinks or model.attention_softcap is not None:
            per_score = self._with_fp32_copy()
            if model.attention_softcap is not None:
                per_score += _FP32
            return copies * self._element + tokens * heads * self._seq_len * per_score
        if model.mla is not None and values != queries and not self._is_cuda:
            return (copies + tokens * heads * self._seq_len) * _FP32
        kept = inputs + tokens * heads * _FP32
        is_gathered = layout.cp > 1 and layout.cp_comm == "all_gather"
        is_windowed = layer.window is not None and layer.window < self._seq_len
        if is_windowed or is_gathered:  # a mask; of gathered keys, for the later of a rank's two pieces
            rows = self._seq_len / layout.cp
            if not is_windowed:
                rows /= 2
            kept += rows * self._seq_len * self._element
            if self._is_cuda:  # masked kernels need keys and values repeated for every query head
                repeated = 2 * tokens * heads * model.head_dim
                if is_gathered:
                    repeated *= layout.cp
                kept += repeated * self._element
        return kept

    def _head_norms(self, layer: Layer) -> float:
        """Return bytes kept by norms of query and key heads."""
        model = self._model
        tp = self._layout.tp
        heads = model.num_heads / tp + num_local_kv_heads(model, tp=tp)
        if model.qk_norm is None or (model.qk_norm == "l2" and not layer.has_rope):
            return 0.0
        if self._is_cuda:  # views of the projection, which is kept anyway
            return self.num_tokens * heads * _FP32
        if model.qk_norm == "l2":  # without weights: the input alone, in fp32
            return self.num_tokens * heads * (model.head_dim + 1) * _FP32
        return self._norm(heads * model.head_dim, tokens=self.num_tokens, rows=heads)

    def _latents(self) -> float:
        """Return bytes kept between latent attention's down and up projections, which tp does not cut."""
        mla = self._model.mla
        assert mla is not None  # noqa: S101 (checked by the caller)
        kept = 0.0
        for rank in (mla.q_lora_rank, mla.kv_lora_rank):
            if rank is not None:
                kept += self._norm(rank, tokens=self.num_tokens) + self.num_tokens * rank * self._element
        return kept

    def _feed_forward(self, layer: Layer) -> float:
        match layer.feed_forward:
            case None:
                return 0.0
            case FeedForward.DENSE:
                width = self._model.ffn_hidden_size / self._layout.tp
                kept = self._sublayer_input() + self._mlp(width, tokens=self.num_tokens)
                if self._is_compiled and self._model.activation is Activation.SWIGLU:  # computed again in backward
                    kept -= self.num_tokens * width * self._element
                return kept
            case FeedForward.MOE:
                return self._experts()

    def _experts(self) -> float:
        """Return bytes a mixture keeps, its tokens spread evenly over the experts."""
        model = self._model
        layout = self._layout
        moe = model.moe
        assert moe is not None  # noqa: S101 (no layer has one without it)
        inner = moe.latent_size or model.hidden_size
        own = self.num_stream_tokens
        routed = own * moe.topk * layout.etp  # each of an expert's ranks gets its rows
        kept = self._sublayer_input() - self._gathered_input() + own * model.hidden_size * _FP32  # the router's input
        if self._element != _FP32 and (moe.shared_ffn_hidden_size or moe.latent_size is not None):
            kept += own * model.hidden_size * self._element
        kept += own * (moe.num_experts * _FP32 + moe.topk * (3 * _INDEX + 2 * _FP32) + _FP32)
        kept += (routed + own * moe.topk) * inner * self._element
        kept += self._mlp(moe.ffn_hidden_size / layout.etp, tokens=routed)
        if moe.latent_size is not None:
            kept += own * moe.latent_size * self._element
        if layout.ep * layout.etp > 1:  # rows as they arrive, before they are sorted
            kept += routed * _INDEX * 2
        if moe.shared_ffn_hidden_size:
            if layout.tp > 1:
                kept += self._gathered_input()
            kept += self._mlp(moe.shared_ffn_hidden_size / layout.tp, tokens=self.num_tokens)
        return kept

    def _mlp(self, width: float, *, tokens: float) -> float:
        """Return bytes kept between the two products of an MLP."""
        return tokens * width * _MLP_COPIES[self._model.activation] * self._element
