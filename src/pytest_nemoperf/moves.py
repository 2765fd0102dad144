"""What a refit moves: elements of weights, from the ranks that train to the ranks that generate.

Every rank makes the same list from the plan, so that nothing about it is ever sent.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from pytest_nemoperf.architecture import ModelConfig
from pytest_nemoperf.parallelism import Layout
from pytest_nemoperf.regions import IndexRange, ShardRegion, generation_holders, training_holders


@dataclass(frozen=True, slots=True, kw_only=True)
class RefitTransfer:
    """Elements of one weight that one rank has and another needs, or the same rank.

    Attributes:
        weight: Its name.
        source: Rank that has them.
        target: Rank that needs them.
        source_slices: Where they are in the source's tensor.
        target_slices: Where they go in the target's.
        numel: Elements.
    """

    weight: str
    source: int
    target: int
    source_slices: tuple[slice, ...]
    target_slices: tuple[slice, ...]
    numel: int


def refit_moves(model: ModelConfig, *, layout: Layout) -> list[RefitTransfer]:
    """Return how each element gets to each rank that generates, once.

    A rank that has it already copies it. Of others that have it the one sends that has sent least so far; what few have
    is dealt out first.

    Args:
        model: Of the plan.
        layout: Says where it is trained and where it generates.

    Raises:
        PlanError: If one of the two layouts doesn't fit the model.
    """
    sources = training_holders(model, layout=layout)
    overlaps = _Overlaps()
    needs = [
        (name, blocks, target, holders)
        for name, regions in generation_holders(model, layout=layout).items()
        for target_region, targets in regions.items()
        for source_region, holders in sources[name].items()
        if (blocks := overlaps.find(source_region, target_region))
        for target in targets
    ]
    sent = [0] * layout.total_gpus
    moves = []
    for name, blocks, target, holders in sorted(needs, key=lambda need: len(need[-1])):
        source = target if target in holders else min(holders, key=sent.__getitem__)
        for own, other, numel in blocks:
            move = RefitTransfer(
                weight=name, source=source, target=target, source_slices=own, target_slices=other, numel=numel
            )
            moves.append(move)
            sent[source] += numel if source != target else 0
    return moves


def in_buckets(moves: Sequence[RefitTransfer], *, rank: int, most: int) -> list[list[RefitTransfer]]:
    """Deal the moves of one rank out to buckets, which all ranks exchange one after the other.

    All pairs of ranks get on equally fast: what one sends to another is cut into as many equal shares as there are
    buckets. In the order of the weights one stage of a pipeline would send all it has before the next one began.

    Args:
        moves: Of all ranks, between different ones.
        rank: Whose moves are returned; the number of buckets is the same for all.
        most: Elements a rank sends and receives in one bucket. Where that leaves less than an element a bucket for
            another rank, it can be an element more for each such rank.
    """
    loads: Counter[int] = Counter()
    totals: Counter[tuple[int, int]] = Counter()
    for move in moves:
        for end in (move.source, move.target):
            loads[end] += move.numel
        totals[move.source, move.target] += move.numel
    heaviest = max(loads.values(), default=0)
    # A piece may begin in one share and end in the next, so a bucket has room for two shares.
    num_buckets = 1 if heaviest <= most else math.ceil(2 * heaviest / most)
    buckets: list[list[RefitTransfer]] = [[] for _ in range(num_buckets if moves else 0)]
    done: Counter[tuple[int, int]] = Counter()
    for move in moves:
        pair = (move.source, move.target)
        if rank in pair:
            for piece in _pieces(move, most=max(1, totals[pair] // num_buckets)):
                buckets[done[pair] * num_buckets // totals[pair]].append(piece)
                done[pair] += piece.numel
    return buckets


class _Overlaps:
    """Finds what two regions have in common, each pair once."""

    def __init__(self) -> None:
        self._known: dict[tuple[ShardRegion, ShardRegion], list[tuple[tuple[slice, ...], tuple[slice, ...], int]]] = {}

    def find(self, source: ShardRegion, target: ShardRegion) -> list[tuple[tuple[slice, ...], tuple[slice, ...], int]]:
        """Return the blocks both have: where in the one, where in the other, and how many elements."""
        if (source, target) not in self._known:
            by_dim = [_common(*along) for along in zip(source.intervals, target.intervals, strict=True)]
            self._known[source, target] = [
                (
                    tuple(slice(own, own + length) for own, _, length in block),
                    tuple(slice(other, other + length) for _, other, length in block),
                    math.prod(length for _, _, length in block),
                )
                for block in product(*by_dim)
            ]
        return self._known[source, target]


def _common(source: Sequence[IndexRange], target: Sequence[IndexRange]) -> list[tuple[int, int, int]]:
    """Return start in the source's tensor, start in the target's, and length of what both have of a dimension."""
    common = []
    for own, other in product(source, target):
        start = max(own.start, other.start)
        length = min(own.start + own.length, other.start + other.length) - start
        if length > 0:
            common.append((own.local + start - own.start, other.local + start - other.start, length))
    return common


def _pieces(move: RefitTransfer, *, most: int) -> Iterator[RefitTransfer]:
    """Yield a move, halved along its longest dimension until no piece has more elements than that."""
    if move.numel <= most:
        yield move
        return
    lengths = [along.stop - along.start for along in move.source_slices]
    dim = lengths.index(max(lengths))
    for first, end in ((0, lengths[dim] // 2), (lengths[dim] // 2, lengths[dim])):
        piece = replace(
            move,
            source_slices=_narrowed(move.source_slices, dim, first, end),
            target_slices=_narrowed(move.target_slices, dim, first, end),
            numel=move.numel // lengths[dim] * (end - first),
        )
        yield from _pieces(piece, most=most)


def _narrowed(slices: tuple[slice, ...], dim: int, first: int, end: int) -> tuple[slice, ...]:
    start = slices[dim].start
    return (*slices[:dim], slice(start + first, start + end), *slices[dim + 1 :])
