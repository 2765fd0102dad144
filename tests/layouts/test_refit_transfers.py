from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.layouts.refit_transfers import RefitTransfer, refit_transfers, split_into_buckets
from pytest_nemoperf.layouts.weight_regions import (
    IndexRange,
    ShardRegion,
    generation_holders,
    regions_of_rank,
    training_holders,
)
from pytest_nemoperf.models.architecture import ModelConfig
from tests.layouts.test_weight_regions import DENSE, MODELS, layouts

Block = tuple[range, ...]
NUM_EXAMPLES = settings().max_examples // 5  # each compares all ranks with all others


def whole_places(region: ShardRegion, slices: tuple[slice, ...]) -> Block:
    """Return the indices in the whole weight of a block of a rank's tensor; no block spans two intervals."""
    block = []
    for along, at in zip(region.intervals, slices, strict=True):
        containing = [interval for interval in along if contains(interval, at)]
        (interval,) = containing
        start = interval.start + at.start - interval.local
        block.append(range(start, start + at.stop - at.start))
    return tuple(block)


def contains(interval: IndexRange, at: slice) -> bool:
    return bool(interval.local <= at.start and at.stop <= interval.local + interval.length)


def holds(region: ShardRegion, slices: tuple[slice, ...]) -> bool:
    return all(
        any(contains(interval, at) for interval in along) for along, at in zip(region.intervals, slices, strict=True)
    )


def have_common_elements(one: Block, other: Block) -> bool:
    return all(max(a.start, b.start) < min(a.stop, b.stop) for a, b in zip(one, other, strict=True))


def messages_of(moves: list[RefitTransfer]) -> list[RefitTransfer]:
    return [move for move in moves if move.source != move.target]


