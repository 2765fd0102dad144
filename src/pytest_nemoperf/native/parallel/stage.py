"""Pipeline stage: the passes of micro-batches through one model chunk."""

# T tokens of a micro-batch (between blocks this rank's under sequence parallelism), D hidden

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.native.parallel.data_parallel import take_up_gradients
from pytest_nemoperf.native.parallel.passes import MicroBatch
from pytest_nemoperf.native.parallel.split_backward import SplitBackward, WeightPass
from pytest_nemoperf.native.phases import PhaseClock


class Stage:
    """Model chunk with the activations of its micro-batches in flight.

    Args:
        chunk: Model chunk, ready to train.
        divisor: Divisor of the summed objective.
        split: Products of a chunk whose backward passes run in two halves; None for whole passes.
        clock: Marks ``forward``, ``backward``, ``grad_comm``, and ``pipeline_wait``, the time before each.
    """

    def __init__(self, chunk: Decoder, *, divisor: float, split: SplitBackward | None, clock: PhaseClock) -> None:
        self._chunk = chunk
        self._divisor = divisor
        self._split = split
        self._clock = clock
        self._inputs: dict[int, Tensor] = {}
        self._outputs: dict[int, Tensor] = {}
        self._weight_passes: dict[int, WeightPass] = {}
        self._num_to_reduce = 0

    def begin(self, *, num_micro_batches: int, is_training: bool) -> None:
        """Prepare for the passes of so many micro-batches."""
        self._num_to_reduce = num_micro_batches
        if is_training and isinstance(self._chunk, FSDPModule):
            _set_last_backward(self._chunk, is_last=False)

    def forward(self, number: int, micro_batch: MicroBatch, message_TD: Tensor | None) -> Tensor:
        """Run the forward pass of a micro-batch, and keep its input and output if gradients are on.

        Args:
            number: Number of the micro-batch.
            micro_batch: Its rows.
            message_TD: Output of the stage before; None on the first stage.

        Returns:
            The residual stream (T, D); on the last stage the objective over the divisor, or the output of a
            forward-only pass.
        """
        chunk = self._chunk
        is_training = torch.is_grad_enabled()
        if micro_batch.tables is not None:
            chunk.tables = micro_batch.tables
        x = micro_batch.tokens_BS if message_TD is None else message_TD.requires_grad_(is_training)
        with self._marking("forward"):
            out: Tensor = chunk(x, labels_BSN=micro_batch.labels_BSN, terms_BSK=micro_batch.terms_BSK)
            if is_training and chunk.is_last:
                out = out / self._divisor
        if is_training:
            self._inputs[number] = x
            self._outputs[number] = out
        return out.detach()

    def backward(self, number: int, gradient_TD: Tensor | None) -> Tensor | None:
        """Run the backward pass of a micro-batch, or its first half.

        Args:
            number: Number of the micro-batch.
            gradient_TD: Gradient of the stage's output; None on the last stage.

        Returns:
            Gradient of the stage's input (T, D); None on the first stage.
        """
        x = self._inputs.pop(number)
        with self._marking("backward"):
            torch.autograd.backward(self._outputs.pop(number), gradient_TD)
            if self._split is not None:
                self._weight_passes[number] = self._split.take()
        if self._split is None:
            self._count_for_reduction()
        return x.grad

    def backward_weight(self, number: int) -> None:
        """Run the second half of a backward pass, which adds the gradients of matrices to the weights."""
        with self._marking("backward"):
            self._weight_passes.pop(number)()
            if isinstance(self._chunk, FSDPModule):
                # Before the next half adds to them in the dtype of the matrix products.
                take_up_gradients(self._chunk)
        self._count_for_reduction()

    def _count_for_reduction(self) -> None:
        """Reduce gradients over FSDP's shards after the last micro-batch."""
        self._num_to_reduce -= 1
        if self._num_to_reduce == 0 and isinstance(self._chunk, FSDPModule):
            with self._marking("grad_comm"):
                _set_last_backward(self._chunk, is_last=True)
                take_up_gradients(self._chunk)

    @contextmanager
    def _marking(self, phase: str) -> Iterator[None]:
        self._clock.mark("pipeline_wait")
        yield
        self._clock.mark(phase)


def _set_last_backward(chunk: FSDPModule, *, is_last: bool) -> None:
    """Keep weights gathered and gradients local until the end of the last backward pass, which reduces them."""
    chunk.set_is_last_backward(is_last)
    chunk.set_reshard_after_backward(is_last)
    chunk.set_requires_gradient_sync(is_last)
