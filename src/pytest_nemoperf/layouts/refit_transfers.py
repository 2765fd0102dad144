"""Refit transfers: elements of weights to send from training ranks to generating ranks.

Every rank makes the same list from the plan, so that the list is never sent.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.layouts.weight_regions import IndexRange, ShardRegion, generation_holders, training_holders
from pytest_nemoperf.models.architecture import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RefitTransfer:
    """Block of one weight to send from one rank to another, or to copy on one rank.

    Attributes:
        weight: Name of the weight.
        source: Rank that holds the block.
        target: Rank that needs the block.
        source_slices: Slices of the source's tensor.
        target_slices: Slices of the target's tensor.
        numel: Number of elements.
    """

    weight: str
    source: int
    target: int
    source_slices: tuple[slice, ...]
    target_slices: tuple[slice, ...]
    numel: int


def refit_transfers(model: ModelConfig, *, layout: Layout) -> list[RefitTransfer]:
    """Return the transfers that bring each element to each generating rank once.

    A rank that already holds an element copies it. Otherwise the holder that sends the fewest elements so far sends it;
    regions with few holders are assigned first.

    Args:
        model: Architecture.
        layout: Layout of training and generation.

    Raises:
        PlanError: If one of the two layouts doesn't fit the model.
    """
    sources = training_holders(model, layout=layout)
    overlaps: dict[tuple[ShardRegion, ShardRegion], list[_Block]] = {}
    needs: list[tuple[str, list[_Block], int, Sequence[int]]] = []
    for name, regions in generation_holders(model, layout=layout).items():
        for target_region, targets in regions.items():
            for source_region, holders in sources[name].items():
                pair = (source_region, target_region)
                if pair not in overlaps:  # equal layers have equal regions: compute each pair once
                    overlaps[pair] = _overlap(source_region, target_region)
                if overlaps[pair]:
                    for target in targets:
                        needs.append((name, overlaps[pair], target, holders))
    needs.sort(key=lambda need: len(need[-1]))
    sent = [0] * layout.total_gpus
    transfers = []
    for name, blocks, target, holders in needs:
        source = target
        if target not in holders:
            source = min(holders, key=sent.__getitem__)
        for source_slices, target_slices, numel in blocks:
            transfer = RefitTransfer(
                weight=name,
                source=source,
                target=target,
                source_slices=source_slices,
                target_slices=target_slices,
                numel=numel,
            )
            transfers.append(transfer)
            if source != target:
                sent[source] += numel
    return transfers


def split_into_buckets(transfers: Sequence[RefitTransfer], *, rank: int, max_numel: int) -> list[list[RefitTransfer]]:
    """Split the transfers of one rank into buckets, which all ranks exchange one after the other.

    The elements one rank sends to another are spread evenly over all buckets, so that all pairs of ranks communicate
    all the time. In the order of the weights one pipeline stage would send all it has before the next one began.

    Args:
        transfers: Transfers of all ranks, between different ranks.
        rank: Rank to return the transfers of; the number of buckets is the same for all ranks.
        max_numel: Most elements a rank sends and receives in one bucket. If that leaves less than an element a bucket
            for another rank, it can be an element more for each such rank.
    """
    if not transfers:
        return []
    loads: Counter[int] = Counter()
    totals: Counter[tuple[int, int]] = Counter()
    for transfer in transfers:
        loads[transfer.source] += transfer.numel
        loads[transfer.target] += transfer.numel
        totals[transfer.source, transfer.target] += transfer.numel
    heaviest = max(loads.values())
    num_buckets = 1
    if heaviest > max_numel:
        # A piece may begin in one bucket's part and end in the next one's, so a bucket must hold two parts.
        num_buckets = math.ceil(2 * heaviest / max_numel)
    buckets: list[list[RefitTransfer]] = [[] for _ in range(num_buckets)]
    done: Counter[tuple[int, int]] = Counter()
    for transfer in transfers:
        pair = (transfer.source, transfer.target)
        if rank in pair:
            for piece in _pieces(transfer, max_numel=max(1, totals[pair] // num_buckets)):
                buckets[done[pair] * num_buckets // totals[pair]].append(piece)
                done[pair] += piece.numel
    return buckets


_Block = tuple[tuple[slice, ...], tuple[slice, ...], int]
"""Slices of the source's tensor, slices of the target's tensor, and number of elements."""


def _overlap(source: ShardRegion, target: ShardRegion) -> list[_Block]:
    """Return the blocks of elements that are in both regions."""
    by_dim = []
    for source_ranges, target_ranges in zip(source.intervals, target.intervals, strict=True):
        by_dim.append(_common(source_ranges, target_ranges))
    blocks = []
    for ranges in product(*by_dim):
        source_slices: list[slice] = []
        target_slices: list[slice] = []
        numel = 1
        for own, other, length in ranges:
            source_slices.append(slice(own, own + length))
            target_slices.append(slice(other, other + length))
            numel *= length
        blocks.append((tuple(source_slices), tuple(target_slices), numel))
    return blocks


def _common(source: Sequence[IndexRange], target: Sequence[IndexRange]) -> list[tuple[int, int, int]]:
    """Return the common ranges of one dimension: start in the source's tensor, start in the target's, and length."""
    common = []
    for own, other in product(source, target):
        start = max(own.start, other.start)
        length = min(own.start + own.length, other.start + other.length) - start
        if length > 0:
            common.append((own.local + start - own.start, other.local + start - other.start, length))
    return common


def _pieces(transfer: RefitTransfer, *, max_numel: int) -> Iterator[RefitTransfer]:
    """Yield a transfer, halved along its longest dimension until no piece has more than ``max_numel`` elements."""
    if transfer.numel <= max_numel:
        yield transfer
        return
    lengths = [along.stop - along.start for along in transfer.source_slices]
    dim = lengths.index(max(lengths))
    middle = lengths[dim] // 2
    for first, end in ((0, middle), (middle, lengths[dim])):
        piece = replace(
            transfer,
            source_slices=_narrowed(transfer.source_slices, dim, first, end),
            target_slices=_narrowed(transfer.target_slices, dim, first, end),
            numel=transfer.numel // lengths[dim] * (end - first),
        )
        yield from _pieces(piece, max_numel=max_numel)


def _narrowed(slices: tuple[slice, ...], dim: int, first: int, end: int) -> tuple[slice, ...]:
    start = slices[dim].start
    return (*slices[:dim], slice(start + first, start + end), *slices[dim + 1 :])
