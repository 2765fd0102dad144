"""Pipeline schedules as arithmetic: bubble fraction, and micro-batches in flight."""

from __future__ import annotations

from pytest_nemoperf.layouts.layout import Layout

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
    zero-bubble schedule torch 2.13 keeps most of a micro-batch that is not on the model's first chunk until the step
    ends (measured: 0.6 to 1.0 of it), so all of them are counted.

    References:
        As bubble_fraction; torch/distributed/pipelining/schedules.py, ``_get_1f1b_rank_ops`` and its callers.
    """
    pp = layout.pp
    vp = layout.vp
    if layout.pp_schedule == "zero_bubble" and pp > 1:
        if pp_rank == 0 and vp == 1:
            return min(pp, num_micro_batches)
        return num_micro_batches
    ahead = pp - 1 - pp_rank
    if vp > 1:
        ahead *= 2
    per_round = num_micro_batches // max(1, num_micro_batches // pp)
    chunks = (vp - 1) * per_round + ahead + 1
    return min(chunks, num_micro_batches * vp) / vp
