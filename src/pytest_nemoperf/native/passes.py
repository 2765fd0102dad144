"""Passes of micro-batches through the model: what one rank does with a whole model, or with its parts of a pipeline."""

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

from pytest_nemoperf.native.data_parallel import gradient_sync
from pytest_nemoperf.native.model import Decoder, token_outputs
from pytest_nemoperf.native.phases import PhaseClock
from pytest_nemoperf.native.rope import Tables


class MicroBatch(NamedTuple):
    """What goes through the model at once.

    Attributes:
        tokens_BS: Tokens.
        labels_BSN: The next tokens of each.
        terms_BSK: What the objective needs to know of each; None if nothing.
        tables: What the layers look up about the rows' positions; None for rows as long as the plan's sequences.
    """

    tokens_BS: Tensor
    labels_BSN: Tensor
    terms_BSK: Tensor | None = None
    tables: Tables | None = None


class Passes(Protocol):
    """How a rank takes micro-batches through the parts of the model that it has."""

    def forward_backward(self, micro_batches: Sequence[MicroBatch]) -> Tensor:
        """Accumulate the gradient of the objective and return its value on this rank, still on the device."""

    def forward(self, micro_batches: Sequence[MicroBatch]) -> list[Tensor]:
        """Return the head's output for each token (T) of each micro-batch; nothing on ranks without the head."""


class Accumulation:
    """Takes micro-batches through a whole model, one after the other.

    Args:
        model: As parallelize returned it.
        divisor: Of what the objective adds up to.
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
        """Accumulate the gradient of the objective over the divisor, and return that, as Passes says."""
        loss = torch.zeros((), device=micro_batches[0].tokens_BS.device)
        for number, micro_batch in enumerate(micro_batches, start=1):
            with gradient_sync(self._model, is_on=number == len(micro_batches)):
                # Sums over an exact count: the mean over all tokens, however they are cut into micro-batches.
                # DDP and FSDP average over ranks, and every rank divides by the same.
                micro_loss: Tensor = self._run(self._model, micro_batch) / self._divisor
                self._clock.mark("forward")
                if self._has_grad_comm:
                    micro_loss.register_hook(self._mark_when_gradients_are_local)  # type: ignore[no-untyped-call]  # torch leaves it
                micro_loss.backward()  # type: ignore[no-untyped-call]  # as above
            self._clock.mark("grad_comm" if self._has_grad_comm else "backward")
            loss += micro_loss.detach()
        return loss

    def forward(self, micro_batches: Sequence[MicroBatch]) -> list[Tensor]:
        """Return the head's outputs, as Passes says."""
        with without_training([self._whole]):
            return [self._run(self._whole, micro_batch) for micro_batch in micro_batches]

    def _run(self, model: nn.Module, micro_batch: MicroBatch) -> Tensor:
        if micro_batch.tables is not None:
            self._whole.tables = micro_batch.tables
        out: Tensor = model(micro_batch.tokens_BS, micro_batch.labels_BSN, micro_batch.terms_BSK)
        return out

    def _mark_when_gradients_are_local(self, grad: Tensor) -> None:
        """Have backward's end marked between the last local gradient and the wait for their reduction.

        This is the first hook of a backward pass, so its callback is the first of those the engine runs
        after the last gradient; DDP and FSDP queue their waits later.
        """
        del grad  # torch hands it to every hook
        Variable._execution_engine.queue_callback(lambda: self._clock.mark("backward"))  # noqa: SLF001 (DDP and FSDP use it too; no public name)


def whole_model(model: nn.Module) -> Decoder:
    """Return the decoder itself, which DDP wraps."""
    decoder = model.module if isinstance(model, DistributedDataParallel) else model
    assert isinstance(decoder, Decoder)  # noqa: S101 (there is nothing else)
    return decoder


@contextmanager
def without_training(chunks: Sequence[Decoder]) -> Iterator[None]:
    """Have passes return the head's output of each token, keep nothing for a backward pass, and leave FSDP's shards."""
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
                # What backward would do; until then the weights of the root, or of a pipeline's stage, stay whole.
                if isinstance(module, FSDPModule):
                    module.reshard()
