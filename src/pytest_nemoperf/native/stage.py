"""One rank's chunk of a pipeline, as torch's schedules run it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.pipelining import PipelineStage

from pytest_nemoperf.native.phases import PhaseClock
from pytest_nemoperf.native.rope import Tables

_META = torch.device("meta")


class Stage(PipelineStage):
    """Marks its passes, and has buffers only for messages that are on their way.

    torch allocates a buffer for each message of a step and keeps all of them: with many micro-batches more memory than
    the activations, which no schedule needs.

    Attributes:
        tables: What the layers look up in each micro-batch of the pass; None for what they have anyway.
    """

    def __init__(self, *args: Any, clock: PhaseClock, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clock = clock
        self.tables: Sequence[Tables | None] = ()

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        """Take a micro-batch forward, with its own positions, and give back the buffer it came in."""
        tables = self.tables[fwd_chunk_id]
        if tables is not None:
            self.submod.tables = tables  # type: ignore[assignment]  # torch takes every attribute for a module
        with self._marking("forward"):
            output = super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)
        _release(self.args_recv_info[fwd_chunk_id])  # the pass holds its input as long as it is needed
        return output

    def backward_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> None:
        """Take a micro-batch backward, if anything is trained; torch asks for it in any case."""
        if not self.has_backward:
            return
        with self._marking("backward"):
            super().backward_one_chunk(bwd_chunk_id, *args, **kwargs)
        _release(self.grad_recv_info[bwd_chunk_id])

    def backward_weight_one_chunk(self, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients of the weights, where those of the inputs came first."""
        with self._marking("backward"):
            super().backward_weight_one_chunk(*args, **kwargs)
            self._accumulate()

    def perform_reduce_grad(self, *args: Any, **kwargs: Any) -> None:
        """Have FSDP reduce the gradients, if there are any."""
        if not self.has_backward:
            return
        with self._marking("grad_comm" if isinstance(self.submod, FSDPModule) else "pipeline_wait"):
            super().perform_reduce_grad(*args, **kwargs)

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[Any]:
        """Return the receipts of a micro-batch's input."""
        _allocate(self.args_recv_info[fwd_chunk_id], device=self.device)
        return super().get_fwd_recv_ops(fwd_chunk_id)

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[Any]:
        """Return the receipts of the gradient of a micro-batch's output."""
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
        """Have FSDP add the gradients of a micro-batch in the type it reduces them in.

        Its hooks do so in a whole backward pass, but the half that makes weights' gradients does not call them, and the
        next such half would add in the type of the matrix products.
        """
        if isinstance(self.submod, FSDPModule):
            # As torch's own perform_reduce_grad reaches them; there is no public way.
            root: Any = fully_shard.state(self.submod)  # type: ignore[attr-defined]  # torch leaves it untyped
            for state in root._state_ctx.all_states:  # noqa: SLF001 (as said above)
                for group in state._fsdp_param_groups:  # noqa: SLF001 (as said above)
                    group.post_backward()

    @contextmanager
    def _without_memory(self) -> Iterator[None]:
        device, self.device = self.device, _META
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
    """Give each message that comes from another rank a buffer."""
    for message in messages:
        if message.buffer is not None and message.buffer.is_meta:
            message.buffer = torch.empty_like(message.buffer, device=device, requires_grad=False)


def _release(messages: Iterable[Any]) -> None:
    for message in messages:
        if message.buffer is not None and not message.buffer.is_meta:
            message.buffer = torch.empty_like(message.buffer, device=_META, requires_grad=False)
