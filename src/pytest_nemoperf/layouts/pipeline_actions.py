"""Pipeline schedules as lists of actions: the passes that each rank runs, in their order, and their messages.

Every rank derives the same timetable of all ranks. In each of its slots a rank runs one pass at most, and then
exchanges messages with its neighbours: it sends what its pass made, and takes what theirs made in the same slot. So
both ends of a message know of it, messages between two ranks have one order, and no rank waits in a slot for anything
of a later one.

References:
    Narayanan et al. 2021, https://arxiv.org/abs/2104.04473 (1F1B, interleaved); Qi et al. 2023,
    https://arxiv.org/abs/2401.10241 (zero bubble); the order of passes is that of torch.distributed.pipelining's
    Schedule1F1B, ScheduleInterleaved1F1B, ScheduleInterleavedZeroBubble and ScheduleLoopedBFS
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Literal, NamedTuple

from pytest_nemoperf.layouts.layout import Layout


class Pass(StrEnum):
    """Kinds of passes; a zero-bubble schedule runs a backward pass in two halves."""

    FORWARD = "forward"
    BACKWARD = "backward"
    BACKWARD_INPUT = "backward_input"
    BACKWARD_WEIGHT = "backward_weight"


class Action(NamedTuple):
    """One pass of one micro-batch through one stage.

    Attributes:
        kind: Kind of the pass.
        stage: Stage, counted through the model; stage s is chunk s // pp of rank s % pp.
        micro_batch: Number of the micro-batch.
    """

    kind: Pass
    stage: int
    micro_batch: int


class Message(NamedTuple):
    """Tensor that one stage sends to the next, or to the one before.

    Attributes:
        kind: ``activation``, input of the next stage; or ``gradient`` of the output of the stage before.
        stage: Stage that takes it.
        micro_batch: Number of the micro-batch.
    """

    kind: Literal["activation", "gradient"]
    stage: int
    micro_batch: int


Slot = tuple[Action | None, ...]
"""Actions of all ranks in one slot of the timetable, by rank; None for a rank that idles."""


def timetable(layout: Layout, *, num_micro_batches: int, is_training: bool) -> tuple[Slot, ...]:
    """Return the slots of a pass of all micro-batches, with each action in the first slot after those it needs.

    Args:
        layout: Layout with a pipeline; ``pp_schedule`` is that of training.
        num_micro_batches: Micro-batches of the pass, as ``schedule_problems`` allows.
        is_training: Run backward passes; otherwise forward passes alone.
    """
    orders = []
    for rank in range(layout.pp):
        if is_training:
            orders.append(training_order(layout, num_micro_batches=num_micro_batches, pp_rank=rank))
        else:
            orders.append(forward_order(layout, num_micro_batches=num_micro_batches, pp_rank=rank))
    num_stages = layout.pp * layout.vp
    nexts = [0] * layout.pp
    arrived: set[Message] = set()
    slots = []
    while any(number < len(order) for number, order in zip(nexts, orders, strict=True)):
        slot: list[Action | None] = []
        for number, order in zip(nexts, orders, strict=True):
            action = None
            if number < len(order):
                message = needed_message(order[number], num_stages=num_stages)
                if message is None or message in arrived:
                    action = order[number]
            slot.append(action)
        assert any(slot)  # noqa: S101 (an order of passes that waits for itself is a defect of this module)
        for rank, action in enumerate(slot):
            if action is not None:
                nexts[rank] += 1
                message = sent_message(action, num_stages=num_stages)
                if message is not None:
                    arrived.add(message)
        slots.append(tuple(slot))
    return tuple(slots)


def training_order(layout: Layout, *, num_micro_batches: int, pp_rank: int) -> tuple[Action, ...]:
    """Return a rank's passes in their order: forward passes alone, one forward and one backward in turn, the rest.

    Under the zero-bubble schedule the weights' half of a backward pass follows the inputs' half of the rank-th pass
    after it, so that every rank keeps as many micro-batches as the first, and the halves left over fill the end.
    """
    pp, vp = layout.pp, layout.vp
    is_zero_bubble = layout.pp_schedule == "zero_bubble"
    ahead = pp - 1 - pp_rank
    if vp > 1 and not is_zero_bubble:
        ahead *= 2
    per_round = micro_batches_per_round(layout, num_micro_batches=num_micro_batches)
    total = num_micro_batches * vp
    num_warmup = min((vp - 1) * per_round + ahead, total)
    chunks = [number // per_round % vp for number in range(total)]
    stages = [chunk * pp + pp_rank for chunk in chunks]
    stages_back = [(vp - 1 - chunk) * pp + pp_rank for chunk in chunks]
    forward = _numbered(Pass.FORWARD, stages)
    backward = _numbered(Pass.BACKWARD_INPUT if is_zero_bubble else Pass.BACKWARD, stages_back)
    weights = _numbered(Pass.BACKWARD_WEIGHT, stages_back) if is_zero_bubble else ()
    order = list(forward[:num_warmup])
    for number, action in enumerate(backward):
        if num_warmup + number < total:
            order.append(forward[num_warmup + number])
        order.append(action)
        if is_zero_bubble and number >= pp_rank:
            order.append(weights[number - pp_rank])
    return (*order, *weights[max(0, total - pp_rank) :])


def forward_order(layout: Layout, *, num_micro_batches: int, pp_rank: int) -> tuple[Action, ...]:
    """Return a rank's passes without training: all micro-batches through its first chunk, then through the next."""
    order = []
    for chunk in range(layout.vp):
        for micro_batch in range(num_micro_batches):
            order.append(Action(Pass.FORWARD, chunk * layout.pp + pp_rank, micro_batch))
    return tuple(order)


def micro_batches_per_round(layout: Layout, *, num_micro_batches: int) -> int:
    """Return the number of micro-batches a rank takes through one chunk before it turns to the next."""
    return num_micro_batches // max(1, num_micro_batches // layout.pp)


def sent_message(action: Action, *, num_stages: int) -> Message | None:
    """Return the message that an action ends with, if any."""
    match action.kind:
        case Pass.FORWARD:
            if action.stage + 1 < num_stages:
                return Message("activation", action.stage + 1, action.micro_batch)
        case Pass.BACKWARD | Pass.BACKWARD_INPUT:
            if action.stage > 0:
                return Message("gradient", action.stage - 1, action.micro_batch)
        case Pass.BACKWARD_WEIGHT:
            pass
    return None


def needed_message(action: Action, *, num_stages: int) -> Message | None:
    """Return the message that an action begins with, if any; its own stage's results are there by the order."""
    match action.kind:
        case Pass.FORWARD:
            if action.stage > 0:
                return Message("activation", action.stage, action.micro_batch)
        case Pass.BACKWARD | Pass.BACKWARD_INPUT:
            if action.stage + 1 < num_stages:
                return Message("gradient", action.stage, action.micro_batch)
        case Pass.BACKWARD_WEIGHT:
            pass
    return None


def _numbered(kind: Pass, stages: Sequence[int]) -> tuple[Action, ...]:
    """Return passes through the stages, each stage with its next micro-batch."""
    counts: Counter[int] = Counter()
    actions = []
    for stage in stages:
        actions.append(Action(kind, stage, counts[stage]))
        counts[stage] += 1
    return tuple(actions)
