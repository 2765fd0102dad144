"""One training step, top to bottom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from pytest_nemoperf.native.data import SyntheticTokens
from pytest_nemoperf.native.data_parallel import gradient_sync
from pytest_nemoperf.native.gradients import Gradients
from pytest_nemoperf.native.mesh import RankMesh
from pytest_nemoperf.native.model import Decoder
from pytest_nemoperf.native.phases import PhaseClock, StepTiming
from pytest_nemoperf.native.pipeline import Pipeline, shared_embedding
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.weights import model_weights

_LEARNING_RATE = 3e-4
_BETAS = (0.9, 0.95)
_WEIGHT_DECAY = 0.1
_MAX_NORM = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """What one step left on this rank.

    Attributes:
        timing: Wall time and phases.
        loss: Mean over the tokens this rank trained on; 0 on ranks without the last pipeline stage.
        grad_norm: Of the whole gradient before clipping.
        generation_sec: Time this rank generated responses.
        batch_fill_pct: Mean share of its decoding batch that held a sample, percent.
    """

    timing: StepTiming
    loss: float
    grad_norm: float
    generation_sec: float = 0.0
    batch_fill_pct: float = 0.0


class Trainer:
    """Runs steps of a plan on this rank.

    Args:
        plan: What to run.
        chunks: This rank's parts of the model, as parallelize returned them.
        mesh: Of the run.
        data: This rank's share of the tokens.
        clock: Of this rank's device.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        chunks: Sequence[nn.Module],
        mesh: RankMesh,
        data: SyntheticTokens,
        clock: PhaseClock,
    ) -> None:
        self._plan = plan
        self._data = data
        self._clock = clock
        parameters = _parameters(chunks)
        self._gradients = Gradients(
            parameters,
            weights={weight.name: weight for weight in model_weights(plan.model)},
            layout=plan.layout,
            mesh=mesh,
            are_averaged=mesh.pp is None,
            tied=None if mesh.pp is None else shared_embedding(_stages(chunks)),
            tied_group=mesh.ends,
        )
        self._optimizer = torch.optim.AdamW(
            _groups(parameters.values()), lr=_LEARNING_RATE, betas=_BETAS, weight_decay=_WEIGHT_DECAY, fused=True
        )
        ranks = plan.layout.dp * plan.layout.cp  # that train on different tokens
        self._has_grad_comm = ranks > 1 or self._gradients.are_partial
        num_local_tokens = plan.tokens_per_step // ranks
        self._passes: Accumulation | Pipeline
        if mesh.pp is None:
            (model,) = chunks
            self._passes = Accumulation(
                model, num_local_tokens=num_local_tokens, has_grad_comm=self._has_grad_comm, clock=clock
            )
        else:
            self._passes = Pipeline(
                plan, chunks=_stages(chunks), group=mesh.pp, num_local_tokens=num_local_tokens, clock=clock
            )

    def step(self, number: int) -> StepOutcome:
        """Run one step; ranks should enter together, as what one waits for the others is timed."""
        clock = self._clock
        clock.start()
        micro_batches = self._data.micro_batches(number)
        clock.mark("data")
        loss = self._passes.forward_backward(micro_batches)
        if self._has_grad_comm:
            self._gradients.complete()
            clock.mark("grad_comm")
        grad_norm = self._gradients.clip(_MAX_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        clock.mark("optimizer")
        if self._plan.inject_pct > 0:
            clock.delay(self._plan.inject_pct)
        timing = clock.stop()
        return StepOutcome(timing=timing, loss=loss.item(), grad_norm=grad_norm.item())


class Accumulation:
    """Takes micro-batches forward and backward through a whole model, one after the other.

    Args:
        model: As parallelize returned it.
        num_local_tokens: Tokens of a step this rank trains on; the loss is their mean.
        has_grad_comm: Gradients are communicated at the end of the last backward pass, or later.
        clock: Marks ``forward``, ``backward`` and ``grad_comm``.
    """

    def __init__(self, model: nn.Module, *, num_local_tokens: int, has_grad_comm: bool, clock: PhaseClock) -> None:
        self._model = model
        self._num_local_tokens = num_local_tokens
        self._has_grad_comm = has_grad_comm
        self._clock = clock

    def forward_backward(self, micro_batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Accumulate the gradient of the step's mean loss and return that loss, still on the device."""
        loss = torch.zeros((), device=micro_batches[0][0].device)
        for number, (tokens_BS, labels_BSN) in enumerate(micro_batches, start=1):
            with gradient_sync(self._model, is_on=number == len(micro_batches)):
                # Sums over an exact count: the mean over all tokens, however they are cut into micro-batches.
                # DDP and FSDP average over ranks, and every rank has the same count.
                micro_loss = self._model(tokens_BS, labels_BSN) / self._num_local_tokens
                self._clock.mark("forward")
                if self._has_grad_comm:
                    micro_loss.register_hook(self._mark_when_gradients_are_local)
                micro_loss.backward()
            self._clock.mark("grad_comm" if self._has_grad_comm else "backward")
            loss += micro_loss.detach()
        return loss

    def _mark_when_gradients_are_local(self, grad: Tensor) -> None:
        """Have backward's end marked between the last local gradient and the wait for their reduction.

        This is the first hook of a backward pass, so its callback is the first of those the engine runs
        after the last gradient; DDP and FSDP queue their waits later.
        """
        del grad  # torch hands it to every hook
        Variable._execution_engine.queue_callback(lambda: self._clock.mark("backward"))  # noqa: SLF001 (DDP and FSDP use it too; no public name)


def _parameters(chunks: Sequence[nn.Module]) -> dict[str, nn.Parameter]:
    """Return every parameter of this rank by the name its weight has in the whole model."""
    wholes = [chunk.module if isinstance(chunk, DistributedDataParallel) else chunk for chunk in chunks]
    return {name: parameter for whole in wholes for name, parameter in whole.named_parameters()}


def _groups(parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    """Return what the fused optimizer takes in one call each: sharded weights, and (of experts) whole ones."""
    by_kind: dict[bool, list[nn.Parameter]] = {}
    for parameter in parameters:
        by_kind.setdefault(isinstance(parameter, DTensor), []).append(parameter)
    return [{"params": group} for group in by_kind.values()]


def _stages(chunks: Sequence[nn.Module]) -> list[Decoder]:
    """Return the chunks of a pipeline, which DDP does not wrap."""
    return [chunk for chunk in chunks if isinstance(chunk, Decoder)]
