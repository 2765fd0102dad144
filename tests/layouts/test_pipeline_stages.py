"""Distribution of layers over pipeline stages, and micro-batches that don't fit a schedule."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.layouts.pipeline_stages import chunk_problems, schedule_problems, stage_layers
from pytest_nemoperf.models.architecture import ModelConfig

MODEL = ModelConfig(
    name="mine",
    hidden_size=64,
    num_layers=8,
    num_heads=8,
    num_kv_heads=2,
    head_dim=8,
    ffn_hidden_size=192,
    vocab_size=1000,
)


def sizes(num_layers: int, *, pp: int, vp: int = 1, mtp: int = 0) -> list[int]:
    """Return the number of layers of each piece in the order of the model."""
    model = replace(MODEL, num_layers=num_layers, mtp_num_layers=mtp)
    ranks = stage_layers(model, pp=pp, vp=vp)
    return [len(ranks[rank][chunk]) for chunk in range(vp) for rank in range(pp)]


def test_chunks_go_round_the_ranks() -> None:
    assert stage_layers(MODEL, pp=2, vp=2) == ((range(2), range(4, 6)), (range(2, 4), range(6, 8)))


@pytest.mark.parametrize(
    ("num_layers", "pp", "vp", "mtp", "expected"),
    [
        pytest.param(32, 4, 1, 0, [8] * 4, id="evenly divisible"),
        pytest.param(61, 16, 1, 1, [3, *[4] * 14, 2], id="deepseek-v3"),
        pytest.param(126, 8, 8, 0, [1, *[2] * 62, 1], id="llama3.1-405b"),
        pytest.param(5, 2, 2, 0, [1, 1, 2, 1], id="one layer more than chunks"),
        pytest.param(9, 2, 1, 0, [4, 5], id="the later of equal loads"),
        pytest.param(9, 2, 1, 1, [5, 4], id="multi-token prediction is a load"),
        pytest.param(5, 4, 1, 3, [1, 1, 2, 1], id="a load over the mean keeps one layer"),
    ],
)
def test_embedding_head_and_mtp_count_as_layers(
    num_layers: int, pp: int, vp: int, mtp: int, expected: list[int]
) -> None:
    assert sizes(num_layers, pp=pp, vp=vp, mtp=mtp) == expected


@given(pp=st.integers(1, 16), vp=st.integers(1, 8), extra=st.integers(0, 200), mtp=st.integers(0, 3))
def test_every_layer_is_in_one_chunk_and_no_chunk_is_empty(pp: int, vp: int, extra: int, mtp: int) -> None:
    model = replace(MODEL, num_layers=pp * vp + extra, mtp_num_layers=mtp)

    ranks = stage_layers(model, pp=pp, vp=vp)

    in_order = [ranks[rank][chunk] for chunk in range(vp) for rank in range(pp)]
    assert list(chain.from_iterable(in_order)) == list(range(model.num_layers))
    assert min(map(len, in_order)) >= 1


@given(num_pieces=st.integers(2, 64), extra=st.integers(0, 200))
def test_loads_differ_by_one_layer_at_most_unless_a_chunk_has_one_layer_alone(num_pieces: int, extra: int) -> None:
    counts = sizes(num_pieces + extra, pp=num_pieces)

    loads = [counts[0] + 1, *counts[1:-1], counts[-1] + 1]
    is_even = (num_pieces + extra) % num_pieces == 0
    assert max(loads) - min(loads) <= 1 or is_even


def test_more_chunks_than_layers_are_refused() -> None:
    with pytest.raises(PlanError, match=r"pp\*vp \(4\*3=12\) model chunks are more than num_layers=8; lower pp or vp"):
        stage_layers(MODEL, pp=4, vp=3)
    (reason,) = chunk_problems(MODEL, pp=3, vp=3)
    assert reason == "pp*vp (3*3=9) model chunks are more than num_layers=8; lower pp or vp"


def test_embedding_and_head_may_take_the_place_of_a_layer_each() -> None:
    ranks = stage_layers(MODEL, pp=5, vp=2)

    assert [len(chunk) for rank in ranks for chunk in rank] == [0, 1, 1, 1, 1, 1, 1, 1, 1, 0]
    assert [len(chunk) for (chunk,) in stage_layers(MODEL, pp=9, vp=1)] == [1] * 8 + [0]


@pytest.mark.parametrize(
    ("layout", "num_micro_batches", "message"),
    [
        pytest.param(Layout(gpus=4, pp=4), 3, "= 3 micro-batches a step are fewer than pp=4 stages", id="1f1b"),
        pytest.param(Layout(gpus=4, pp=4, vp=2), 3, "= 3 micro-batches a step are fewer than pp=4", id="interleaved"),
        pytest.param(
            Layout(gpus=2, pp=2, vp=2),
            5,
            "= 5 micro-batches a step don't make equal rounds of at least pp=2 (5 in 2 rounds = 2.5)",
            id="interleaved rounds",
        ),
        pytest.param(
            Layout(gpus=2, pp=2, pp_schedule="zero_bubble"), 5, "(5 in 2 rounds = 2.5)", id="zero-bubble rounds"
        ),
    ],
)
def test_micro_batches_must_fit_the_schedule(layout: Layout, num_micro_batches: int, message: str) -> None:
    (problem,) = schedule_problems(layout, num_micro_batches=num_micro_batches, is_compiled=False)

    assert message in problem


@pytest.mark.parametrize(
    ("layout", "num_micro_batches"),
    [
        pytest.param(Layout(gpus=1), 1, id="no pipeline"),
        pytest.param(Layout(gpus=2, pp=2), 5, id="1f1b takes any number"),
        pytest.param(Layout(gpus=4, pp=4, vp=2), 10, id="two rounds of five"),
        pytest.param(Layout(gpus=4, pp=4, pp_schedule="zero_bubble"), 7, id="one round of seven"),
    ],
)
def test_what_fits_has_no_problem(layout: Layout, num_micro_batches: int) -> None:
    is_compiled = layout.pp == 1

    assert list(schedule_problems(layout, num_micro_batches=num_micro_batches, is_compiled=is_compiled)) == []


def test_a_zero_bubble_schedule_needs_blocks_that_are_not_compiled() -> None:
    layout = Layout(gpus=2, pp=2, pp_schedule="zero_bubble")

    (problem,) = schedule_problems(layout, num_micro_batches=4, is_compiled=True)

    assert problem.startswith("pp_schedule=zero_bubble runs the two halves of a backward pass apart")
