"""Activations that Megatron-Core's layers keep for backward, on transformer-engine's attention, norms and products.

Counted as in Korthikanti et al. 2022 (https://arxiv.org/abs/2205.05198, section 4), without dropout and without
scores, which fused attention does not keep. Under sequence parallelism (section 4.2.2) a rank keeps its own part of the
input of a column-parallel product and gathers it again for backward: megatron/core/tensor_parallel/layers.py saves it
before it is gathered. Inputs of 8-bit products are counted in bf16: from above.
"""

from __future__ import annotations

from pytest_nemoperf.models.components import Activation, Layer
from pytest_nemoperf.pricing.activations import ActivationBytes
from pytest_nemoperf.recipes.memory_rules import KeptBy, MemoryRules
from pytest_nemoperf.recipes.recipe import Plan

_FP32 = 4
_ROUTING = 9
"""Bytes of a token and expert in the router: its score in fp32, its place in the map and in the sorted rows."""
_FUSED_COPIES = {
    Activation.SWIGLU: 3,
    Activation.GEGLU: 3,
    Activation.CLAMPED_SWIGLU: 3,
    Activation.GELU: 2,
    Activation.SQUARED_RELU: 2,
}
"""Kept multiples of an MLP's width: a fused activation keeps its input (two if gated), the second product its own."""


class MegatronActivationBytes(ActivationBytes):
    """Bytes a rank of Megatron-Core keeps per micro-batch, under the plan's tensor, context and expert parallelism.

    Args:
        plan: Model, sizes, layout and precision.
    """

    def loss_workspace(self) -> float:
        """Return transient bytes of the loss: logits as computed, beside the fp32 copy that becomes probabilities."""
        return self.num_tokens * self._num_logits() * self._element

    def _gathered_input(self) -> float:
        return self.num_stream_tokens * self._model.hidden_size * self._element

    def _attention_parts(self) -> tuple[float, float, float]:
        """Return elements per token of queries, of keys and values together, and of outputs, over all tp ranks."""
        model = self._model
        if model.mla is not None:
            queries = model.num_heads * (model.mla.qk_nope_head_dim + model.mla.qk_rope_head_dim)
            outputs = model.num_heads * model.mla.v_head_dim
            return queries, queries + outputs, outputs
        queries = model.num_heads * model.head_dim
        return queries, 2 * max(model.num_kv_heads, self._layout.tp) * model.head_dim, queries

    def _inputs_of_core(self) -> float:
        """Return bytes of rotated queries, rotated keys and values, each contiguous, before any exchange over cp."""
        queries, keys_and_values, _ = self._attention_parts()
        return self.num_tokens / self._layout.tp * (queries + keys_and_values) * self._element

    def _around_core(self) -> float:
        """Return bytes kept beside the core: its output, norms of heads with their inputs, latents, gates."""
        model = self._model
        _, _, outputs = self._attention_parts()
        num_outputs = 3 if model.attention_gate else 1
        around = self.num_tokens / self._layout.tp * outputs * self._element * num_outputs
        if model.mla is not None:
            return around + self._latents()
        if model.qk_norm is not None:  # norms keep the projection, of which queries and keys are parts
            around += self._inputs_of_core()
        return around

    def _core_of_attention(self) -> float:
        """Return bytes that the core keeps beside inputs and output: a logarithm a head, or scores with soft caps."""
        model = self._model
        heads = model.num_heads / self._layout.tp
        if model.attention_softcap is not None:
            return self.num_tokens * heads * self._seq_len * (_FP32 + self._element)
        return self.num_tokens * heads * _FP32

    def _attention(self, layer: Layer) -> tuple[float, float]:  # noqa: ARG002 (windows keep no masks here)
        """Return bytes attention keeps: without recomputation, and with its core computed again."""
        kept = self._around_core() + self._inputs_of_core()
        return kept + self._core_of_attention(), kept

    def _experts(self) -> float:
        """Return bytes a mixture keeps, its tokens spread evenly over the experts.

        Probabilities are multiplied within the activation, so that outputs of experts are not kept; rows on their way
        to the experts aren't either, only as they arrive.
        """
        layout = self._layout
        moe = self._model.moe
        assert moe is not None  # noqa: S101 (no layer has one without it)
        own = self.num_stream_tokens
        routed = own * moe.topk * layout.etp
        kept = self._sublayer_input() + own * moe.num_experts * _ROUTING
        kept += routed * (moe.latent_size or self._model.hidden_size) * self._element
        kept += self._mlp(moe.ffn_hidden_size / layout.etp, tokens=routed)
        if moe.latent_size is not None:
            kept += own * moe.latent_size * self._element
        if moe.shared_ffn_hidden_size:
            kept += self._mlp(moe.shared_ffn_hidden_size / layout.tp, tokens=self.num_tokens)
        return kept

    def _mlp(self, width: float, *, tokens: float) -> float:
        """Return bytes kept between the two products of an MLP."""
        return tokens * width * _FUSED_COPIES[self._model.activation] * self._element


def activation_bytes(plan: Plan, *, rules: MemoryRules) -> ActivationBytes:
    """Return the activations that a framework's operators keep."""
    match rules.kept_by:
        case KeptBy.NATIVE:
            return ActivationBytes(plan)
        case KeptBy.MEGATRON:
            return MegatronActivationBytes(plan)
