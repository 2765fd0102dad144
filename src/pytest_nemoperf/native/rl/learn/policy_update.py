"""Training on the samples of a step: log-probabilities, advantages, optimizer updates."""

# N samples of a step, S tokens of the longest, K terms of the objective per token

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pytest_nemoperf.models.architecture import value_model
from pytest_nemoperf.native.parallel.mesh import RankMesh
from pytest_nemoperf.native.phases import PhaseClock
from pytest_nemoperf.native.rl.generate.rollouts import StepSamples
from pytest_nemoperf.native.rl.learn.advantages import gae, group_advantages, shaped_rewards
from pytest_nemoperf.native.rl.learn.objective import policy_terms, value_terms
from pytest_nemoperf.native.rl.learn.train_model import TrainModel
from pytest_nemoperf.native.train.optimizer_step import Trained
from pytest_nemoperf.recipes.recipe import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStats:
    """Results of one training step.

    Attributes:
        loss: Loss of the last update, the value model's added.
        grad_norm: Gradient norm of the last update before clipping, over both models.
        logprobs_NS: Log-probabilities of the policy, before the first update.
        reference_logprobs_NS: Log-probabilities of the reference; None without one.
    """

    loss: Tensor
    grad_norm: Tensor
    logprobs_NS: Tensor
    reference_logprobs_NS: Tensor | None


class PolicyUpdate:
    """Training of the policy, and of the value model if the algorithm has one, on one rank.

    Args:
        plan: Models, layout and algorithm.
        mesh: Process groups of the ranks that train.
        device: Device of this rank.
        clock: Marks ``policy_logprobs``, ``reference_logprobs``, ``values``, ``advantage`` and ``training``.

    Attributes:
        policy: The trained model.
        version: Version of its weights: the number of steps they have been trained for.
    """

    def __init__(self, plan: Plan, *, mesh: RankMesh, device: torch.device, clock: PhaseClock) -> None:
        assert plan.rl is not None  # noqa: S101 (the caller checked it)
        self._plan = plan
        self._rl = plan.rl
        self._clock = clock
        algorithm = self._rl.algorithm_config
        self.version = 0
        self.policy = TrainModel(plan, mesh=mesh, device=device)
        self._reference = None
        if algorithm.has_reference:
            self._reference = TrainModel(plan, mesh=mesh, device=device, is_trainable=False)
        self._critic = None
        if algorithm.has_value_model:
            self._critic = TrainModel(replace(plan, model=value_model(plan.model)), mesh=mesh, device=device)

    @property
    def trained(self) -> tuple[Trained, ...]:
        """Policy and value model with their optimizers."""
        return self.policy.trained + (() if self._critic is None else self._critic.trained)

    def learn(self, samples: StepSamples) -> UpdateStats:
        """Train on the samples of a step, T-GBS of them an update."""
        algorithm = self._rl.algorithm_config
        clock = self._clock
        logprobs_NS = self.policy.logprobs(samples)
        clock.mark("policy_logprobs")
        reference_NS = None
        if self._reference is not None:
            reference_NS = self._reference.logprobs(samples)
            clock.mark("reference_logprobs")
        rewards_N = shaped_rewards(samples, rl=self._rl)
        if self._critic is None:
            values_NS = returns_NS = None
            advantages = group_advantages(rewards_N, group_size=samples.group_size, algorithm=algorithm)
        else:
            values_NS = self._critic.values(samples)
            clock.mark("values")
            advantages, returns_NS = gae(samples, rewards_N=rewards_N, values_NS=values_NS, algorithm=algorithm)
        clock.mark("advantage")
        for numbers in self._batches():
            # Terms of one update at a time: of all samples they would be several times as large as the samples.
            terms_NSK = policy_terms(
                samples,
                numbers=numbers,
                advantages=advantages,
                old_logprobs_NS=logprobs_NS,
                reference_logprobs_NS=reference_NS,
                algorithm=algorithm,
            )
            clock.mark("advantage")
            loss, grad_norm = self.policy.update(samples, numbers=numbers, terms_NSK=terms_NSK)
            if self._critic is not None and values_NS is not None and returns_NS is not None:
                terms_NSK = value_terms(
                    samples, numbers=numbers, old_values_NS=values_NS, returns_NS=returns_NS, algorithm=algorithm
                )
                critic_loss, critic_norm = self._critic.update(samples, numbers=numbers, terms_NSK=terms_NSK)
                loss = loss + critic_loss
                grad_norm = torch.hypot(grad_norm, critic_norm)
            clock.mark("training")
        self.version += 1
        return UpdateStats(loss=loss, grad_norm=grad_norm, logprobs_NS=logprobs_NS, reference_logprobs_NS=reference_NS)

    def _batches(self) -> Iterator[range]:
        """Yield the numbers of the samples of each update; groups stay whole and in order."""
        size = self._plan.global_batch_size
        for first in range(0, self._rl.num_samples, size):
            yield range(first, first + size)
