"""Trainer: one step of pre-training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from pytest_nemoperf.native.parallel.mesh import RankMesh
from pytest_nemoperf.native.parallel.passes import MicroBatch
from pytest_nemoperf.native.phases import PhaseClock, RankStep
from pytest_nemoperf.native.train.data import SyntheticTokens
from pytest_nemoperf.native.train.optimizer_step import Trained, Updater
from pytest_nemoperf.recipes.hyperparameters import LEARNING_RATE
from pytest_nemoperf.recipes.recipe import Plan


class Trainer:
    """Runs steps of a plan on this rank.

    Args:
        plan: Plan to run.
        chunks: This rank's parts of the model, from parallelize.
        mesh: Process groups of the run.
        data: This rank's share of the tokens.
        clock: Clock of this rank's device.
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
        self._updater = Updater(
            plan,
            chunks=chunks,
            mesh=mesh,
            divisor=plan.tokens_per_step // (plan.layout.dp * plan.layout.cp),  # tokens of this rank
            learning_rate=LEARNING_RATE,
            clock=clock,
        )

    @property
    def trained(self) -> tuple[Trained, ...]:
        """The model with its optimizer."""
        return (self._updater.trained,)

    def step(self, number: int) -> RankStep:
        """Run one step; ranks should enter together, as waiting for the others is timed."""
        clock = self._clock
        clock.start()
        micro_batches = [MicroBatch(*pair) for pair in self._data.micro_batches(number)]
        clock.mark("data")
        loss, grad_norm = self._updater.update(micro_batches)
        if self._plan.inject_pct > 0:
            clock.delay(self._plan.inject_pct)
        timed = clock.stop()
        return replace(timed, loss=loss.item(), grad_norm=grad_norm.item())
