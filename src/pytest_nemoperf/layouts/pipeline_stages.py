"""Pipeline stages: distribution of a model's layers over ranks, and the micro-batches a schedule can run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from heapq import heapify, heapreplace
from itertools import accumulate, pairwise
from typing import Final

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.architecture import ModelConfig

# Load in layers, if layers are distributed unevenly: of the embedding; of last norm, output head and loss; of each
# depth of multi-token prediction, on the last chunk.
_EMBEDDING_LOAD = 1
_HEAD_LOAD = 1
_MTP_LOAD = 1
_KEPT_SPLITS: Final = 64
"""Splits that are kept: pricing asks for that of a plan at every stage."""


def stage_layers(model: ModelConfig, *, pp: int, vp: int) -> tuple[tuple[range, ...], ...]:
    """Return the layers of each model chunk, ``[pipeline rank][chunk]``.

    Chunks go round the ranks: chunk c of rank r is the (c * pp + r)-th piece of the model. The first piece has the
    embedding as well; the last one has norm, head and multi-token prediction.

    Layers are distributed evenly if they divide. Otherwise the embedding, the head and each multi-token prediction
    depth count as one layer: each piece gets one layer, then each further layer goes to the piece with the least
    load, of equal ones to the last, because later stages keep fewer activations. So DeepSeek-V3's 61 layers over 16
    pieces (61 + 3 = 16 * 4) are 3, fourteen times 4, and 2; Llama 3.1 405B's 126 over 64 (126 + 2 = 64 * 2) are 1,
    sixty-two times 2, and 1. Where embedding and head take the place of a layer each, the last piece, and then the
    first, may have none: 126 layers over 128 pieces are one each, but for the two at the ends. The native engine needs
    a layer in each (chunk_problems).

    Args:
        model: Architecture, for ``num_layers`` and ``mtp_num_layers``.
        pp: Pipeline parallel degree.
        vp: Model chunks per pipeline rank.

    Raises:
        PlanError: If there are more chunks than layers, embedding and head.

    References:
        Narayanan et al. 2021, section 2.2.2, https://arxiv.org/abs/2104.04473, for the order of the chunks;
        Megatron-Core's account_for_embedding_in_pipeline_split and account_for_loss_in_pipeline_split for the loads.
    """
    if pp * vp > model.num_layers + _EMBEDDING_LOAD + _HEAD_LOAD:
        raise PlanError(_too_many_chunks(model, pp=pp, vp=vp))
    return _stage_layers(model.num_layers, model.mtp_num_layers, pp=pp, vp=vp)


@lru_cache(maxsize=_KEPT_SPLITS)
def _stage_layers(num_layers: int, mtp_num_layers: int, *, pp: int, vp: int) -> tuple[tuple[range, ...], ...]:
    sizes = _piece_sizes(num_layers, mtp_num_layers=mtp_num_layers, num_pieces=pp * vp)
    pieces = [range(first, end) for first, end in pairwise(accumulate(sizes, initial=0))]
    return tuple(tuple(pieces[rank::pp]) for rank in range(pp))


def chunk_problems(model: ModelConfig, *, pp: int, vp: int) -> Iterator[str]:
    """Yield the reason that not every model chunk has a layer, as the native engine needs."""
    if pp * vp > model.num_layers:
        yield _too_many_chunks(model, pp=pp, vp=vp)


def _too_many_chunks(model: ModelConfig, *, pp: int, vp: int) -> str:
    return f"pp*vp ({pp}*{vp}={pp * vp}) model chunks are more than num_layers={model.num_layers}; lower pp or vp"


def schedule_problems(layout: Layout, *, num_micro_batches: int, is_compiled: bool) -> Iterator[str]:
    """Yield the reasons the native engine's schedules can't run that many micro-batches a step.

    Args:
        layout: Layout, with or without a pipeline.
        num_micro_batches: Micro-batches of one data-parallel rank in one step.
        is_compiled: Blocks are compiled by torch.compile.
    """
    pp = layout.pp
    if pp == 1:
        return
    is_zero_bubble = layout.pp_schedule == "zero_bubble"
    subject = f"global_batch_size/(micro_batch_size*dp) = {num_micro_batches} micro-batches a step"
    rounds = max(1, num_micro_batches // pp)
    if num_micro_batches < pp:
        yield (f"{subject} are fewer than pp={pp} stages; lower pp or micro_batch_size, or raise global_batch_size")
    elif (layout.vp > 1 or is_zero_bubble) and num_micro_batches % rounds:
        yield (
            f"{subject} don't make equal rounds of at least pp={pp} "
            f"({num_micro_batches} in {rounds} rounds = {num_micro_batches / rounds:g}), as interleaved "
            f"and zero-bubble schedules need; choose a global_batch_size with a multiple of {pp} of them"
        )
    if is_zero_bubble and is_compiled:
        yield (
            "pp_schedule=zero_bubble runs the two halves of a backward pass apart, and a compiled block has only "
            "whole ones; choose pp_schedule=1f1b or is_compiled=False"
        )


def _piece_sizes(num_layers: int, *, mtp_num_layers: int, num_pieces: int) -> list[int]:
    if num_layers % num_pieces == 0:
        return [num_layers // num_pieces] * num_pieces
    num_empty = max(0, num_pieces - num_layers)
    if num_empty:
        sizes = [1] * num_pieces
        sizes[-1] = 0
        if num_empty > 1:
            sizes[0] = 0
        return sizes
    sizes = [1] * num_pieces
    loads = [1] * num_pieces
    loads[0] += _EMBEDDING_LOAD
    loads[-1] += _HEAD_LOAD + _MTP_LOAD * mtp_num_layers
    queue = [(load, -piece) for piece, load in enumerate(loads)]  # the least load first, of equal ones the last piece
    heapify(queue)
    for _ in range(num_layers - num_pieces):
        load, negative = queue[0]
        sizes[-negative] += 1
        heapreplace(queue, (load + 1, negative))
    return sizes
