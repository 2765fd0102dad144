"""Pipeline parallelism: every rank of the axis has consecutive layers, and micro-batches pass through the ranks.

The schedules are those of ``layouts/pipeline_actions.py``: 1F1B, interleaved 1F1B for several model chunks a rank, and
the zero-bubble schedule ZB1P, interleaved as well, which computes the gradients of weights apart from those of inputs,
in the time a rank would wait. ZBV needs exactly two chunks a rank in the order of a V; ZB1P takes any number in the
order of the other schedules, so that layers and messages of a layout don't depend on its schedule. A rank runs its part
of the timetable and exchanges messages with its neighbours, in batches of torch's point-to-point operations.

References:
    Narayanan et al. 2021, https://arxiv.org/abs/2104.04473; Qi et al. 2023, https://arxiv.org/abs/2401.10241
"""

# B rows of a micro-batch, S tokens of a row on this rank, T tokens of a micro-batch (between blocks this rank's under
# sequence parallelism), D hidden

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from pytest_nemoperf.layouts.pipeline_actions import Action, Pass, Slot, needed_message, timetable
from pytest_nemoperf.layouts.pipeline_stages import stage_layers
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.native.parallel.messages import Messages
from pytest_nemoperf.native.parallel.passes import MicroBatch, forward_only
from pytest_nemoperf.native.parallel.split_backward import SplitBackward
from pytest_nemoperf.native.parallel.stage import Stage
from pytest_nemoperf.native.phases import PhaseClock
from pytest_nemoperf.recipes.recipe import Plan

_KEPT_TIMETABLES = 8  # the number of micro-batches may differ in every step of reinforcement learning


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
        self._clock = clock
        self._num_stages = group.size() * len(chunks)
        self._stages: dict[int, Stage] = {}
        for number, chunk in enumerate(chunks):
            split = None
            if plan.layout.pp_schedule == "zero_bubble":
                split = SplitBackward()
                split.apply(chunk)
            self._stages[number * group.size() + group.rank()] = Stage(chunk, divisor=divisor, split=split, clock=clock)
        self._timetable = lru_cache(maxsize=_KEPT_TIMETABLES)(self._new_timetable)
        # The group's first operation must be one of all its ranks, as torch asks of batched messages.
        dist.all_reduce(torch.zeros((), device=self._device), group=group)

    def forward_backward(self, micro_batches: Sequence[MicroBatch]) -> Tensor:
        """Accumulate gradients of the objective over the divisor.

        Returns:
            The objective over the divisor, a scalar on the device; zero on ranks without the last stage.
        """
        losses = self._run(micro_batches, is_training=True)
        if not losses:
            return torch.zeros((), device=micro_batches[0].tokens_BS.device)
        return torch.stack(losses).sum()

    def forward(self, micro_batches: Sequence[MicroBatch]) -> list[Tensor]:
        """Return the head's output (T) of each micro-batch; an empty list on ranks without the last stage."""
        with forward_only(self._chunks):
            return self._run(micro_batches, is_training=False)

    @property
    def _device(self) -> torch.device:
        return next(self._chunks[0].parameters()).device

    def _new_timetable(self, num_micro_batches: int, *, is_training: bool) -> tuple[Slot, ...]:
        return timetable(self._plan.layout, num_micro_batches=num_micro_batches, is_training=is_training)

    def _run(self, micro_batches: Sequence[MicroBatch], *, is_training: bool) -> list[Tensor]:
        """Run this rank's part of the timetable, and return the last stage's output of each micro-batch."""
        for stage in self._stages.values():
            stage.begin(num_micro_batches=len(micro_batches), is_training=is_training)
        messages = Messages(
            self._group, like_TD=self._message_like(micro_batches[0]), device=self._device, num_stages=self._num_stages
        )
        outputs = []
        for slot in self._timetable(len(micro_batches), is_training=is_training):
            action = slot[self._group.rank()]
            out = None
            if action is not None:
                out = self._perform(action, micro_batch=micro_batches[action.micro_batch], messages=messages)
                if out is not None and action.kind is Pass.FORWARD and action.stage == self._num_stages - 1:
                    outputs.append(out)
            messages.exchange(slot, out)
        messages.finish()
        self._clock.mark("pipeline_wait")
        return outputs

    def _perform(self, action: Action, *, micro_batch: MicroBatch, messages: Messages) -> Tensor | None:
        """Run one pass, and return its message to another stage, or the last stage's output."""
        message = needed_message(action, num_stages=self._num_stages)
        received_TD = None if message is None else messages.take(message)
        stage = self._stages[action.stage]
        match action.kind:
            case Pass.FORWARD:
                return stage.forward(action.micro_batch, micro_batch, received_TD)
            case Pass.BACKWARD | Pass.BACKWARD_INPUT:
                return stage.backward(action.micro_batch, received_TD)
            case Pass.BACKWARD_WEIGHT:
                stage.backward_weight(action.micro_batch)
                return None

    def _message_like(self, micro_batch: MicroBatch) -> Tensor:
        """Return a tensor without memory, of the shape and dtype of this pass's messages."""
        num_tokens = micro_batch.tokens_BS.numel()
        if self._plan.layout.sequence_parallel:
            num_tokens //= self._plan.layout.tp
        size = (num_tokens, self._plan.model.hidden_size)
        return torch.empty(size, dtype=self._chunks[0].dtype, device="meta")
