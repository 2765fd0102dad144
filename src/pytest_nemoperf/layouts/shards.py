"""Shards of a model's weights on each rank of a layout: pipeline stage, tensor or expert part, FSDP shard.

The native engine allocates exactly these; a test starts real ranks and compares byte by byte.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.layouts.pipeline_stages import stage_layers
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import Layer
from pytest_nemoperf.models.weights import (
    Weight,
    block_weights,
    embedding_weights,
    head_weights,
    layer_weights,
    mtp_weights,
    num_local_kv_heads,
    sharded_dim,
)

_KEPT_STAGES: Final = 64
"""Stages whose shards are kept: a plan is priced under several recomputations, which have the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightShard:
    """One weight's shard on a rank.

    Attributes:
        weight: Weight of the whole model.
        unit: FSDP unit, gathered and freed together: a block, its experts, or ``root`` for weights in neither.
        shape: Shape after pipeline, tensor and expert parallelism, before FSDP.
        num_shards: Ranks that FSDP shards this shape over; 1 without FSDP.
        num_replicas: Ranks that hold the same shard and reduce its gradient.
        copied_numel: Elements (before FSDP) that other tensor parallel ranks hold as well and sum the gradients of:
            key-value heads, if tp is larger than their number.
    """

    weight: Weight
    unit: str
    shape: tuple[int, ...]
    num_shards: int
    num_replicas: int
    copied_numel: int = 0

    @property
    def numel(self) -> int:
        """Elements before FSDP."""
        return math.prod(self.shape)

    @property
    def padded_numel(self) -> int:
        """Elements of a shard as FSDP2 stores it: all are padded to the size of the first one."""
        length = self._length
        return math.ceil(length / self.num_shards) * (self.numel // length)

    def own_numel(self, shard: int) -> int:
        """Elements of a shard without padding, as in the optimizer's state; shards count from 0."""
        length = self._length
        per_shard = math.ceil(length / self.num_shards)
        own = max(0, min(per_shard, length - shard * per_shard))
        return own * (self.numel // length)

    @property
    def _length(self) -> int:
        return self.shape[sharded_dim(self.shape, num_shards=self.num_shards, is_expert=self.weight.is_expert)]


@lru_cache(maxsize=_KEPT_STAGES)
def stage_shards(model: ModelConfig, *, layout: Layout, pp_rank: int) -> tuple[WeightShard, ...]:
    """Return the weight shards of one rank of a pipeline stage, in the order of the forward pass.

    The last stage has a copy of the embedding too if its head is tied to it, or for multi-token prediction, which
    embeds the tokens again.
    """
    is_last = pp_rank == layout.pp - 1
    shards = _first_shards(model, layout=layout, is_first=pp_rank == 0, is_last=is_last)
    for chunk in stage_layers(model, pp=layout.pp, vp=layout.vp)[pp_rank]:
        for index in chunk:
            shards += _shards(block_weights(model, index), unit=f"blocks.{index}", layout=layout)
    if is_last:
        shards += _shards(head_weights(model), unit="root", layout=layout)
        for depth in range(model.num_mtp_blocks):
            shards += _shards(mtp_weights(model, depth), unit=f"mtp.{depth}", layout=layout)
    return tuple(shards)


def counted_shards(model: ModelConfig, *, layout: Layout, pp_rank: int) -> tuple[tuple[WeightShard, int], ...]:
    """Return the weight shards of a stage's rank, one for each kind of layer, with the number of layers like it.

    A unit is named after the first layer of its kind.
    """
    kinds = tuple(layers_of_stage(model, layout=layout, pp_rank=pp_rank).items())
    return _counted_shards(model, layout, kinds, is_first=pp_rank == 0, is_last=pp_rank == layout.pp - 1)


@lru_cache(maxsize=_KEPT_STAGES)
def _counted_shards(
    model: ModelConfig, layout: Layout, kinds: tuple[tuple[Layer, int], ...], *, is_first: bool, is_last: bool
) -> tuple[tuple[WeightShard, int], ...]:
    counted = []
    for shard in _first_shards(model, layout=layout, is_first=is_first, is_last=is_last):
        counted.append((shard, 1))
    for layer, count in kinds:
        unit = f"blocks.{model.layers.index(layer)}"
        for shard in _shards(layer_weights(model, layer, name=unit), unit=unit, layout=layout):
            counted.append((shard, count))
    if is_last:
        for shard in _shards(head_weights(model), unit="root", layout=layout):
            counted.append((shard, 1))
        for depth in range(model.num_mtp_blocks):
            for shard in _shards(mtp_weights(model, depth), unit=f"mtp.{depth}", layout=layout):
                counted.append((shard, 1))
    return tuple(counted)


def _first_shards(model: ModelConfig, *, layout: Layout, is_first: bool, is_last: bool) -> list[WeightShard]:
    """Return the shards before a stage's layers: of tables, or of the last stage's copy of the embedding."""
    if is_first:
        return _shards(embedding_weights(model), unit="root", layout=layout)
    if is_last and (model.tied_embeddings or model.mtp_num_layers):
        table, *_ = embedding_weights(model)
        return _shards([table], unit="root", layout=layout)
    return []


def layers_of_stage(model: ModelConfig, *, layout: Layout, pp_rank: int) -> Mapping[Layer, int]:
    """Return the number of decoder layers of each kind on a pipeline stage, all its model chunks together."""
    layers = model.layers
    own: Counter[Layer] = Counter()
    for chunk in stage_layers(model, pp=layout.pp, vp=layout.vp)[pp_rank]:
        own.update(layers[chunk.start : chunk.stop])
    return own


def num_dense_shards(layout: Layout) -> int:
    """Return the number of ranks FSDP shards a weight outside the experts over, context parallel ranks included."""
    if layout.dp_shard == 1:
        return 1
    return layout.dp_shard * layout.cp


def num_expert_shards(layout: Layout) -> int:
    """Return the number of ranks FSDP shards an expert's weight over: those that hold the same experts."""
    if layout.dp_shard == 1:
        return 1
    return layout.expert_dp


def num_a2a_kv_copies(model: ModelConfig, *, layout: Layout) -> float:
    """Return the number of context parallel ranks that get each key-value head of a rank under ``a2a``."""
    return max(1.0, layout.cp / num_local_kv_heads(model, tp=layout.tp))


def _shards(weights: Iterable[Weight], *, unit: str, layout: Layout) -> list[WeightShard]:
    return [_shard(weight, unit=unit, layout=layout) for weight in weights]


def _shard(weight: Weight, *, unit: str, layout: Layout) -> WeightShard:
    shape = list(weight.shape)
    degree = layout.tp
    num_shards = num_dense_shards(layout)
    num_ranks = layout.dp * layout.cp
    if weight.is_expert:
        shape[0] = math.ceil(shape[0] / layout.ep)
        degree = layout.etp
        num_shards = num_expert_shards(layout)
        num_ranks = layout.dp * layout.cp * layout.tp // (layout.ep * layout.etp)
        if unit != "root":
            unit = f"{unit}.experts"
    num_copied = 0
    if weight.split is not None:
        length = 0
        for cut in weight.split.cuts(shape, degree=degree):
            length += cut.length
            if cut.num_copies > 1:
                num_copied += cut.length
        shape[weight.split.dim] = length
        num_copied *= math.prod(shape) // length
    return WeightShard(
        weight=weight,
        unit=unit,
        shape=tuple(shape),
        num_shards=num_shards,
        num_replicas=num_ranks // num_shards,
        copied_numel=num_copied,
    )
