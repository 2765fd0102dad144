"""Pipeline parallelism: every rank of the axis has consecutive layers, and micro-batches pass through the ranks.

Schedules and point-to-point messages are torch's: 1F1B, interleaved 1F1B for several model chunks a rank, and the
zero-bubble schedule ZB1P, interleaved as well, which computes the gradients of weights apart from those of inputs, in
the time a rank would wait. ZBV needs exactly two chunks a rank in the order of a V; ZB1P takes any number in the order
of the other schedules, so that layers, memory and messages of a layout don't depend on its schedule.

References:
    Narayanan et al. 2021, https://arxiv.org/abs/2104.04473; Qi et al. 2023, https://arxiv.org/abs/2401.10241
"""

# B rows of a micro-batch, L rows of all of them, S tokens of a row on this rank, N next tokens of each, K columns of
# terms, T tokens of a micro-batch (between blocks this rank's under sequence parallelism), D hidden

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.pipelining import (
    Schedule1F1B,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleLoopedBFS,
)

from pytest_nemoperf.layouts.pipeline_stages import stage_layers
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.native.parallel.passes import MicroBatch, forward_only
from pytest_nemoperf.native.parallel.stage import Stage
from pytest_nemoperf.native.phases import PhaseClock
from pytest_nemoperf.recipes.recipe import Plan

_META = torch.device("meta")
_KEPT_SCHEDULES = 8


def build_chunks(plan: Plan, *, group: ProcessGroup | None, dtype: torch.dtype) -> tuple[Decoder, ...]:
    """Return this rank's model chunks on the meta device, in the order of the model; without pp the whole model.

    Args:
        plan: Model and layout.
        group: Ranks of the pp axis.
        dtype: Dtype of activations and matrix products.
    """
    pp, rank = 1, 0
    if group is not None:
        pp, rank = group.size(), group.rank()
    vp = plan.layout.vp
    chunks = []
    with torch.device("meta"):
        for number, layers in enumerate(stage_layers(plan.model, pp=pp, vp=vp)[rank]):
            chunk = Decoder(
                plan.model,
                seq_len=plan.seq_len,
                dtype=dtype,
                layers=layers,
                is_first=rank == 0 and number == 0,
                is_last=rank == pp - 1 and number == vp - 1,
                is_router_balanced=plan.is_router_balanced,
            )
            chunks.append(chunk)
    return tuple(chunks)


def shared_embedding(chunks: Sequence[Decoder]) -> nn.Parameter | None:
    """Return this rank's copy of the embedding table, if the first and the last rank of a pipeline each have one.

    The two start equal, and stay equal if each gets the sum of their gradients.
    """
    config = chunks[0].config
    if not (config.tied_embeddings or config.mtp_num_layers):
        return None
    for chunk in chunks:
        if chunk.embedding is not None:
            return chunk.embedding.weight
    return None


