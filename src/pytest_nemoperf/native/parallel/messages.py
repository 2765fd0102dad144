"""Messages between the ranks of a pipeline: activations to the next stage, gradients to the one before."""

# T tokens of a micro-batch (this rank's under sequence parallelism), D hidden

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import P2POp, ProcessGroup, Work

from pytest_nemoperf.layouts.pipeline_actions import Message, Slot, sent_message

_MAX_UNFINISHED_SENDS = 4


class Messages:
    """Messages of one pass of all micro-batches, each with memory from its slot of the timetable until it is taken.

    A rank waits for a message when it takes it. It runs a few sends ahead of the ranks that take them, and then waits
    for the oldest: a slot long past, so that no two ranks can wait for each other. With NCCL it is the device's stream
    that waits, not the host, and the batches of a rank run one after another: both ends have them in the order of the
    slots. torch keeps a batch's tensors until it has been waited for, so a buffer is not given out again before that.

    torch asks that the first operation of a group is one of all its ranks: call one before.

    Args:
        group: Ranks of the pp axis.
        like_TD: Shape and dtype of a message.
        device: Device of this rank.
        num_stages: Stages of the whole pipeline.
    """

    def __init__(self, group: ProcessGroup, *, like_TD: Tensor, device: torch.device, num_stages: int) -> None:
        self._group = group
        self._like_TD = like_TD
        self._device = device
        self._num_stages = num_stages
        self._arriving: dict[Message, tuple[Tensor, _Transfer]] = {}
        self._sends: deque[_Transfer] = deque()

    def exchange(self, slot: Slot, out_TD: Tensor | None) -> None:
        """Start the messages of a slot that this rank sends or takes, in one batch, without waiting for them.

        Args:
            slot: Actions of all ranks.
            out_TD: Result of this rank's own action.
        """
        rank = self._group.rank()
        num_ranks = self._group.size()
        operations = []
        buffers = {}
        for sender, action in enumerate(slot):
            message = None if action is None else sent_message(action, num_stages=self._num_stages)
            if message is None:
                continue
            taker = message.stage % num_ranks
            if sender == rank:
                assert out_TD is not None  # noqa: S101 (the action made the message)
                operations.append(self._operation(dist.isend, out_TD.contiguous(), peer=taker))
            elif taker == rank:
                buffers[message] = torch.empty_like(self._like_TD, device=self._device)
                operations.append(self._operation(dist.irecv, buffers[message], peer=sender))
        if not operations:
            return
        transfer = _Transfer(dist.batch_isend_irecv(operations))
        for message, buffer_TD in buffers.items():
            self._arriving[message] = buffer_TD, transfer
        if len(operations) > len(buffers):
            self._sends.append(transfer)
            if len(self._sends) > _MAX_UNFINISHED_SENDS:
                self._sends.popleft().wait()

    def take(self, message: Message) -> Tensor:
        """Wait for a message, and return its tensor (T, D), which is the caller's."""
        buffer_TD, transfer = self._arriving.pop(message)
        transfer.wait()
        return buffer_TD

    def finish(self) -> None:
        """Wait for the messages that are still on their way; all those to this rank are taken."""
        assert not self._arriving  # noqa: S101 (the timetable has an action for each)
        while self._sends:
            self._sends.popleft().wait()

    def _operation(self, kind: Callable[..., Any], tensor: Tensor, *, peer: int) -> P2POp:
        return P2POp(kind, tensor, dist.get_global_rank(self._group, peer), self._group)


class _Transfer:
    """Batch of point-to-point operations; NCCL has one handle for all of them, gloo one for each."""

    def __init__(self, works: Iterable[Work]) -> None:
        self._works = list(works)

    def wait(self) -> None:
        """Wait for all of them, once: gloo would wait for another message the second time."""
        while self._works:
            self._works.pop().wait()
