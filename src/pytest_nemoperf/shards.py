"""What each rank of a layout holds of a model's weights: pipeline stage, tensor or expert part, FSDP shard.

The native engine allocates exactly this; a test starts real ranks and compares byte by byte.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_nemoperf.architecture import ModelConfig
from pytest_nemoperf.parallelism import Layout
from pytest_nemoperf.stages import stage_layers
from pytest_nemoperf.weights import (
    Weight,
    block_weights,
    embedding_weights,
    head_weights,
    mtp_weights,
    num_local_kv_heads,
    sharded_dim,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightShard:
    """What a rank holds of one weight.

    Attributes:
        weight: Of the whole model.
        unit: What FSDP gathers and frees together: a block, its experts, or ``root`` for what is in none.
        shape: After pipeline, tensor and expert parallelism took their parts; what FSDP cuts further.
        num_shards: Ranks that share this part among them (FSDP); 1 for a part each rank holds whole.
        num_replicas: Ranks that hold the same shard and reduce its gradient.
        copied_numel: Elements of the part that other tensor parallel ranks have as well, and sum their gradients:
            key-value heads where tp is larger than their number.
    """

    weight: Weight
    unit: str
    shape: tuple[int, ...]
    num_shards: int
    num_replicas: int
    copied_numel: int = 0

    @property
    def numel(self) -> int:
        """Elements before FSDP takes its shard."""
        return math.prod(self.shape)

    @property
    def padded_numel(self) -> int:
        """Elements of a shard as FSDP2 stores it: every rank's has the size of the first one."""
        return self._length_per_shard * (self.numel // self._length)

    def own_numel(self, shard: int) -> int:
        """Elements of a shard without the padding, which the optimizer's state does not have; shards count from 0."""
        own = max(0, min(self._length_per_shard, self._length - shard * self._length_per_shard))
        return own * (self.numel // self._length)

    @property
    def _length_per_shard(self) -> int:
        return math.ceil(self._length / self.num_shards)

    @property
    def _length(self) -> int:
        return self.shape[sharded_dim(self.shape, num_shards=self.num_shards, is_expert=self.weight.is_expert)]


def stage_parts(model: ModelConfig, *, layout: Layout, pp_rank: int) -> tuple[WeightShard, ...]:
    """Return what a rank of a pipeline stage holds, in the order of the forward pass.

    The last stage has a copy of the embedding too where its head is tied to it, or where multi-token prediction
    embeds the tokens again.
    """
    is_first, is_last = pp_rank == 0, pp_rank == layout.pp - 1
    parts: list[WeightShard] = []
    if is_first:
        parts += _parts(embedding_weights(model), unit="root", layout=layout)
    elif is_last and (model.tied_embeddings or model.mtp_num_layers):
        table = next(iter(embedding_weights(model)))
        parts += _parts(iter([table]), unit="root", layout=layout)
    for chunk in stage_layers(model, pp=layout.pp, vp=layout.vp)[pp_rank]:
        for index in chunk:
            parts += _parts(block_weights(model, index), unit=f"blocks.{index}", layout=layout)
    if is_last:
        parts += _parts(head_weights(model), unit="root", layout=layout)
        for depth in range(model.num_mtp_blocks):
            parts += _parts(mtp_weights(model, depth), unit=f"mtp.{depth}", layout=layout)
    return tuple(parts)


def num_dense_shards(layout: Layout) -> int:
    """Return over how many ranks FSDP cuts a weight outside the experts; context parallel ranks are among them."""
    return layout.dp_shard * layout.cp if layout.dp_shard > 1 else 1


def num_expert_shards(layout: Layout) -> int:
    """Return over how many ranks FSDP cuts an expert's weight: those that hold the same experts."""
    return layout.expert_dp if layout.dp_shard > 1 else 1


def num_traded_copies(model: ModelConfig, *, layout: Layout) -> float:
    """Return to how many context parallel ranks each key-value head of a rank goes when heads are traded (a2a)."""
    return max(1.0, layout.cp / num_local_kv_heads(model, tp=layout.tp))


def _parts(weights: Iterator[Weight], *, unit: str, layout: Layout) -> Iterator[WeightShard]:
    for weight in weights:
        is_expert = weight.is_expert
        num_shards = num_expert_shards(layout) if is_expert else num_dense_shards(layout)
        num_ranks = (
            layout.dp * layout.cp * layout.tp // (layout.ep * layout.etp) if is_expert else layout.dp * layout.cp
        )
        shape = list(weight.shape)
        if is_expert:
            shape[0] = math.ceil(shape[0] / layout.ep)
        num_copied = 0
        if weight.split is not None:
            cuts = weight.split.cuts(shape, degree=layout.etp if is_expert else layout.tp)
            shape[weight.split.dim] = sum(cut.length for cut in cuts)
            num_copied = sum(cut.length for cut in cuts if cut.num_copies > 1)
            num_copied *= math.prod(shape) // shape[weight.split.dim]
        yield WeightShard(
            weight=weight,
            unit=f"{unit}.experts" if is_expert and unit != "root" else unit,
            shape=tuple(shape),
            num_shards=num_shards,
            num_replicas=num_ranks // num_shards,
            copied_numel=num_copied,
        )
