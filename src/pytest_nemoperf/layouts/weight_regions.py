"""Regions of the weights on each rank, in the training layout and in the generation layout.

A generating replica is laid out like a training layout of its ranks: tp cuts dense weights and, as etp, each expert;
pp distributes the layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.layouts.shards import num_dense_shards, num_expert_shards, stage_shards
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.weights import SectionCut, ShardSpec, Weight, sharded_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRange:
    """Consecutive indices along one dimension.

    Attributes:
        start: First index in the whole weight.
        local: First index in the rank's tensor.
        length: Number of indices.
    """

    start: int
    local: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRegion:
    """Part of a weight on one rank: the product of the index ranges of each dimension.

    Attributes:
        shape: Shape of the rank's tensor; padding, which is in no interval, is at the end of a dimension.
        intervals: Index ranges of each dimension, in the order of the rank's tensor.
    """

    shape: tuple[int, ...]
    intervals: tuple[tuple[IndexRange, ...], ...]

    @property
    def numel(self) -> int:
        """Elements of the whole weight in this region, without padding."""
        numel = 1
        for along in self.intervals:
            numel *= sum(interval.length for interval in along)
        return numel

    def split(self, split: ShardSpec, *, degree: int, rank: int) -> ShardRegion:
        """Cut the region over tensor or expert parallelism, for one rank of the axis.

        Raises:
            PlanError: If the parts would not be equal and the dimension is not padded.
        """
        cuts = split.equal_cuts(self.shape, degree=degree)
        return self._within(split.dim, [cut.bounds(rank) for cut in cuts])

    def shard(self, dim: int, *, degree: int, rank: int) -> ShardRegion:
        """Shard the region as FSDP and torch.chunk do, for one rank; the last ranks may have less or nothing."""
        size = self.shape[dim]
        length = math.ceil(size / degree)
        first = min(rank * length, size)
        end = min(first + length, size)
        return self._within(dim, [(first, end)])

    def split_by_copies(self, cuts: Sequence[SectionCut], *, dim: int) -> list[ShardRegion]:
        """Split the region into one for each number of copies; an empty region stays one."""
        by_copies: dict[int, list[IndexRange]] = {}
        for interval in self.intervals[dim]:
            num_copies = 1
            for cut in cuts:
                if cut.start <= interval.start:
                    num_copies = cut.num_copies
            by_copies.setdefault(num_copies, []).append(interval)
        if not by_copies:
            return [self]
        return [self._with_intervals(dim, along) for along in by_copies.values()]

    def joined(self, other: ShardRegion) -> ShardRegion:
        """Return the union with a region of the same tensor that differs in the intervals of one dimension."""
        differing = [dim for dim, along in enumerate(self.intervals) if along != other.intervals[dim]]
        (dim,) = differing
        along = sorted((*self.intervals[dim], *other.intervals[dim]), key=lambda interval: interval.local)
        return self._with_intervals(dim, along)

    def _with_intervals(self, dim: int, along: Sequence[IndexRange]) -> ShardRegion:
        return replace(self, intervals=(*self.intervals[:dim], tuple(along), *self.intervals[dim + 1 :]))

    def _within(self, dim: int, bounds: Sequence[tuple[int, int]]) -> ShardRegion:
        """Return the region between bounds of the rank's tensor, one piece after the other."""
        along = []
        local = 0
        for first, end in bounds:
            for interval in self.intervals[dim]:
                begin = max(first, interval.local)
                length = min(end, interval.local + interval.length) - begin
                if length > 0:
                    start = interval.start + begin - interval.local
                    along.append(IndexRange(start=start, local=local + begin - first, length=length))
            local += end - first
        return ShardRegion(
            shape=(*self.shape[:dim], local, *self.shape[dim + 1 :]),
            intervals=(*self.intervals[:dim], tuple(along), *self.intervals[dim + 1 :]),
        )


