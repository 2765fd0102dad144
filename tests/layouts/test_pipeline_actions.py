"""Pipeline schedules without ranks: what each rank runs, in which order, and how long a pipeline of them takes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.layouts.pipeline_actions import (
    Action,
    Message,
    Pass,
    Slot,
    forward_order,
    needed_message,
    sent_message,
    timetable,
    training_order,
)
from pytest_nemoperf.layouts.pipeline_schedule import bubble_fraction, num_in_flight

SCHEDULES = ("1f1b", "zero_bubble")
# Forward, input gradient and weight gradient equally long, as in the formulas of bubble_fraction.
DURATIONS = {Pass.FORWARD: 1, Pass.BACKWARD: 2, Pass.BACKWARD_INPUT: 1, Pass.BACKWARD_WEIGHT: 1}


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[Layout, int]:
    """Draw a layout and a number of micro-batches that its schedule can run."""
    pp = draw(st.integers(2, 6))
    vp = draw(st.integers(1, 3))
    schedule: Any = draw(st.sampled_from(SCHEDULES))
    num_micro_batches = draw(st.integers(pp, 4 * pp))
    if vp > 1 or schedule == "zero_bubble":
        num_micro_batches -= num_micro_batches % (num_micro_batches // pp)  # equal rounds
    return Layout(gpus=pp, pp=pp, vp=vp, pp_schedule=schedule), num_micro_batches


def makespan(slots: tuple[Slot, ...], *, layout: Layout) -> int:
    """Return the time until the last rank is done, if each waits for a message where it needs it."""
    num_stages = layout.pp * layout.vp
    free = [0] * layout.pp
    sent: dict[Message, int] = {}
    for slot in slots:
        for rank, action in enumerate(slot):
            if action is None:
                continue
            needed = needed_message(action, num_stages=num_stages)
            start = free[rank] if needed is None else max(free[rank], sent[needed])
            free[rank] = start + DURATIONS[action.kind]
            message = sent_message(action, num_stages=num_stages)
            if message is not None:
                sent[message] = free[rank]
    return max(free)


def makespan_in_batches(slots: tuple[Slot, ...], *, layout: Layout) -> int:
    """Return the same under NCCL, where the messages of a rank in a slot start and end as one, after earlier ones.

    They start when the pass before them in the rank's own stream has ended.
    """
    num_stages = layout.pp * layout.vp
    free = [0] * layout.pp
    messages_free = [0] * layout.pp
    arrived: dict[Message | None, int] = {None: 0}
    for slot in slots:
        pairs: dict[Message, tuple[int, int]] = {}
        for rank, action in enumerate(slot):
            if action is None:
                continue
            free[rank] = max(free[rank], arrived[needed_message(action, num_stages=num_stages)])
            free[rank] += DURATIONS[action.kind]
            message = sent_message(action, num_stages=num_stages)
            if message is not None:
                pairs[message] = (rank, message.stage % layout.pp)
        starts = [max(times) for times in zip(free, messages_free, strict=True)]
        for pair in pairs.values():
            for rank in pair:
                messages_free[rank] = max(messages_free[rank], *(starts[other] for other in pair))
        for message, (_, taker) in pairs.items():
            arrived[message] = messages_free[taker]
    return max(free)


def most_in_flight(order: tuple[Action, ...]) -> int:
    """Return the most passes a rank has begun and not ended, in micro-batches of one chunk."""
    in_flight = most = 0
    for action in order:
        if action.kind is Pass.FORWARD:
            in_flight += 1
            most = max(most, in_flight)
        elif action.kind is not Pass.BACKWARD_INPUT:
            in_flight -= 1
    return most


@given(pipelines())
def test_every_micro_batch_passes_every_stage_once_each_way(pipeline: tuple[Layout, int]) -> None:
    layout, num_micro_batches = pipeline
    kinds = [Pass.FORWARD, Pass.BACKWARD]
    if layout.pp_schedule == "zero_bubble":
        kinds = [Pass.FORWARD, Pass.BACKWARD_INPUT, Pass.BACKWARD_WEIGHT]
    for rank in range(layout.pp):
        counts = Counter(training_order(layout, num_micro_batches=num_micro_batches, pp_rank=rank))
        expected: Counter[Action] = Counter()
        for stage in range(rank, layout.pp * layout.vp, layout.pp):
            for kind in kinds:
                expected.update(Action(kind, stage, number) for number in range(num_micro_batches))

        assert counts == expected


@given(pipelines(), st.sampled_from([training_order, forward_order]))
def test_a_timetable_runs_each_rank_in_order_and_no_pass_before_what_it_needs(
    pipeline: tuple[Layout, int], make_order: Any
) -> None:
    layout, num_micro_batches = pipeline
    num_stages = layout.pp * layout.vp

    slots = timetable(layout, num_micro_batches=num_micro_batches, is_training=make_order is training_order)

    for rank in range(layout.pp):
        ran = tuple(slot[rank] for slot in slots if slot[rank] is not None)
        assert ran == make_order(layout, num_micro_batches=num_micro_batches, pp_rank=rank)
    arrived: set[Message | None] = {None}
    for slot in slots:
        actions = [action for action in slot if action is not None]
        assert all(needed_message(action, num_stages=num_stages) in arrived for action in actions)
        arrived.update(sent_message(action, num_stages=num_stages) for action in actions)


@given(pipelines())
def test_a_backward_pass_follows_its_forward_pass_and_its_second_half_the_first(pipeline: tuple[Layout, int]) -> None:
    layout, num_micro_batches = pipeline
    for rank in range(layout.pp):
        order = training_order(layout, num_micro_batches=num_micro_batches, pp_rank=rank)
        places = {action: place for place, action in enumerate(order)}
        for action, place in places.items():
            if action.kind is not Pass.FORWARD:
                assert place > places[Action(Pass.FORWARD, action.stage, action.micro_batch)]
            if action.kind is Pass.BACKWARD_WEIGHT:
                assert place > places[Action(Pass.BACKWARD_INPUT, action.stage, action.micro_batch)]


@given(pipelines())
def test_messages_go_to_neighbours_and_each_is_sent_once(pipeline: tuple[Layout, int]) -> None:
    layout, num_micro_batches = pipeline
    sent = Counter[Message]()
    for slot in timetable(layout, num_micro_batches=num_micro_batches, is_training=True):
        for rank, action in enumerate(slot):
            message = None if action is None else sent_message(action, num_stages=layout.pp * layout.vp)
            if message is not None:
                sent[message] += 1
                assert (message.stage - rank) % layout.pp in {1, layout.pp - 1}

    assert set(sent.values()) == {1}
    assert len(sent) == 2 * num_micro_batches * (layout.pp * layout.vp - 1)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("vp", [1, 2, 3])
@pytest.mark.parametrize(("pp", "num_micro_batches"), [(2, 2), (2, 8), (4, 4), (4, 8), (4, 16), (8, 16)])
def test_a_pipeline_idles_as_long_as_the_formula_says(schedule: Any, vp: int, pp: int, num_micro_batches: int) -> None:
    layout = Layout(gpus=pp, pp=pp, vp=vp, pp_schedule=schedule)

    slots = timetable(layout, num_micro_batches=num_micro_batches, is_training=True)

    idle = 1 - 3 * num_micro_batches * vp / makespan(slots, layout=layout)
    assert idle == pytest.approx(bubble_fraction(layout, num_micro_batches=num_micro_batches))


@given(pipelines())
def test_messages_in_batches_delay_no_schedule_but_the_interleaved_one(pipeline: tuple[Layout, int]) -> None:
    layout, num_micro_batches = pipeline
    slots = timetable(layout, num_micro_batches=num_micro_batches, is_training=True)

    alone = makespan(slots, layout=layout)

    if layout.vp == 1 or layout.pp_schedule == "zero_bubble":
        assert makespan_in_batches(slots, layout=layout) == alone
    else:  # the most of all with 2 to 8 ranks, 2 to 4 chunks and up to 4 micro-batches a rank: 167 / 153
        assert makespan_in_batches(slots, layout=layout) <= 1.1 * alone


@given(pipelines())
def test_ranks_keep_as_many_micro_batches_as_the_formula_says(pipeline: tuple[Layout, int]) -> None:
    layout, num_micro_batches = pipeline
    for rank in range(layout.pp):
        order = training_order(layout, num_micro_batches=num_micro_batches, pp_rank=rank)

        expected = num_in_flight(layout, num_micro_batches=num_micro_batches, pp_rank=rank)
        assert most_in_flight(order) / layout.vp == pytest.approx(expected)


def test_1f1b_alternates_between_the_passes_that_run_ahead_and_those_left_over() -> None:
    order = training_order(Layout(gpus=4, pp=4), num_micro_batches=5, pp_rank=2)

    assert [f"{action.kind.name[0]}{action.micro_batch}" for action in order] == "F0 F1 B0 F2 B1 F3 B2 F4 B3 B4".split()


def test_a_zero_bubble_rank_puts_weights_off_by_its_number() -> None:
    names = {Pass.FORWARD: "F", Pass.BACKWARD_INPUT: "I", Pass.BACKWARD_WEIGHT: "W"}

    order = training_order(Layout(gpus=2, pp=2, pp_schedule="zero_bubble"), num_micro_batches=3, pp_rank=1)

    assert [f"{names[action.kind]}{action.micro_batch}" for action in order] == "F0 I0 F1 I1 W0 F2 I2 W1 W2".split()


def test_without_training_all_micro_batches_pass_one_chunk_after_another() -> None:
    order = forward_order(Layout(gpus=2, pp=2, vp=2), num_micro_batches=2, pp_rank=1)

    assert [(action.stage, action.micro_batch) for action in order] == [(1, 0), (1, 1), (3, 0), (3, 1)]