class Pipeline:
    """Forward and backward passes of micro-batches through the stages of a pipeline.

    All micro-batches of a pass have the same shape; their number and shape may differ between passes.

    Args:
        plan: Layout and model.
        chunks: This rank's model chunks, ready to train.
        group: Ranks of the pp axis.
        divisor: Divisor of the summed objective.
        clock: Marks ``forward``, ``backward``, ``grad_comm``, and ``pipeline_wait``, the time between them in which a
            rank waits for other stages.
    """

    def __init__(
        self, plan: Plan, *, chunks: Sequence[Decoder], group: ProcessGroup, divisor: float, clock: PhaseClock
    ) -> None:
        self._plan = plan
        self._chunks = chunks
        self._group = group
        self._divisor = divisor
        self._clock = clock
        self._is_first = group.rank() == 0
        self._is_last = group.rank() == group.size() - 1
        # Keep the latest schedules only: row lengths may differ in every step.
        self._schedule = lru_cache(maxsize=_KEPT_SCHEDULES)(self._new_schedule)

    def forward_backward(self, micro_batches: Sequence[MicroBatch]) -> Tensor:
        """Accumulate gradients of the objective over the divisor.

        Returns:
            The objective over the divisor, a scalar on the device; zero on ranks without the last stage.
        """
        losses: list[Tensor] | None = [] if self._is_last else None
        self._run(micro_batches, is_training=True, losses=losses, return_outputs=False)
        if not losses:
            return torch.zeros((), device=micro_batches[0].tokens_BS.device)
        return torch.stack(losses).detach().sum()

    def forward(self, micro_batches: Sequence[MicroBatch]) -> list[Tensor]:
        """Return the head's output (T) of each micro-batch; an empty list on ranks without the last stage."""
        with forward_only(self._chunks):
            outputs = self._run(micro_batches, is_training=False, losses=None, return_outputs=True)
        if not self._is_last:
            return []
        return list(outputs.chunk(len(micro_batches)))

    def _run(
        self,
        micro_batches: Sequence[MicroBatch],
        *,
        is_training: bool,
        losses: list[Tensor] | None,
        return_outputs: bool,
    ) -> Any:
        shape_BS = micro_batches[0].tokens_BS.shape
        schedule, stages = self._schedule(len(micro_batches), shape_BS=shape_BS, is_training=is_training)
        for stage in stages:
            stage.tables = [micro_batch.tables for micro_batch in micro_batches]
        tokens_LS = torch.cat([micro_batch.tokens_BS for micro_batch in micro_batches])
        labels_LSN = torch.cat([micro_batch.labels_BSN for micro_batch in micro_batches])
        keywords = {"labels_BSN": labels_LSN}
        terms = [micro_batch.terms_BSK for micro_batch in micro_batches if micro_batch.terms_BSK is not None]
        if terms:
            keywords["terms_BSK"] = torch.cat(terms)
        inputs = (tokens_LS,) if self._is_first else ()
        outputs = schedule.step(*inputs, **keywords, target=labels_LSN, losses=losses, return_outputs=return_outputs)
        self._clock.mark("pipeline_wait")
        if not is_training:
            for stage in stages:
                stage.clear_runtime_states()
        return outputs

    def _new_schedule(
        self, num_micro_batches: int, *, shape_BS: torch.Size, is_training: bool
    ) -> tuple[Any, Sequence[Stage]]:
        """Return torch's schedule for that many micro-batches, which is untyped, and its stages."""
        stages = []
        for number, chunk in enumerate(self._chunks):
            stage = _stage(
                self._plan,
                chunk=chunk,
                index=number * self._group.size() + self._group.rank(),
                group=self._group,
                shape_BS=shape_BS,
                is_training=is_training,
                clock=self._clock,
            )
            stages.append(stage)
        return self._make_schedule(stages, num_micro_batches, is_training=is_training), stages

    def _make_schedule(self, stages: list[Stage], num_micro_batches: int, *, is_training: bool) -> Any:
        # scale_grads=False: the gradients of micro-batches add up to that of one mean.
        options: dict[str, Any] = {"n_microbatches": num_micro_batches, "scale_grads": False}
        if not is_training:
            return ScheduleLoopedBFS(list(stages), loss_fn=None, **options)
        options["loss_fn"] = lambda loss_sum, _labels: loss_sum / self._divisor
        if self._plan.layout.pp_schedule == "zero_bubble":
            return ScheduleInterleavedZeroBubble(list(stages), **options)
        if len(stages) > 1:
            return ScheduleInterleaved1F1B(list(stages), **options)
        return Schedule1F1B(stages[0], **options)


def _stage(
    plan: Plan,
    *,
    chunk: Decoder,
    index: int,
    group: ProcessGroup,
    shape_BS: torch.Size,
    is_training: bool,
    clock: PhaseClock,
) -> Stage:
    """Return the stage of one chunk, with the shapes of its messages, or torch would spend a pass on inferring them."""
    layout = plan.layout
    num_stages = layout.pp * layout.vp
    num_tokens = shape_BS.numel()
    num_local = num_tokens // layout.tp if layout.sequence_parallel else num_tokens
    message_TD = torch.empty(
        num_local, plan.model.hidden_size, dtype=chunk.dtype, device=_META, requires_grad=is_training
    )
    inputs = message_TD
    if index == 0:
        inputs = torch.empty(shape_BS, dtype=torch.int64, device=_META)
    outputs = message_TD
    if index == num_stages - 1 and is_training:
        outputs = torch.empty((), device=_META, requires_grad=True)
    elif index == num_stages - 1:
        outputs = torch.empty(num_tokens, device=_META)
    return Stage(
        chunk,
        index,
        num_stages,
        next(chunk.parameters()).device,
        input_args=inputs,
        output_args=outputs,
        group=group,
        # torch can't split a backward pass into halves if one weight is used several times, as multi-token prediction
        # does with embedding and head: such a chunk takes whole passes, and its second half is empty.
        dw_builder=_empty_weight_pass if len(chunk.mtp) else None,
        clock=clock,
    )


def _empty_weight_pass() -> Callable[[], None]:
    return lambda: None
