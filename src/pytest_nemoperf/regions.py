"""Which elements of each weight a rank holds, where it trains and where it generates.

A replica that generates is laid out like a training layout of its ranks: tp cuts dense weights and, as etp, each
expert; pp deals out the layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_nemoperf.architecture import ModelConfig
from pytest_nemoperf.parallelism import GenerationLayout, Layout
from pytest_nemoperf.shards import num_dense_shards, num_expert_shards, stage_parts
from pytest_nemoperf.weights import SectionCut, ShardSpec, Weight, sharded_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRange:
    """Elements that follow each other along one dimension.

    Attributes:
        start: Of them in the whole weight.
        local: Start in what the rank holds.
        length: Elements.
    """

    start: int
    local: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRegion:
    """What a rank holds of a weight: all elements whose place is, in each dimension, in one of its intervals.

    Attributes:
        shape: Of the rank's tensor; padding, which is in no interval, is at the end of a dimension.
        intervals: Of each dimension, in the order of the rank's tensor.
    """

    shape: tuple[int, ...]
    intervals: tuple[tuple[IndexRange, ...], ...]

    @property
    def numel(self) -> int:
        """Elements of the whole weight that are here."""
        return math.prod(sum(interval.length for interval in along) for along in self.intervals)

    def split(self, split: ShardSpec, *, degree: int, place: int) -> ShardRegion:
        """Return a rank's equal part of this over tensor or expert parallelism.

        Raises:
            PlanError: If the parts would not be equal and the dimension is not one that is filled up.
        """
        cuts = split.equal_cuts(self.shape, degree=degree)
        return self._within(split.dim, [cut.bounds(place) for cut in cuts])

    def shard(self, dim: int, *, degree: int, place: int) -> ShardRegion:
        """Return a rank's shard of this as FSDP cuts it, and torch.chunk: the last ones may have less or nothing."""
        size = self.shape[dim]
        length = math.ceil(size / degree)
        return self._within(dim, [(min(place * length, size), min((place + 1) * length, size))])

    def by_copies(self, cuts: Sequence[SectionCut], *, dim: int) -> list[ShardRegion]:
        """Return what each number of ranks holds of this apart; all of it if it is nothing."""
        apart: dict[int, list[IndexRange]] = {}
        for interval in self.intervals[dim]:
            num_copies = next(cut.num_copies for cut in reversed(cuts) if cut.start <= interval.start)
            apart.setdefault(num_copies, []).append(interval)
        return [self._with_intervals(dim, along) for along in apart.values()] or [self]

    def joined(self, other: ShardRegion) -> ShardRegion:
        """Return this and another region of the same tensor, which differs in the intervals of one dimension."""
        (dim,) = [dim for dim, along in enumerate(self.intervals) if along != other.intervals[dim]]
        along = sorted((*self.intervals[dim], *other.intervals[dim]), key=lambda interval: interval.local)
        return self._with_intervals(dim, along)

    def _with_intervals(self, dim: int, along: Sequence[IndexRange]) -> ShardRegion:
        return replace(self, intervals=(*self.intervals[:dim], tuple(along), *self.intervals[dim + 1 :]))

    def _within(self, dim: int, bounds: Sequence[tuple[int, int]]) -> ShardRegion:
        """Return what lies between bounds of the rank's tensor, one piece after the other."""
        along, local = [], 0
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


def whole_region(shape: Sequence[int]) -> ShardRegion:
    """Return what a rank holds that holds all of a weight."""
    return ShardRegion(
        shape=tuple(shape), intervals=tuple((IndexRange(start=0, local=0, length=size),) for size in shape)
    )


Holders = Mapping[str, Mapping[ShardRegion, Sequence[int]]]
"""By the name of each weight: what of it is held, and by which ranks. No two regions of a weight overlap."""


def training_holders(model: ModelConfig, *, layout: Layout) -> Holders:
    """Return who holds what of the weights while the model is trained.

    Regions of a weight have no element in common: what the tp axis copies of it is a region of its own.

    Raises:
        PlanError: If the layout doesn't fit the model.
    """
    found: dict[str, dict[ShardRegion, list[int]]] = {}
    regions: dict[tuple[object, ...], dict[ShardRegion, list[int]]] = {}  # layers are alike: each kind of weight once
    num_places = layout.gpus // layout.pp
    for stage in range(layout.pp):
        for part in stage_parts(model, layout=layout, pp_rank=stage):
            weight = part.weight
            key = (weight.shape, weight.split, weight.is_expert)
            if key not in regions:
                regions[key] = {}
                for place in range(num_places):
                    for region in _regions(weight, layout=layout, place=place):
                        regions[key].setdefault(region, []).append(place)
            of_weight = found.setdefault(weight.name, {})
            for region, places in regions[key].items():
                of_weight.setdefault(region, []).extend(stage * num_places + place for place in places)
    return found


def generation_holders(model: ModelConfig, *, layout: Layout) -> Holders:
    """Return who holds what of the weights to generate with; ranks are those of the run.

    Raises:
        PlanError: If the layout doesn't fit the model.
    """
    generation = layout.generation or GenerationLayout(gpus=layout.gpus)
    replica = generation.replica
    model = replace(model, mtp_num_layers=0)  # what predicts further ahead is not generated with
    first = 0 if generation.is_colocated else layout.gpus
    starts = range(first, first + generation.gpus, replica.gpus)
    return {
        name: {region: [start + rank for start in starts for rank in ranks] for region, ranks in regions.items()}
        for name, regions in training_holders(model, layout=replica).items()
    }


def held_by(rank: int, *, holders: Holders) -> dict[str, ShardRegion]:
    """Return what one rank holds of each weight it has."""
    held: dict[str, ShardRegion] = {}
    for name, regions in holders.items():
        for region, ranks in regions.items():
            if rank in ranks:
                held[name] = held[name].joined(region) if name in held else region
    return held


def _regions(weight: Weight, *, layout: Layout, place: int) -> list[ShardRegion]:
    """Return what the rank at a place of a pipeline stage holds; native/mesh.py says how ranks are ordered."""
    region = whole_region(weight.shape)
    degree, inner, num_shards = layout.tp, layout.tp, num_dense_shards(layout)
    if weight.is_expert:
        degree, inner, num_shards = layout.etp, layout.etp * layout.ep, num_expert_shards(layout)
        region = region.split(ShardSpec(dim=0), degree=layout.ep, place=place // layout.etp % layout.ep)
    if weight.split is not None:
        region = region.split(weight.split, degree=degree, place=place % degree)
    dim = sharded_dim(region.shape, num_shards=num_shards, is_expert=weight.is_expert)
    region = region.shard(dim, degree=num_shards, place=place // inner % num_shards)
    cuts = () if weight.split is None else weight.split.cuts(weight.shape, degree=degree)
    if weight.split is None or all(cut.num_copies == 1 for cut in cuts):
        return [region]
    return region.by_copies(cuts, dim=weight.split.dim)
