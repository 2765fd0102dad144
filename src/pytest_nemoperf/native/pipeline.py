"""Pipeline parallelism: every rank of the axis has some consecutive layers, and micro-batches go through the ranks.

Schedules and point-to-point messages are torch's: 1F1B, interleaved 1F1B where a rank has several chunks of the model,
and the zero-bubble schedule ZB1P, interleaved as well, which computes the gradients of the weights apart from those of
the inputs, where a rank would wait. ZBV needs exactly two chunks a rank in the order of a V; ZB1P takes any number in
the order of the other schedules, so that layers, memory and messages of a layout don't depend on its schedule.

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

from pytest_nemoperf.native.model import Decoder
from pytest_nemoperf.native.passes import MicroBatch, without_training
from pytest_nemoperf.native.phases import PhaseClock
from pytest_nemoperf.native.stage import Stage
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.stages import stage_layers

_META = torch.device("meta")
_KEPT_SCHEDULES = 8


def build_chunks(plan: Plan, *, group: ProcessGroup | None, dtype: torch.dtype) -> tuple[Decoder, ...]:
    """Return this rank's parts of the model on the meta device, in the order of the model; without pp all of it.

    Args:
        plan: Model and layout.
        group: Ranks of the pp axis.
        dtype: Number format of activations and matrix products.
    """
    pp, rank = (1, 0) if group is None else (group.size(), group.rank())
    vp = plan.layout.vp
    with torch.device("meta"):
        return tuple(
            Decoder(
                plan.model,
                seq_len=plan.seq_len,
                dtype=dtype,
                layers=layers,
                is_first=rank == 0 and chunk == 0,
                is_last=rank == pp - 1 and chunk == vp - 1,
                is_router_balanced=plan.is_router_balanced,
            )
            for chunk, layers in enumerate(stage_layers(plan.model, pp=pp, vp=vp)[rank])
        )


def shared_embedding(chunks: Sequence[Decoder]) -> nn.Parameter | None:
    """Return the embedding table if the first and the last rank of a pipeline each have one, and this rank does.

    The two start equal; they stay so if each gets the sum of their gradients.
    """
    config = chunks[0].config
    if not (config.tied_embeddings or config.mtp_num_layers):
        return None
    tables = [chunk.embedding.weight for chunk in chunks if chunk.embedding is not None]
    return tables[0] if tables else None


class Pipeline:
    """Takes micro-batches forward and backward through the stages of a pipeline.

    All micro-batches of a pass have the same shape; a pass may have another number of them, or another shape, than the
    one before.

    Args:
        plan: Layout and model.
        chunks: This rank's parts of the model, ready to train.
        group: Ranks of the pp axis.
        divisor: Of what the objective adds up to.
        clock: Marks ``forward``, ``backward``, ``grad_comm``, and ``pipeline_wait``: whatever lies between them, which
            is the wait for other stages.
    """

    def __init__(
        self, plan: Plan, *, chunks: Sequence[Decoder], group: ProcessGroup, divisor: float, clock: PhaseClock
    ) -> None:
        self._plan, self._chunks, self._group = plan, chunks, group
        self._divisor = divisor
        self._clock = clock
        self._is_first, self._is_last = group.rank() == 0, group.rank() == group.size() - 1
        # Only the latest: steps may have rows of ever new lengths.
        self._schedule = lru_cache(maxsize=_KEPT_SCHEDULES)(self._new_schedule)

    def forward_backward(self, micro_batches: Sequence[MicroBatch]) -> Tensor:
        """Accumulate the gradient of the objective over the divisor.

        Returns:
            The objective over the divisor, still on the device; zero on ranks that don't have the last stage.
        """
        losses: list[Tensor] | None = [] if self._is_last else None
        self._run(micro_batches, is_training=True, losses=losses, return_outputs=False)
        device = micro_batches[0].tokens_BS.device
        return torch.stack(losses).detach().sum() if losses else torch.zeros((), device=device)

    def forward(self, micro_batches: Sequence[MicroBatch]) -> list[Tensor]:
        """Return the head's output for each token (T) of each micro-batch; nothing without the last stage."""
        with without_training(self._chunks):
            outputs = self._run(micro_batches, is_training=False, losses=None, return_outputs=True)
        return list(outputs.chunk(len(micro_batches))) if self._is_last else []

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
        """Return the order of passes for so many micro-batches, and the stages it runs; torch leaves it untyped."""
        stages = [
            _stage(
                self._plan,
                chunk=chunk,
                index=number * self._group.size() + self._group.rank(),
                group=self._group,
                shape_BS=shape_BS,
                is_training=is_training,
                clock=self._clock,
            )
            for number, chunk in enumerate(self._chunks)
        ]
        return self._make_schedule(stages, num_micro_batches, is_training=is_training), stages

    def _make_schedule(self, stages: list[Stage], num_micro_batches: int, *, is_training: bool) -> Any:
        options: dict[str, Any] = {
            "n_microbatches": num_micro_batches,
            "loss_fn": (lambda loss_sum, _labels: loss_sum / self._divisor) if is_training else None,
            "scale_grads": False,  # the sum over micro-batches of shares of one mean
        }
        if not is_training:
            return ScheduleLoopedBFS(list(stages), **options)
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
    """Return the stage of one chunk, told the shapes of its messages, so that no pass is spent on finding them out."""
    layout = plan.layout
    num_stages = layout.pp * layout.vp
    num_tokens = shape_BS.numel()
    tokens_BS = torch.empty(shape_BS, dtype=torch.int64, device=_META)
    output = torch.empty(() if is_training else num_tokens, device=_META, requires_grad=is_training)
    num_between = num_tokens // layout.tp if layout.sequence_parallel else num_tokens
    message_TD = torch.empty(
        num_between, plan.model.hidden_size, dtype=chunk.dtype, device=_META, requires_grad=is_training
    )
    return Stage(
        chunk,
        index,
        num_stages,
        next(chunk.parameters()).device,
        input_args=tokens_BS if index == 0 else message_TD,
        output_args=output if index == num_stages - 1 else message_TD,
        group=group,
        # torch's halves of a backward pass go wrong where one weight is used several times, as multi-token prediction
        # does with embedding and head: such a chunk takes whole passes, with nothing left for the second half.
        dw_builder=_nothing_left if len(chunk.mtp) else None,
        clock=clock,
    )


def _nothing_left() -> Callable[[], None]:
    return lambda: None
