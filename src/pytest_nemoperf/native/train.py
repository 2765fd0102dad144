"""One training step, top to bottom."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.nn.parallel import DistributedDataParallel

from pytest_nemoperf.native.data import SyntheticTokens
from pytest_nemoperf.native.data_parallel import gradient_sync
from pytest_nemoperf.native.gradients import Gradients
from pytest_nemoperf.native.mesh import RankMesh
from pytest_nemoperf.native.phases import PhaseClock, StepTiming
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
        loss: Mean over the tokens this rank trained on.
        grad_norm: Of the whole gradient before clipping.
    """

    timing: StepTiming
    loss: float
    grad_norm: float


class Trainer:
    """Runs steps of a plan on this rank.

    Args:
        plan: What to run.
        model: As parallelize returned it.
        mesh: Of the run.
        data: This rank's share of the tokens.
        clock: Of this rank's device.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        model: nn.Module,
        mesh: RankMesh,
        data: SyntheticTokens,
        clock: PhaseClock,
    ) -> None:
        self._plan = plan
        self._model = model
        self._data = data
        self._clock = clock
        whole = model.module if isinstance(model, DistributedDataParallel) else model
        self._gradients = Gradients(
            dict(whole.named_parameters()),
            weights={weight.name: weight for weight in model_weights(plan.model)},
            layout=plan.layout,
            mesh=mesh,
        )
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=_LEARNING_RATE, betas=_BETAS, weight_decay=_WEIGHT_DECAY, fused=True
        )
        ranks = plan.layout.dp * plan.layout.cp  # that train on different tokens
        self._has_grad_comm = ranks > 1 or self._gradients.are_partial
        self._num_local_tokens = plan.tokens_per_step // ranks

    def step(self, number: int) -> StepOutcome:
        """Run one step; ranks should enter together, as what one waits for the others is timed."""
        clock = self._clock
        clock.start()
        micro_batches = self._data.micro_batches(number)
        clock.mark("data")
        loss = self._forward_backward(micro_batches)
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

    def _forward_backward(self, micro_batches: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Accumulate the gradient of the step's mean loss and return that loss, still on the device."""
        loss = torch.zeros((), device=micro_batches[0][0].device)
        for number, (tokens_BS, labels_BS) in enumerate(micro_batches, start=1):
            with gradient_sync(self._model, is_on=number == len(micro_batches)):
                # Sums over an exact count: the mean over all tokens, however they are cut into micro-batches.
                # DDP and FSDP average over ranks, and every rank has the same count.
                micro_loss = self._model(tokens_BS, labels_BS) / self._num_local_tokens
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
