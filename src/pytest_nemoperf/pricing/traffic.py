"""Traffic of each parallel axis: bytes one rank sends in one step, from formulas with their sources.

Ring algorithms are counted: over n ranks an all-gather or a reduce-scatter of a whole of W bytes sends (n-1)/n W from
each rank, an all-reduce twice that (Patarasuk and Yuan 2009, https://doi.org/10.1016/j.jpdc.2008.09.002), an
all-to-all (n-1)/n of a rank's bytes. Scalars (loss, gradient norm) are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_nemoperf.layouts.shards import WeightShard, counted_shards, layers_of_stage, num_a2a_kv_copies
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import FeedForward, Layer, Mixer
from pytest_nemoperf.models.weights import num_kv_copies, num_local_kv_heads
from pytest_nemoperf.pricing.activations import ActivationBytes, compute_bytes
from pytest_nemoperf.recipes.recipe import Plan, Recompute

_FP32 = 4
_FORWARD_AND_BACKWARD = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisTraffic:
    """Traffic of one axis.

    Attributes:
        axis: ``tp``, ``cp``, ``ep`` (with etp: one exchange serves both), ``pp``, ``dp`` (weights and gradients) or
            ``expert_dp`` (experts').
        degree: Ranks of a group.
        bytes_per_step: Sent by one rank of the busiest of the priced stages, in one step; in reinforcement learning,
            in its updates.
        formula: The formula in words.
        source: Reference of the formula.
    """

    axis: str
    degree: int
    bytes_per_step: int
    formula: str
    source: str


_SOURCES = {
    "tp": "Korthikanti et al. 2022, section 4.2.2, https://arxiv.org/abs/2205.05198",
    "cp": "Megatron-Core's context parallelism; a2a: Jacobs et al. 2023, https://arxiv.org/abs/2309.14509",
    "ep": "Lepikhin et al. 2020, section 3.2, https://arxiv.org/abs/2006.16668",
    "pp": "Narayanan et al. 2021, section 3.2, https://arxiv.org/abs/2104.04473",
    "dp": "Rajbhandari et al. 2020, section 7, https://arxiv.org/abs/1910.02054",
    "expert_dp": "as dp",
}
_FORMULAS = {
    "tp": "(tp-1)/tp x T x D elements, 4 times forward and 4 times backward a layer (2 and 2 in a mixture without "
    "shared experts), twice more at the embedding and at the head; full recomputation adds a forward "
    "pass; twice (r-1)/r of the gradients of key-value heads in fp32 once a step where r ranks hold copies",
    "cp": "all_gather: (cp-1) x T/cp x keys and values, forward, and their gradients backward; a2a: (cp-1)/cp of "
    "queries, keys and values (a copy for each rank with query heads of theirs) and output, forward and backward; "
    "recomputation repeats the forward exchange (selective "
    "under a2a: without the output's)",
    "ep": "(n-1)/n x tokens of the rank x topk x etp x D elements, n = ep x etp: dispatch and combine, forward and "
    "backward, tokens spread evenly; full recomputation as for tp",
    "pp": "T x D elements (T/tp under sequence parallelism; D of all residual streams) to the next chunk forward and "
    "to the one before backward",
    "dp": "FSDP: (n-1)/n of the stage's weights in the compute type, gathered for each forward and each backward pass "
    "(embedding and head: for both at once), and of its gradients in fp32 for each backward pass (each once a step "
    "under pp); replicas: twice (n-1)/n of their gradients, once a step, or with shard_optimizer (n-1)/n of them in "
    "fp32 and of the weights in the compute type",
    "expert_dp": "as dp, over the ranks with the same experts",
}


def axis_traffic(plan: Plan, *, stages: Iterable[int]) -> tuple[AxisTraffic, ...]:
    """Return the traffic of each axis of more than one rank.

    Args:
        plan: Model, sizes and layout.
        stages: Pipeline ranks to price; each axis shows the busiest.
    """
    counts = [_StageTraffic(plan, pp_rank=pp_rank) for pp_rank in stages]
    layout = plan.layout
    expert_dp = 1
    if plan.model.moe is not None:
        expert_dp = layout.dp * layout.cp * layout.tp // (layout.ep * layout.etp)
    degrees = {
        "tp": layout.tp,
        "cp": layout.cp,
        "ep": layout.ep * layout.etp,
        "pp": layout.pp,
        "dp": layout.dp * layout.cp,
        "expert_dp": expert_dp,
    }
    traffic = []
    for axis, degree in degrees.items():
        if degree == 1:
            continue
        busiest = max(count.of(axis) for count in counts)
        traffic.append(
            AxisTraffic(
                axis=axis,
                degree=degree,
                bytes_per_step=plan.num_updates * round(busiest),
                formula=_FORMULAS[axis],
                source=_SOURCES[axis],
            )
        )
    return tuple(traffic)


def copied_gradient_bytes(plan: Plan, *, pp_rank: int) -> float:
    """Return bytes a stage's rank sends per update to sum the gradients of copied key-value heads.

    FSDP cuts rows, and those of the heads are the last of their matrix; counted for the rank with most of them.
    """
    num_copies = num_kv_copies(plan.model, tp=plan.layout.tp)
    summed = 0
    for shard, count in counted_shards(plan.model, layout=plan.layout, pp_rank=pp_rank):
        summed += count * min(shard.copied_numel, shard.padded_numel)
    return 2 * (num_copies - 1) / num_copies * summed * _FP32


class _StageTraffic:
    """Traffic of one rank of one pipeline stage, in bytes."""

    def __init__(self, plan: Plan, *, pp_rank: int) -> None:
        self._plan = plan
        self._pp_rank = pp_rank
        self._costs = ActivationBytes(plan)
        self._element = compute_bytes(plan.precision)
        self._layers = Counter(layers_of_stage(plan.model, layout=plan.layout, pp_rank=pp_rank))
        self._core_repeats = int(plan.recompute is not Recompute.NONE)
        self._block_repeats = int(plan.recompute is Recompute.FULL)
        self._is_last = pp_rank == plan.layout.pp - 1
        if self._is_last:
            self._layers[plan.model.mtp_layer] += plan.model.mtp_num_layers

    def of(self, axis: str) -> float:
        """Return the bytes of one update along an axis."""
        num_micro_batches = self._plan.grad_accum_steps
        match axis:
            case "tp":
                copied = copied_gradient_bytes(self._plan, pp_rank=self._pp_rank)
                return num_micro_batches * self._tensor_parallel() + copied
            case "cp":
                return num_micro_batches * sum(n * self._context_parallel(layer) for layer, n in self._layers.items())
            case "ep":
                num_mixtures = 0
                for layer, count in self._layers.items():
                    if layer.feed_forward is FeedForward.MOE:
                        num_mixtures += count
                return num_micro_batches * num_mixtures * self._expert_tokens()
            case "pp":
                return num_micro_batches * self._stage_borders()
            case _:
                return self._gradients_and_weights(is_expert=axis == "expert_dp")

    def _tensor_parallel(self) -> float:
        plan = self._plan
        tp = plan.layout.tp
        whole = (tp - 1) / tp * self._costs.num_tokens * plan.model.hidden_size * self._element
        passes = 0
        for layer, count in self._layers.items():
            sublayers = (layer.mixer is not None) + _is_split_feed_forward(plan.model, layer)
            passes += count * (_FORWARD_AND_BACKWARD + self._block_repeats) * 2 * sublayers
        passes += 2 * (self._pp_rank == 0) + 2 * self._is_last * (1 + plan.model.mtp_num_layers)
        return passes * whole

    def _context_parallel(self, layer: Layer) -> float:
        if layer.mixer is not Mixer.ATTENTION:
            return 0.0
        model = self._plan.model
        layout = self._plan.layout
        queries, keys_values, out = _attention_widths(model, tp=layout.tp)
        if layout.cp_comm == "a2a":
            inputs = queries + keys_values * num_a2a_kv_copies(model, layout=layout)
            exchanged = inputs + out
            sent = (layout.cp - 1) / layout.cp
        else:
            inputs = exchanged = keys_values
            sent = layout.cp - 1
        # Selective recomputation ends with the core, whose output is not exchanged again.
        repeated = exchanged if self._plan.recompute is Recompute.FULL else inputs
        width = _FORWARD_AND_BACKWARD * exchanged + self._core_repeats * repeated
        return self._costs.num_tokens * sent * width / layout.tp * self._element

    def _expert_tokens(self) -> float:
        moe = self._plan.model.moe
        layout = self._plan.layout
        if moe is None:
            return 0.0
        width = moe.latent_size or self._plan.model.hidden_size
        routed = self._costs.num_stream_tokens * moe.topk * width * self._element
        num_ranks = layout.ep * layout.etp
        return 2 * (_FORWARD_AND_BACKWARD + self._block_repeats) * (num_ranks - 1) / num_ranks * layout.etp * routed

    def _stage_borders(self) -> float:
        """Return bytes per micro-batch: chunks but the model's last send forward, but its first backward."""
        layout = self._plan.layout
        sends = 2 * layout.vp - (self._pp_rank == 0) - self._is_last
        return sends * self._costs.num_stream_tokens * self._plan.model.stream_size * self._element

    def _gradients_and_weights(self, *, is_expert: bool) -> float:
        plan = self._plan
        sent = 0.0
        for shard, count in counted_shards(plan.model, layout=plan.layout, pp_rank=self._pp_rank):
            if shard.weight.is_expert == is_expert:
                sent += count * self._data_parallel(shard)
        return sent

    def _data_parallel(self, shard: WeightShard) -> float:
        """Return bytes per update to gather a weight and reduce its gradients."""
        num_shards = shard.num_shards
        num_replicas = shard.num_replicas
        sent = 0.0
        if num_shards > 1:
            num_passes = num_gathers = self._plan.grad_accum_steps
            if self._plan.layout.pp > 1:  # gathered once an update
                num_passes = num_gathers = 1
            elif shard.unit != "root":  # only the embedding and the head stay gathered from forward to backward
                num_gathers *= _FORWARD_AND_BACKWARD
            whole = shard.padded_numel * num_shards
            sent += (num_shards - 1) / num_shards * whole * (num_gathers * self._element + num_passes * _FP32)
        if num_replicas > 1:
            # Gradients are scattered in fp32; each rank gathers them, or the weights that others updated.
            gathered = self._element if self._plan.layout.shard_optimizer else _FP32
            sent += (num_replicas - 1) / num_replicas * shard.padded_numel * (_FP32 + gathered)
        return sent


def _is_split_feed_forward(model: ModelConfig, layer: Layer) -> bool:
    """Whether tp splits a layer's MLP: routed experts are split over ep and etp instead."""
    if layer.feed_forward is FeedForward.MOE:
        return model.moe is not None and model.moe.shared_ffn_hidden_size > 0
    return layer.feed_forward is FeedForward.DENSE


def _attention_widths(model: ModelConfig, *, tp: int) -> tuple[float, float, float]:
    """Return the widths of queries, keys with values, and output of all tensor parallel ranks together."""
    if model.mla is not None:
        qk_head = model.mla.qk_nope_head_dim + model.mla.qk_rope_head_dim
        keys_values = model.num_heads * (qk_head + model.mla.v_head_dim)
        return model.num_heads * qk_head, keys_values, model.num_heads * model.mla.v_head_dim
    queries = model.num_heads * model.head_dim
    return queries, 2 * num_local_kv_heads(model, tp=tp) * tp * model.head_dim, queries
