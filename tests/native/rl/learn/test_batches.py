"""Samples become rows: dealt evenly, packed tightly, every token once."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import ProcessGroup
from torch.nn import functional

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.native.model.rope import position_tables
from pytest_nemoperf.native.parallel.mesh import RankMesh
from pytest_nemoperf.native.rl.learn.batches import Batches, PackedIndex, PackedSequence, _deal, micro_batches, pack
from tests.native.learning import PROMPT_LENS, RESPONSE_LENS, make_samples
from tests.native.rl_plans import learning_plan
from tests.native.tiny import CPU

LENS = [prompt + response for prompt, response in zip(PROMPT_LENS, RESPONSE_LENS, strict=True)]
MANY_LENS = st.dictionaries(st.integers(0, 100), st.integers(1, 50), min_size=1, max_size=40)


def cuts_of(
    layout: Layout, *, numbers: range = range(8), is_training: bool = True, **changes: Any
) -> list[list[PackedIndex]]:
    """Return the cuts of each data-parallel rank of a layout without other axes, by default of single rows."""
    plan = learning_plan(Layout(gpus=1), **{"micro_batch_size": 1, **changes})
    plan = replace(plan, layout=layout)  # also of ranks that don't divide the batch
    tables = position_tables(plan.model, index_S=torch.arange(plan.seq_len), dtype=torch.float32, device=CPU)
    samples = make_samples(vocab_size=plan.model.vocab_size)
    return [
        Batches(plan, mesh=RankMesh(), dp_rank=dp_rank, tables=tables, device=CPU).cut(
            samples, numbers=numbers, is_training=is_training
        )
        for dp_rank in range(layout.dp)
    ]


@given(lens=MANY_LENS, num_ranks=st.integers(1, 8))
def test_every_sample_is_dealt_once_and_shares_differ_by_one(lens: dict[int, int], num_ranks: int) -> None:
    shares = _deal(lens, num_ranks=num_ranks)

    assert sorted(number for share in shares for number in share) == sorted(lens)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(lens=MANY_LENS, num_ranks=st.integers(1, 8))
def test_shares_of_whole_rounds_differ_by_less_than_the_longest_sample(lens: dict[int, int], num_ranks: int) -> None:
    whole = dict(sorted(lens.items())[: len(lens) // num_ranks * num_ranks])

    sums = [sum(whole[number] for number in share) for share in _deal(whole, num_ranks=num_ranks)]

    assert max(sums) - min(sums) <= max(whole.values(), default=0)


def test_the_longest_are_dealt_first_to_and_fro() -> None:
    assert _deal({0: 5, 1: 9, 2: 7, 3: 1}, num_ranks=2) == [[1, 3], [2, 0]]


@given(lens=st.lists(st.integers(1, 32), max_size=40))
def test_packing_keeps_every_segment_in_rows_that_hold_it(lens: list[int]) -> None:
    segments = [
        PackedSequence(sample=number, num_tokens=length, padded_len=length) for number, length in enumerate(lens)
    ]

    rows = pack(segments, row_len=32)

    assert sorted((segment.sample for row in rows for segment in row), key=str) == sorted(range(len(lens)), key=str)
    assert all(sum(segment.padded_len for segment in row) <= 32 for row in rows)


@given(lens=st.lists(st.integers(1, 32), min_size=2, max_size=40))
def test_no_two_packed_rows_would_fit_into_one(lens: list[int]) -> None:
    segments = [
        PackedSequence(sample=number, num_tokens=length, padded_len=length) for number, length in enumerate(lens)
    ]

    first, *others = sorted(sum(each.padded_len for each in row) for row in pack(segments, row_len=32))

    assert not others or first + others[0] > 32


@pytest.mark.parametrize("dp", [1, 2, 3])
@pytest.mark.parametrize("is_packed", ["", "packed"])
def test_each_token_but_the_first_is_predicted_at_one_place_of_one_rank(dp: int, is_packed: str) -> None:
    ranks = cuts_of(Layout(gpus=dp, dp_shard=dp), is_packed=bool(is_packed))
    width = max(LENS)
    nowhere = len(LENS) * width

    targets = torch.cat([cut.target_BL.flatten() for cuts in ranks for cut in cuts])

    expected = [sample * width + place for sample, length in enumerate(LENS) for place in range(1, length)]
    assert sorted(targets[targets != nowhere].tolist()) == expected


@pytest.mark.parametrize("is_packed", ["", "packed"])
def test_a_place_sees_the_token_before_the_one_it_predicts(is_packed: str) -> None:
    (cuts,) = cuts_of(Layout(gpus=1), is_packed=bool(is_packed))
    nowhere = len(LENS) * max(LENS)

    for cut in cuts:
        is_used = cut.target_BL != nowhere
        assert torch.equal(cut.source_BL[is_used] + 1, cut.target_BL[is_used])


def test_padded_rows_are_as_long_as_the_longest_of_their_micro_batch() -> None:
    (cuts,) = cuts_of(Layout(gpus=1), micro_batch_size=4, global_batch_size=8)

    by_length = sorted(LENS, reverse=True)
    assert [tuple(cut.source_BL.shape) for cut in cuts] == [(4, by_length[0]), (4, by_length[4])]


def test_tables_of_padded_rows_are_views() -> None:
    (cuts,) = cuts_of(Layout(gpus=1), micro_batch_size=4, global_batch_size=8)

    tables = [cut.tables["global"].index_S for cut in cuts]

    assert len({len(index) for index in tables}) == 2
    assert len({index.untyped_storage().data_ptr() for index in tables}) == 1


def test_tables_of_pieces_are_kept_for_the_latest_lengths_alone() -> None:
    plan = learning_plan(Layout(gpus=1), micro_batch_size=1)
    tables = position_tables(plan.model, index_S=torch.arange(plan.seq_len), dtype=torch.float32, device=CPU)
    group = mock.Mock(spec=ProcessGroup)
    group.size.return_value, group.rank.return_value = 2, 1
    pieces = Batches(plan, mesh=RankMesh(cp=group), dp_rank=0, tables=tables, device=CPU)
    samples = make_samples(vocab_size=plan.model.vocab_size)
    left = []

    for length in (4, 8, 12, 16, 20, 24, 28, 10, 14, 18, 22, 26):
        shortened = replace(samples, lens_N=torch.full_like(samples.lens_N, length))
        (cut,) = pieces.cut(shortened, numbers=[0], is_training=False)
        left.append(weakref.ref(cut.tables["global"].index_S))
        del cut

    assert sum(index() is not None for index in left) == 8


def test_the_samples_are_padded_once_for_all_micro_batches() -> None:
    (cuts,) = cuts_of(Layout(gpus=1))
    samples = make_samples(vocab_size=64)
    terms = torch.randn(*samples.tokens_NS.shape, 3)

    with mock.patch.object(functional, "pad", wraps=functional.pad) as pad:
        made = micro_batches(cuts, samples=samples, terms_NSK=terms)

    assert len(made) == len(LENS)
    assert pad.call_count == 2  # tokens, terms
    longest, *_ = made
    assert torch.equal(longest.tokens_BS[0], samples.tokens_NS[0, : LENS[0]])
    assert longest.terms_BSK is not None
    assert torch.equal(longest.terms_BSK[0], torch.cat([terms[0, 1 : LENS[0]], torch.zeros(1, 3)]))


def test_packed_rows_are_full_or_the_last() -> None:
    (cuts,) = cuts_of(Layout(gpus=1), is_packed=True)

    assert len(cuts) == -(-sum(LENS) // 32)
    assert all(cut.source_BL.shape[0] == 1 for cut in cuts)


def test_positions_of_a_packed_row_begin_anew_with_each_sample() -> None:
    (cuts,) = cuts_of(Layout(gpus=1), is_packed=True)
    lens = cuts[-1].tables["global"].lens

    assert len(lens) > 1
    expected = [place for length in lens for place in range(length)]
    assert cuts[-1].tables["global"].index_S.tolist() == expected


def test_ranks_with_fewer_samples_get_empty_rows() -> None:
    ranks = cuts_of(Layout(gpus=3, dp_shard=3))
    nowhere = len(LENS) * max(LENS)

    assert [len(cuts) for cuts in ranks] == [3, 3, 3]
    assert sum(bool((cut.source_BL == nowhere).all()) for cuts in ranks for cut in cuts) == 1


def test_no_sample_at_all_is_an_empty_row() -> None:
    ((cut,),) = cuts_of(Layout(gpus=1), numbers=range(0))

    assert (cut.target_BL == len(LENS) * max(LENS)).all()


@pytest.mark.parametrize(("is_training", "expected"), [(True, 4), (False, 3)], ids=["training", "not training"])
def test_micro_batches_of_training_fit_the_pipeline(is_training: str, expected: int) -> None:
    layout = Layout(gpus=4, pp=4)

    (cuts,) = cuts_of(layout, numbers=range(3), is_training=bool(is_training))

    assert len(cuts) == expected
