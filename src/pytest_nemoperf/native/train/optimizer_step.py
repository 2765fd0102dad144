"""Optimizer step: accumulate, clip, AdamW; in pre-training and reinforcement learning alike."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.weights import model_weights
from pytest_nemoperf.native.fast_paths import CAST_WEIGHTS_ONCE, enabled_fast_paths
from pytest_nemoperf.native.model.weight_casts import WeightCasts
from pytest_nemoperf.native.parallel.gradients import Gradients
from pytest_nemoperf.native.parallel.mesh import RankMesh
from pytest_nemoperf.native.parallel.passes import GradAccumulation, MicroBatch, Passes, whole_model
from pytest_nemoperf.native.parallel.pipeline import Pipeline, shared_embedding
from pytest_nemoperf.native.phases import PhaseClock
from pytest_nemoperf.recipes.hyperparameters import BETAS, EPS, MAX_GRAD_NORM, WEIGHT_DECAY
from pytest_nemoperf.recipes.recipe import Plan, Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained model on this rank with its optimizer, for checkpoints.

    Attributes:
        model: Architecture.
        chunks: This rank's parts of it.
        optimizer: Their optimizer.
        mesh: Process groups of the run.
    """

    model: ModelConfig
    chunks: Sequence[nn.Module]
    optimizer: torch.optim.Optimizer
    mesh: RankMesh


class Updater:
    """Optimizer of this rank's weights: gradients over all micro-batches, clipping, AdamW.

    Args:
        plan: Layout and batch.
        chunks: This rank's parts of the model, from parallelize.
        mesh: Process groups of the run.
        divisor: Divisor of this rank's sum of the objective; the quotients are averaged over the ranks that train on
            different tokens.
        learning_rate: Learning rate of AdamW.
        clock: Marks ``forward``, ``backward``, ``grad_comm``, ``pipeline_wait`` and ``optimizer``.

    Attributes:
        trained: The model with its optimizer.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        chunks: Sequence[nn.Module],
        mesh: RankMesh,
        divisor: float,
        learning_rate: float,
        clock: PhaseClock,
    ) -> None:
        self._clock = clock
        parameters = named_parameters(chunks)
        tied = None
        if mesh.pp is not None:
            tied = shared_embedding(list(map(whole_model, chunks)))
        self._gradients = Gradients(
            parameters,
            weights={weight.name: weight for weight in model_weights(plan.model)},
            layout=plan.layout,
            mesh=mesh,
            are_averaged=mesh.pp is None,
            tied=tied,
            tied_group=mesh.ends,
        )
        self._optimizer = torch.optim.AdamW(
            _groups(parameters.values()), lr=learning_rate, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY, fused=True
        )
        self.trained = Trained(model=plan.model, chunks=chunks, optimizer=self._optimizer, mesh=mesh)
        self._casts = _weight_casts(plan, chunks=chunks, mesh=mesh)
        self._has_grad_comm = plan.layout.dp * plan.layout.cp > 1 or self._gradients.are_partial
        self._passes = make_passes(
            plan, chunks=chunks, mesh=mesh, divisor=divisor, has_grad_comm=self._has_grad_comm, clock=clock
        )

    @property
    def passes(self) -> Passes:
        """Forward and backward passes of micro-batches through this rank's parts of the model."""
        return self._passes

    def update(self, micro_batches: Sequence[MicroBatch]) -> tuple[Tensor, Tensor]:
        """Take one step of the optimizer.

        Returns:
            This rank's sum of the objective over the divisor, 0 without the head; and the norm of the whole gradient
            before clipping. Both stay on the device.
        """
        loss = self._passes.forward_backward(micro_batches)
        if self._has_grad_comm:
            self._gradients.reduce()
            self._clock.mark("grad_comm")
        grad_norm = self._gradients.clip(MAX_GRAD_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._casts is not None:
            self._casts.renew()
        self._clock.mark("optimizer")
        return loss, grad_norm


def _weight_casts(plan: Plan, *, chunks: Sequence[nn.Module], mesh: RankMesh) -> WeightCasts | None:
    """Return copies of the matrices in the compute dtype; None unless switched on, or if the plan has no use for them.

    FSDP makes its own, torch.compile would guard each of them, and a zero-bubble pipeline follows gradients by itself.
    """
    has_use = mesh.pp is None and mesh.shards is None and not plan.is_compiled and plan.precision is Precision.BF16
    if CAST_WEIGHTS_ONCE not in enabled_fast_paths(os.environ) or not has_use:
        return None
    (chunk,) = chunks
    return WeightCasts(whole_model(chunk))


def make_passes(
    plan: Plan,
    *,
    chunks: Sequence[nn.Module],
    mesh: RankMesh,
    clock: PhaseClock,
    divisor: float = 1.0,
    has_grad_comm: bool = False,
) -> Passes:
    """Build the passes of micro-batches through a rank's parts of the model.

    Arguments as in GradAccumulation and Pipeline.
    """
    if mesh.pp is None:
        (model,) = chunks
        return GradAccumulation(model, divisor=divisor, has_grad_comm=has_grad_comm, clock=clock)
    stages = list(map(whole_model, chunks))
    return Pipeline(plan, chunks=stages, group=mesh.pp, divisor=divisor, clock=clock)


def named_parameters(chunks: Sequence[nn.Module]) -> dict[str, nn.Parameter]:
    """Return every parameter of this rank by the name of its weight in the whole model."""
    parameters: dict[str, nn.Parameter] = {}
    for chunk in chunks:
        parameters.update(whole_model(chunk).named_parameters())
    return parameters


def _groups(parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    """Return parameter groups of one kind each, as the fused optimizer needs: sharded, and whole (of experts)."""
    by_kind: dict[bool, list[nn.Parameter]] = {}
    for parameter in parameters:
        by_kind.setdefault(isinstance(parameter, DTensor), []).append(parameter)
    return [{"params": group} for group in by_kind.values()]
