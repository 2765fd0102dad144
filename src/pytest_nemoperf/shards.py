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
from pytest_nemoperf.weights import Weight, block_weights, embedding_weights, head_weights, mtp_weights, sharded_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a rank holds of one weight.

    Attributes:
        weight: Of the whole model.
        unit: What FSDP gathers and frees together: a block, its experts, or ``root`` for what is in none.
        shape: After pipeline, tensor and expert parallelism took their parts; what FSDP cuts further.
        num_shards: Ranks that share this part among them (FSDP); 1 for a part each rank holds whole.
        num_replicas: Ranks that hold the same shard and reduce its gradient.
    """

    weight: Weight
    unit: str
    shape: tuple[int, ...]
    num_shards: int
    num_replicas: int

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


def stage_parts(model: ModelConfig, *, layout: Layout, pp_rank: int) -> tuple[Part, ...]:
    """Return what a rank of a pipeline stage holds, in the order of the forward pass.

    The last stage has a copy of the embedding too where its head is tied to it, or where multi-token prediction
    embeds the tokens again.
    """
    is_first, is_last = pp_rank == 0, pp_rank == layout.pp - 1
    parts: list[Part] = []
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


def _parts(weights: Iterator[Weight], *, unit: str, layout: Layout) -> Iterator[Part]:
    for weight in weights:
        is_expert = weight.is_expert
        num_shards = num_expert_shards(layout) if is_expert else num_dense_shards(layout)
        num_ranks = (
            layout.dp * layout.cp * layout.tp // (layout.ep * layout.etp) if is_expert else layout.dp * layout.cp
        )
        yield Part(
            weight=weight,
            unit=f"{unit}.experts" if is_expert and unit != "root" else unit,
            shape=_local_shape(weight, layout=layout),
            num_shards=num_shards,
            num_replicas=num_ranks // num_shards,
        )


def _local_shape(weight: Weight, *, layout: Layout) -> tuple[int, ...]:
    shape = list(weight.shape)
    if weight.is_expert:
        shape[0] = math.ceil(shape[0] / layout.ep)
    degree = layout.etp if weight.is_expert else layout.tp
    split = weight.split
    if split is not None and degree > 1:
        sections = split.sections or (shape[split.dim],)
        shape[split.dim] = sum(math.ceil(section / degree) for section in sections)
    return tuple(shape)
