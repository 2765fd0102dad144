"""Pipeline stage: one model chunk, run by torch's schedules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.pipelining import PipelineStage

from pytest_nemoperf.native.model.rope import PositionTables
from pytest_nemoperf.native.phases import PhaseClock

_META = torch.device("meta")


class Stage(PipelineStage):
    """Pipeline stage that marks its phases and allocates receive buffers only while a message is in flight.

    torch allocates a buffer for each message of a step and keeps all of them, with many micro-batches more memory than
    the activations.

    Attributes:
        tables: Position tables of each micro-batch of the pass; None for the model's own.
    """

    def __init__(self, *args: Any, clock: PhaseClock, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clock = clock
        self.tables: Sequence[PositionTables | None] = ()

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        """Run the forward pass of a micro-batch with its own positions, and free its receive buffer."""
        tables = self.tables[fwd_chunk_id]
        if tables is not None:
            self.submod.tables = tables  # type: ignore[assignment]  # torch takes every attribute for a module
        with self._marking("forward"):
            output = super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)
        _release(self.args_recv_info[fwd_chunk_id])  # autograd holds the input as long as it is needed
        return output

    def backward_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> None:
        """Run the backward pass of a micro-batch, if training; torch calls it in any case."""
        if not self.has_backward:
            return
        with self._marking("backward"):
            super().backward_one_chunk(bwd_chunk_id, *args, **kwargs)
        _release(self.grad_recv_info[bwd_chunk_id])

    def backward_weight_one_chunk(self, *args: Any, **kwargs: Any) -> None:
        """Compute weight gradients, the second half of a split backward pass."""
        with self._marking("backward"):
            super().backward_weight_one_chunk(*args, **kwargs)
            self._accumulate()

    def perform_reduce_grad(self, *args: Any, **kwargs: Any) -> None:
        """Reduce gradients over FSDP's shards, if training."""
        if not self.has_backward:
            return
        with self._marking("grad_comm" if isinstance(self.submod, FSDPModule) else "pipeline_wait"):
            super().perform_reduce_grad(*args, **kwargs)

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[Any]:
        """Allocate the buffers and return the receive operations of a micro-batch's input."""
        _allocate(self.args_recv_info[fwd_chunk_id], device=self.device)
        return super().get_fwd_recv_ops(fwd_chunk_id)

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[Any]:
        """Allocate the buffers and return the receive operations of a micro-batch's output gradient."""
        if self.has_backward:
            _allocate(self.grad_recv_info[bwd_chunk_id], device=self.device)
        return super().get_bwd_recv_ops(bwd_chunk_id)

    def _setup_forward_recv_info(self, *args: Any, **kwargs: Any) -> None:
        with self._without_memory():
            super()._setup_forward_recv_info(*args, **kwargs)

    def _setup_backward_recv_info(self, *args: Any, **kwargs: Any) -> None:
        with self._without_memory():
            super()._setup_backward_recv_info(*args, **kwargs)

    def _accumulate(self) -> None:
        """Accumulate a micro-batch's gradients in FSDP's reduction dtype.

        FSDP's hooks do so in a whole backward pass, but not in the half for weight gradients, and the next half would
        accumulate in the dtype of the matrix products.
        """
        if isinstance(self.submod, FSDPModule):
            # As in torch's own perform_reduce_grad; there is no public way.
            root: Any = fully_shard.state(self.submod)  # type: ignore[attr-defined]  # torch leaves it untyped
            for state in root._state_ctx.all_states:  # noqa: SLF001 (as above)
                for group in state._fsdp_param_groups:  # noqa: SLF001 (as above)
                    group.post_backward()

    @contextmanager
    def _without_memory(self) -> Iterator[None]:
        device = self.device
        self.device = _META
        try:
            yield
        finally:
            self.device = device

    @contextmanager
    def _marking(self, phase: str) -> Iterator[None]:
        self._clock.mark("pipeline_wait")
        yield
        self._clock.mark(phase)


def _allocate(messages: Iterable[Any], *, device: torch.device) -> None:
    """Allocate the buffer of each message from another rank."""
    for message in messages:
        if message.buffer is not None and message.buffer.is_meta:
            message.buffer = torch.empty_like(message.buffer, device=device, requires_grad=False)


def _release(messages: Iterable[Any]) -> None:
    for message in messages:
        if message.buffer is not None and not message.buffer.is_meta:
            message.buffer = torch.empty_like(message.buffer, device=_META, requires_grad=False)
