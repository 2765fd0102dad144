"""Samples of one step: generation by this rank's replica, rewards, and gathering from all replicas."""

# N samples of a step

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pytest_nemoperf.native.parallel.mesh import GenerationMesh
from pytest_nemoperf.native.phases import PhaseClock
from pytest_nemoperf.native.rl.generate.rollout_transfer import RolloutBatch, RolloutTransfer
from pytest_nemoperf.native.rl.generate.rollouts import GenerationResult, Generator, Request
from pytest_nemoperf.native.rl.generate.tasks import PromptTask, make_task, reward_of
from pytest_nemoperf.native.rl.learn.advantages import prompts_with_spread
from pytest_nemoperf.native.seeds import derived_seed
from pytest_nemoperf.recipes.recipe import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedRollouts:
    """Rollouts of a step and figures of their generation on one rank.

    Attributes:
        rollouts: All samples of the step, complete.
        generation_sec: Time this rank generated.
        num_generated_tokens: Tokens its replica generated, in all rounds.
        num_slot_passes: Sum over all rounds of the replica's GenerationResult.num_slot_passes.
    """

    rollouts: RolloutBatch
    generation_sec: float
    num_generated_tokens: int
    num_slot_passes: int


class Collector:
    """Collects samples on one generating rank.

    Args:
        plan: Prompts, rounds and batch.
        generator: Generator of this rank.
        mesh: Process groups of its replica.
        transfer: Gathers the samples of all replicas.
        device: Device of this rank.
        clock: Marks ``generation`` and ``reward``.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        generator: Generator,
        mesh: GenerationMesh,
        transfer: RolloutTransfer,
        device: torch.device,
        clock: PhaseClock,
    ) -> None:
        assert plan.rl is not None and plan.layout.generation is not None  # noqa: S101, PT018 (resolve filled both)
        self.plan = plan
        self._rl = plan.rl
        self._num_replicas = plan.layout.generation.dp
        self.generator = generator
        self.mesh = mesh
        self.clock = clock
        self.device = device
        self._transfer = transfer

    def collect(self, step: int, *, version: Tensor) -> CollectedRollouts:
        """Generate and score the samples of a step; every generating rank calls it.

        Dynamic sampling replaces prompts with equal rewards by others of the same length in a next round; after the
        last round they stay.

        Args:
            step: Number.
            version: Version of the weights that generate, as RolloutBatch.put takes it.

        Raises:
            GenerationError: As Generator.generate.
        """
        rl = self._rl
        algorithm = rl.algorithm_config
        rollouts = RolloutBatch.empty(rl, device=self.device)
        missing = list(range(rl.num_prompts_per_step))
        generation_sec = 0.0
        num_generated_tokens = 0
        num_slot_passes = 0
        for number in range(algorithm.max_rounds if algorithm.has_dynamic_sampling else 1):
            part = RolloutBatch.empty(rl, device=self.device)
            mine = missing[self.mesh.number :: self._num_replicas]
            generated, seconds = self._generate(mine, step=step, round_number=number, version=version, rollouts=part)
            generation_sec += seconds
            num_generated_tokens += generated.num_tokens
            num_slot_passes += generated.num_slot_passes
            self._transfer.gather(part)
            rows = _rows_of(missing, rl.num_generations_per_prompt, device=self.device)
            rollouts.ints_NC[rows] = part.ints_NC[rows]
            rollouts.floats_NC[rows] = part.floats_NC[rows]
            self.clock.mark("generation")  # a replica waits for the slowest one
            if not algorithm.has_dynamic_sampling:
                break
            has_spread = prompts_with_spread(rollouts.rewards_N, group_size=rl.num_generations_per_prompt).tolist()
            missing = [prompt for prompt in missing if not has_spread[prompt]]
            if not missing:
                break
        return CollectedRollouts(
            rollouts=rollouts,
            generation_sec=generation_sec,
            num_generated_tokens=num_generated_tokens,
            num_slot_passes=num_slot_passes,
        )

    def _generate(
        self, prompts: Sequence[int], *, step: int, round_number: int, version: Tensor, rollouts: RolloutBatch
    ) -> tuple[GenerationResult, float]:
        """Put this replica's responses to some prompts into the rollouts.

        Returns:
            The responses, and the seconds their generation took.
        """
        rl = self._rl
        seed = self.plan.seed
        tasks = {}
        requests = []
        for prompt in prompts:
            tasks[prompt] = make_task(rl, seed=seed, step=step, round_number=round_number, prompt=prompt)
            requests += self._requests(prompt, task=tasks[prompt])
        self.clock.synchronize()  # weights still on their way are no part of the time of generation
        start = time.perf_counter()
        draw_seed = derived_seed(seed, purpose=f"samples of step {step} round {round_number}")
        generated = self.generator.generate(requests, seed=draw_seed)
        seconds = time.perf_counter() - start
        self.clock.mark("generation")
        if self.mesh.replica is None or self.mesh.replica.rank() == 0:  # one rank of a replica fills its rows
            rewards = {}
            for response in generated.responses:
                task = tasks[response.sample // rl.num_generations_per_prompt]
                rewards[response.sample] = reward_of(response.tokens, task=task)
            rollouts.put(generated.responses, rewards=rewards, round_number=round_number, version=version)
        self.clock.mark("reward")
        return generated, seconds

    def _requests(self, prompt: int, *, task: PromptTask) -> list[Request]:
        """Return a request for each sample of a prompt."""
        rl = self._rl
        first = prompt * rl.num_generations_per_prompt
        requests = []
        for sample in range(first, first + rl.num_generations_per_prompt):
            max_len = rl.response_limit(sample)
            requests.append(
                Request(sample=sample, prompt=task.prompt, max_len=max_len, is_pinned=rl.has_pinned_lengths)
            )
        return requests


def _rows_of(prompts: Sequence[int], group_size: int, *, device: torch.device) -> Tensor:
    """Return the rows of the samples of these prompts."""
    firsts = torch.tensor(prompts, device=device)[:, None] * group_size
    return (firsts + torch.arange(group_size, device=device)).flatten()
