"""Pipeline schedules as arithmetic: bubble fraction, and micro-batches in flight."""

from __future__ import annotations

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.layouts.pipeline_actions import micro_batches_per_round

_ZERO_BUBBLE_SHARE = 1 / 3  # forward, input gradient and weight gradient taken as equally long


def bubble_fraction(layout: Layout, *, num_micro_batches: int) -> float:
    """Return the fraction of a step that a pipeline rank idles while the pipeline fills and drains.

    With p ranks, v chunks a rank and m micro-batches, ranks idle for (p-1)/v of a micro-batch's forward and backward
    time, beside the time of m micro-batches. A zero-bubble schedule fills two thirds of that with weight gradients
    (ZB-H1, with forward, input gradient and weight gradient equally long).

    References:
        Narayanan et al. 2021, section 2.2, https://arxiv.org/abs/2104.04473;
        Qi et al. 2023, section 2.3, https://arxiv.org/abs/2401.10241
    """
    idle = (layout.pp - 1) / layout.vp
    if layout.pp_schedule == "zero_bubble":
        idle *= _ZERO_BUBBLE_SHARE
    return idle / (num_micro_batches + idle)


def num_in_flight(layout: Layout, *, num_micro_batches: int, pp_rank: int) -> float:
    """Return the maximum number of micro-batches in flight on a rank; one of v chunks counts as 1/v of a micro-batch.

    Under 1F1B a rank runs one forward pass for each rank after it before its first backward pass. Under the interleaved
    schedule it runs two for each, and a round of micro-batches through all its chunks but the last. Under the
    zero-bubble schedule a micro-batch is in flight until the weights' half of its backward pass, which each rank puts
    off by as many passes as there are ranks before it: all ranks keep as many as the first.

    References:
        As bubble_fraction; ``pipeline_actions.training_order``, whose passes this counts.
    """
    pp = layout.pp
    vp = layout.vp
    ahead = pp - 1 - pp_rank
    if layout.pp_schedule == "zero_bubble":
        ahead = pp - 1
    elif vp > 1:
        ahead *= 2
    per_round = micro_batches_per_round(layout, num_micro_batches=num_micro_batches)
    chunks = (vp - 1) * per_round + ahead + 1
    return min(chunks, num_micro_batches * vp) / vp
