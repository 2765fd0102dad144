"""A model of reinforcement learning on the training ranks: its outputs for samples, and its updates."""

# N samples of a step, S tokens of the longest, T tokens of a micro-batch, K terms of the objective per token

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from pytest_nemoperf.native.model.rope import position_tables
from pytest_nemoperf.native.model.transformer import LossHead, Objective
from pytest_nemoperf.native.parallel.mesh import RankMesh, data_parallel_rank
from pytest_nemoperf.native.parallel.parallelize import parallelize
from pytest_nemoperf.native.parallel.passes import whole_model
from pytest_nemoperf.native.phases import phase_clock
from pytest_nemoperf.native.rl.generate.rollouts import StepSamples
from pytest_nemoperf.native.rl.learn.batches import Batches, micro_batches
from pytest_nemoperf.native.rl.learn.objective import policy_objective, value_objective
from pytest_nemoperf.native.train.optimizer_step import Trained, Updater, make_passes, named_parameters
from pytest_nemoperf.recipes.recipe import Plan


class TrainModel:
    """Policy, reference, or value model in the training layout, on one rank.

    Every training rank makes the same calls with the same samples. Weights, gradient buckets (of DDP) and optimizer
    state stay on the device between calls; gradients do not.

    Args:
        plan: Model, layout, batch and algorithm.
        mesh: Process groups of the ranks that train.
        device: Device of this rank.
        is_trainable: False for a reference, which keeps its first weights.
        objective: Function of outputs (T,) and terms (T, K), to a scalar: a sum weighted so that it is a mean over the
            whole update. None for the algorithm's.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        mesh: RankMesh,
        device: torch.device,
        is_trainable: bool = True,
        objective: Objective | None = None,
    ) -> None:
        assert plan.rl is not None  # noqa: S101 (the caller checked it)
        if objective is None:
            function = value_objective if plan.model.has_value_head else policy_objective
            objective = partial(function, algorithm=plan.rl.algorithm_config)
        self._mesh = mesh
        chunks = parallelize(plan, mesh=mesh, device=device, is_trained=is_trainable)
        for chunk in map(whole_model, chunks):
            chunk.objective = objective
            if isinstance(chunk.head, LossHead):
                chunk.head.temperature = plan.rl.temperature
        self._weights = named_parameters(chunks)
        self._num_averaged = plan.layout.dp * plan.layout.cp
        positions_S = torch.arange(plan.seq_len, device="cpu")
        dtype = whole_model(chunks[0]).dtype
        tables = position_tables(plan.model, index_S=positions_S, dtype=dtype, device=device)
        dp_rank = 0
        if mesh.world is not None:
            dp_rank = data_parallel_rank(mesh.world.rank(), layout=plan.layout)
        self._batches = Batches(plan, mesh=mesh, dp_rank=dp_rank, tables=tables, device=device)
        clock = phase_clock(device, is_recording=False)
        self._updater: Updater | None = None
        if is_trainable:
            self._updater = Updater(
                plan,
                chunks=chunks,
                mesh=mesh,
                divisor=1 / self._num_averaged,
                learning_rate=plan.rl.learning_rate,
                clock=clock,
            )
            self._passes = self._updater.passes
        else:
            self._passes = make_passes(plan, chunks=chunks, mesh=mesh, clock=clock)

    @property
    def trained(self) -> tuple[Trained, ...]:
        """The model with its optimizer; empty for a reference, which has none."""
        return () if self._updater is None else (self._updater.trained,)

    def named_weights(self) -> dict[str, Tensor]:
        """Return this rank's weights by their names in the whole model; DTensors under FSDP."""
        return dict(self._weights)

    def logprobs(self, samples: StepSamples) -> Tensor:
        """Return the log-probability of each response token, the same on every rank.

        Returns:
            logprobs_NS, float32, under the softmax of the logits over the temperature; zeros elsewhere.
        """
        return self._outputs(samples)

    def values(self, samples: StepSamples) -> Tensor:
        """Return the value before each response token, the same on every rank; of a value model.

        Returns:
            values_NS, float32; zeros elsewhere.
        """
        return self._outputs(samples)

    def _outputs(self, samples: StepSamples) -> Tensor:
        """Return the head's output for each response token (N, S), the same on every rank; zeros elsewhere."""
        cuts = self._batches.cut(samples, numbers=range(len(samples.lens_N)), is_training=False)
        cut_outputs = self._passes.forward(micro_batches(cuts, samples=samples))
        num_tokens = samples.tokens_NS.numel()
        outputs = torch.zeros(num_tokens + 1, device=samples.tokens_NS.device)
        if self._is_counted:
            for cut, output_T in zip(cuts, cut_outputs, strict=bool(cut_outputs)):
                outputs[cut.target_BL.flatten()] = output_T.float()
        outputs_NS = outputs[:num_tokens].view_as(samples.tokens_NS)
        if self._mesh.world is not None:
            dist.all_reduce(outputs_NS, group=self._mesh.world)  # each output is on one rank, zero on the others
        return torch.where(samples.response_mask_NS(), outputs_NS, 0)

    def update(self, samples: StepSamples, *, numbers: Sequence[int], terms_NSK: Tensor) -> tuple[Tensor, Tensor]:
        """Take one step of the optimizer.

        Args:
            samples: Samples of the step.
            numbers: Indices of the samples to train on, in any order.
            terms_NSK: Terms of the objective.

        Returns:
            The objective over all ranks and the norm of the whole gradient before clipping, on the device; the same on
            every rank.
        """
        assert self._updater is not None  # noqa: S101 (a reference is not updated)
        cuts = self._batches.cut(samples, numbers=numbers, is_training=True)
        loss, grad_norm = self._updater.update(micro_batches(cuts, samples=samples, terms_NSK=terms_NSK))
        loss = loss / self._num_averaged if self._is_counted else torch.zeros_like(loss)
        if self._mesh.world is not None:
            dist.all_reduce(loss, group=self._mesh.world)
        return loss, grad_norm

    @property
    def _is_counted(self) -> bool:
        """Whether this rank's outputs are counted; all ranks of a tensor parallel group have the same."""
        return self._mesh.tp is None or self._mesh.tp.rank() == 0