def fused_move(*, numel: int = 24) -> RefitTransfer:
    slices = (slice(2, 4), slice(0, numel // 2))
    return RefitTransfer(weight="w", source=0, target=1, source_slices=slices, target_slices=slices, numel=numel)


@settings(max_examples=NUM_EXAMPLES)
@given(model=st.sampled_from(list(MODELS.values())), layout=layouts())
def test_each_rank_gets_each_element_once_from_one_that_has_it(model: ModelConfig, layout: Layout) -> None:
    moves = refit_transfers(model, layout=layout)

    trained, generates = training_holders(model, layout=layout), generation_holders(model, layout=layout)
    sources = {rank: regions_of_rank(rank, holders=trained) for rank in {move.source for move in moves}}
    targets = {rank: regions_of_rank(rank, holders=generates) for rank in range(layout.total_gpus)}
    got: dict[tuple[int, str], list[Block]] = defaultdict(list)
    for move in moves:
        block = whole_places(targets[move.target][move.weight], move.target_slices)
        assert whole_places(sources[move.source][move.weight], move.source_slices) == block
        got[move.target, move.weight].append(block)
    assert not any(have_common_elements(*pair) for blocks in got.values() for pair in combinations(blocks, 2))
    numels: Counter[tuple[int, str]] = Counter()
    for move in moves:
        numels[move.target, move.weight] += move.numel
    needed = {(rank, name): region.numel for rank, held in targets.items() for name, region in held.items()}
    assert dict(numels) == {key: numel for key, numel in needed.items() if numel}


@settings(max_examples=NUM_EXAMPLES)
@given(model=st.sampled_from(list(MODELS.values())), layout=layouts())
def test_ranks_that_hold_the_same_share_the_sending(model: ModelConfig, layout: Layout) -> None:
    trained = training_holders(model, layout=layout)

    messages = messages_of(refit_transfers(model, layout=layout))

    sent: Counter[int] = Counter()
    fair: dict[int, float] = defaultdict(float)
    of_pair: Counter[tuple[str, int, int]] = Counter()
    for move in messages:
        sent[move.source] += move.numel
        of_pair[move.weight, move.source, move.target] += move.numel
        regions = trained[move.weight]
        sending = [region for region in regions if move.source in regions[region] and holds(region, move.source_slices)]
        (region,) = sending
        holders = regions[region]
        assert move.target not in holders
        for rank in holders:
            fair[rank] += move.numel / len(holders)
    # The elements of a weight that one rank sends to another are never split over senders.
    assert max(sent.values(), default=0) <= max(fair.values(), default=0) + max(of_pair.values(), default=0)


def test_equal_layouts_on_the_same_ranks_send_nothing() -> None:
    layout = Layout(gpus=4, tp=2, pp=2, generation=GenerationLayout(gpus=4, tp=2, pp=2))

    moves = refit_transfers(DENSE, layout=layout)

    assert not messages_of(moves)
    assert {move.target for move in moves} == {0, 1, 2, 3}


def test_copies_of_a_model_send_in_turn() -> None:
    layout = Layout(gpus=4, dp_replicate=4, generation=GenerationLayout(gpus=1, is_colocated=False))

    sent: Counter[int] = Counter()
    for move in refit_transfers(replace(DENSE, num_layers=40), layout=layout):
        sent[move.source] += move.numel

    assert max(sent.values()) < 1.1 * min(sent.values())


@settings(max_examples=NUM_EXAMPLES)
@given(model=st.sampled_from(list(MODELS.values())), layout=layouts(), most=st.sampled_from([1, 7, 50, 1000, 10**6]))
def test_buckets_hold_each_element_once_and_not_too_many(model: ModelConfig, layout: Layout, most: int) -> None:
    messages = messages_of(refit_transfers(model, layout=layout))[:60]
    ranks = {rank for move in messages for rank in (move.source, move.target)}

    of_rank = {rank: split_into_buckets(messages, rank=rank, max_numel=most) for rank in ranks}

    assert len({len(buckets) for buckets in of_rank.values()}) <= 1
    for rank, buckets in of_rank.items():
        mine = [move for move in messages if rank in (move.source, move.target)]
        peers = {(move.source, move.target) for move in mine}
        assert max(sum(move.numel for move in bucket) for bucket in buckets) <= most + len(peers)
        assert elements([move for bucket in buckets for move in bucket]) == elements(mine)


def elements(moves: list[RefitTransfer]) -> Counter[tuple[str, int, int]]:
    """Count the elements sent, by weight and ranks."""
    counts: Counter[tuple[str, int, int]] = Counter()
    for move in moves:
        counts[move.weight, move.source, move.target] += move.numel
    return counts


@settings(max_examples=NUM_EXAMPLES)
@given(model=st.sampled_from(list(MODELS.values())), layout=layouts(), most=st.sampled_from([7, 50, 1000]))
def test_sender_and_receiver_agree_on_every_bucket(model: ModelConfig, layout: Layout, most: int) -> None:
    messages = messages_of(refit_transfers(model, layout=layout))[:60]
    ranks = {rank for move in messages for rank in (move.source, move.target)}

    of_rank = {rank: split_into_buckets(messages, rank=rank, max_numel=most) for rank in ranks}

    for source, target in {(move.source, move.target) for move in messages}:
        for sent, received in zip(of_rank[source], of_rank[target], strict=True):
            here = [move for move in sent if (move.source, move.target) == (source, target)]
            assert here == [move for move in received if (move.source, move.target) == (source, target)]


@pytest.mark.parametrize("most", [1, 5, 23])
def test_pieces_of_a_move_cover_it(most: int) -> None:
    pieces = [piece for bucket in split_into_buckets([fused_move()], rank=1, max_numel=most) for piece in bucket]

    places = Counter(
        (row, column)
        for piece in pieces
        for row in range(piece.source_slices[0].start, piece.source_slices[0].stop)
        for column in range(piece.source_slices[1].start, piece.source_slices[1].stop)
    )
    assert places == Counter({(row, column): 1 for row in (2, 3) for column in range(12)})
    assert all(piece.source_slices == piece.target_slices for piece in pieces)


def test_a_move_that_fits_is_one_piece() -> None:
    move = fused_move()

    assert split_into_buckets([move], rank=0, max_numel=24) == [[move]]
    assert split_into_buckets([move], rank=2, max_numel=24) == [[]]


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(Layout(gpus=2, pp=2, generation=GenerationLayout(gpus=2, is_colocated=False)), id="pp2-gdp2"),
        pytest.param(Layout(gpus=4, pp=2, dp_shard=2, generation=GenerationLayout(gpus=4, tp=2)), id="fsdp2pp2-gtp2"),
        pytest.param(Layout(gpus=4, tp=4, generation=GenerationLayout(gpus=4, pp=4)), id="tp4-gpp4"),
    ],
)
def test_all_ranks_are_busy_in_every_bucket(layout: Layout) -> None:
    messages = messages_of(refit_transfers(replace(DENSE, num_layers=40), layout=layout))

    of_rank = [split_into_buckets(messages, rank=rank, max_numel=10000) for rank in range(layout.total_gpus)]

    for buckets in of_rank:
        loads = [sum(move.numel for move in bucket) for bucket in buckets]
        assert len(loads) > 4
        assert max(loads) < 1.5 * min(loads)
