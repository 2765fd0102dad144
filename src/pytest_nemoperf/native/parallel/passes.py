"""Forward and backward passes of micro-batches through the model of a rank."""

# B rows of a micro-batch, S tokens of a row, N next tokens of each, K columns of terms, T tokens of a micro-batch

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from pytest_nemoperf.native.model.rope import PositionTables
from pytest_nemoperf.native.model.transformer import Decoder, token_outputs
from pytest_nemoperf.native.parallel.data_parallel import gradient_sync
from pytest_nemoperf.native.phases import PhaseClock


class MicroBatch(NamedTuple):
    """Rows that go through the model at once.

    Attributes:
        tokens_BS: Token ids.
        labels_BSN: The next N tokens of each token.
        terms_BSK: Terms of the objective for each token; None if it has none.
        tables: Position tables of the rows; None for rows as long as the plan's sequences.
    """

    tokens_BS: Tensor
    labels_BSN: Tensor
    terms_BSK: Tensor | None = None
    tables: PositionTables | None = None


class Passes(Protocol):
    """Passes of micro-batches through this rank's model chunks."""

    def forward_backward(self, micro_batches: Sequence[MicroBatch]) -> Tensor:
        """Accumulate gradients and return the objective on this rank, a scalar on the device."""

    def forward(self, micro_batches: Sequence[MicroBatch]) -> list[Tensor]:
        """Return the head's output (T) of each micro-batch; an empty list on ranks without the head."""


class GradAccumulation:
    """Gradient accumulation over the micro-batches of a whole model.

    Args:
        model: Model from parallelize.
        divisor: Divisor of the summed objective.
        has_grad_comm: Gradients are communicated at the end of the last backward pass, or later.
        clock: Marks ``forward``, ``backward`` and ``grad_comm``.
    """

    def __init__(self, model: nn.Module, *, divisor: float, has_grad_comm: bool, clock: PhaseClock) -> None:
        self._model = model
        self._whole = whole_model(model)
        self._divisor = divisor
        self._has_grad_comm = has_grad_comm
        self._clock = clock

    def forward_backward(self, micro_batches: Sequence[MicroBatch]) -> Tensor:
        """Accumulate gradients of the objective over the divisor, and return it, a scalar on the device."""
        loss = torch.zeros((), device=micro_batches[0].tokens_BS.device)
        for number, micro_batch in enumerate(micro_batches, start=1):
            with gradient_sync(self._model, is_on=number == len(micro_batches)):
                # Sums over an exact count: the mean over all tokens, for any split into micro-batches.
                # DDP and FSDP average over ranks, and every rank divides by the same number.
                micro_loss: Tensor = self._run(self._model, micro_batch) / self._divisor
                self._clock.mark("forward")
                if self._has_grad_comm:
                    micro_loss.register_hook(self._mark_when_gradients_are_local)  # type: ignore[no-untyped-call]  # torch leaves it
                micro_loss.backward()  # type: ignore[no-untyped-call]  # as above
            self._clock.mark("grad_comm" if self._has_grad_comm else "backward")
            loss += micro_loss.detach()
        return loss

    def forward(self, micro_batches: Sequence[MicroBatch]) -> list[Tensor]:
        """Return the head's output (T) of each micro-batch, without gradients."""
        with forward_only([self._whole]):
            return [self._run(self._whole, micro_batch) for micro_batch in micro_batches]

    def _run(self, model: nn.Module, micro_batch: MicroBatch) -> Tensor:
        if micro_batch.tables is not None:
            self._whole.tables = micro_batch.tables
        out: Tensor = model(micro_batch.tokens_BS, micro_batch.labels_BSN, micro_batch.terms_BSK)
        return out

    def _mark_when_gradients_are_local(self, grad: Tensor) -> None:
        """Mark the end of backward between the last local gradient and the wait for the reduction.

        This is the first hook of a backward pass, so its callback is the first the engine runs after the last
        gradient; DDP and FSDP queue their waits later.
        """
        del grad  # torch hands it to every hook
        Variable._execution_engine.queue_callback(lambda: self._clock.mark("backward"))  # noqa: SLF001 (DDP and FSDP use it too; no public name)


def whole_model(model: nn.Module) -> Decoder:
    """Return the decoder, unwrapped from DDP."""
    if isinstance(model, DistributedDataParallel):
        model = model.module
    assert isinstance(model, Decoder)  # noqa: S101 (there is nothing else)
    return model


@contextmanager
def forward_only(chunks: Sequence[Decoder]) -> Iterator[None]:
    """Context for forward-only passes, which return the head's output (T); FSDP reshards at the end."""
    objectives = [chunk.objective for chunk in chunks]
    for chunk in chunks:
        chunk.objective = token_outputs
    try:
        with torch.no_grad():
            yield
    finally:
        for chunk, objective in zip(chunks, objectives, strict=True):
            chunk.objective = objective
            for module in chunk.modules():
                # As backward would: FSDP leaves the weights of the root, or of a pipeline's stage, gathered.
                if isinstance(module, FSDPModule):
                    module.reshard()