def _whole_region(shape: Sequence[int]) -> ShardRegion:
    """Return the region of a whole weight."""
    intervals = []
    for size in shape:
        intervals.append((IndexRange(start=0, local=0, length=size),))
    return ShardRegion(shape=tuple(shape), intervals=tuple(intervals))


Holders = Mapping[str, Mapping[ShardRegion, Sequence[int]]]
"""Ranks that hold each region, by the name of the weight. No two regions of a weight overlap."""


def training_holders(model: ModelConfig, *, layout: Layout) -> Holders:
    """Return the ranks that hold each region of the weights in training.

    Regions of a weight have no element in common: rows that the tp axis copies are a region of their own.

    Raises:
        PlanError: If the layout doesn't fit the model.
    """
    holders: dict[str, dict[ShardRegion, list[int]]] = {}
    by_kind: dict[tuple[object, ...], dict[ShardRegion, list[int]]] = {}  # equal layers: compute each kind once
    ranks_per_stage = layout.gpus // layout.pp
    for stage in range(layout.pp):
        for shard in stage_shards(model, layout=layout, pp_rank=stage):
            weight = shard.weight
            kind = (weight.shape, weight.split, weight.is_expert)
            if kind not in by_kind:
                by_kind[kind] = {}
                for stage_rank in range(ranks_per_stage):
                    for region in _regions(weight, layout=layout, stage_rank=stage_rank):
                        by_kind[kind].setdefault(region, []).append(stage_rank)
            of_weight = holders.setdefault(weight.name, {})
            for region, stage_ranks in by_kind[kind].items():
                ranks = of_weight.setdefault(region, [])
                for stage_rank in stage_ranks:
                    ranks.append(stage * ranks_per_stage + stage_rank)
    return holders


def generation_holders(model: ModelConfig, *, layout: Layout) -> Holders:
    """Return the ranks of the run that hold each region of the weights in generation.

    Raises:
        PlanError: If the layout doesn't fit the model.
    """
    generation = layout.generation or GenerationLayout(gpus=layout.gpus)
    replica = generation.replica
    model = replace(model, mtp_num_layers=0)  # generation does not use multi-token prediction
    first = 0 if generation.is_colocated else layout.gpus
    holders: dict[str, dict[ShardRegion, list[int]]] = {}
    for name, regions in training_holders(model, layout=replica).items():
        of_weight = holders.setdefault(name, {})
        for region, replica_ranks in regions.items():
            ranks = of_weight.setdefault(region, [])
            for start in range(first, first + generation.gpus, replica.gpus):
                ranks += [start + rank for rank in replica_ranks]
    return holders


def regions_of_rank(rank: int, *, holders: Holders) -> dict[str, ShardRegion]:
    """Return one rank's region of each weight it holds."""
    held: dict[str, ShardRegion] = {}
    for name, regions in holders.items():
        for region, ranks in regions.items():
            if rank not in ranks:
                continue
            if name in held:
                held[name] = held[name].joined(region)
            else:
                held[name] = region
    return held


def _regions(weight: Weight, *, layout: Layout, stage_rank: int) -> list[ShardRegion]:
    """Return the regions of a weight on one rank of a pipeline stage, in the rank order of native/parallel/mesh.py."""
    region = _whole_region(weight.shape)
    degree = layout.tp
    ranks_per_shard = layout.tp
    num_shards = num_dense_shards(layout)
    if weight.is_expert:
        degree = layout.etp
        ranks_per_shard = layout.etp * layout.ep
        num_shards = num_expert_shards(layout)
        region = region.split(ShardSpec(dim=0), degree=layout.ep, rank=stage_rank // layout.etp % layout.ep)
    if weight.split is not None:
        region = region.split(weight.split, degree=degree, rank=stage_rank % degree)
    dim = sharded_dim(region.shape, num_shards=num_shards, is_expert=weight.is_expert)
    region = region.shard(dim, degree=num_shards, rank=stage_rank // ranks_per_shard % num_shards)
    if weight.split is None:
        return [region]
    cuts = weight.split.cuts(weight.shape, degree=degree)
    return region.split_by_copies(cuts, dim=weight.split.dim)
