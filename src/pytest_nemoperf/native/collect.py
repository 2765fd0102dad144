"""The samples of one step: prompts are answered by this rank's replica, answers are scored, and all are gathered."""

# N samples of a step

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pytest_nemoperf.native.advantages import prompts_with_spread
from pytest_nemoperf.native.handover import RolloutBatch, RolloutTransfer
from pytest_nemoperf.native.mesh import GenerationMesh
from pytest_nemoperf.native.phases import PhaseClock
from pytest_nemoperf.native.rollouts import Generated, Generator, Request
from pytest_nemoperf.native.seeds import derived_seed
from pytest_nemoperf.native.tasks import PromptTask, make_task, reward_of
from pytest_nemoperf.recipe import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedRollouts:
    """What a generating rank did in a step.

    Attributes:
        rollouts: All samples of the step, complete.
        generation_sec: Time this rank generated.
        num_generated_tokens: Tokens its replica generated, in all rounds.
        num_slot_passes: Of its replica in all rounds, as Generated has them.
    """

    rollouts: RolloutBatch
    generation_sec: float
    num_generated_tokens: int
    num_slot_passes: int


class Collector:
    """Collects samples on one generating rank.

    Args:
        plan: What to generate.
        generator: Of this rank.
        mesh: Which replica it belongs to.
        transfer: Gathers.
        device: Of this rank.
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
        self.plan, self._rl = plan, plan.rl
        self._num_replicas = plan.layout.generation.dp
        self.generator, self.mesh, self.clock = generator, mesh, clock
        self._transfer, self.device = transfer, device

    def collect(self, step: int, *, version: Tensor) -> CollectedRollouts:
        """Generate and score the samples of a step; every generating rank calls it.

        With dynamic sampling, prompts whose responses all have the same reward are replaced by others of the same
        length in a next round; after the last one they stay.

        Args:
            step: Number.
            version: Of the weights that generate, as Parcel.put takes it.

        Raises:
            GenerationError: As Generator.generate.
        """
        rl, algorithm = self._rl, self._rl.algorithm_config
        rollouts = RolloutBatch.empty(rl, device=self.device)
        missing = list(range(rl.num_prompts_per_step))
        rounds = []
        for number in range(algorithm.max_rounds if algorithm.has_dynamic_sampling else 1):
            part = RolloutBatch.empty(rl, device=self.device)
            mine = missing[self.mesh.number :: self._num_replicas]
            rounds.append(self._answer(mine, step=step, round_number=number, version=version, rollouts=part))
            self._transfer.gather(part)
            rows = _rows_of(missing, rl.num_generations_per_prompt, device=self.device)
            rollouts.ints_NC[rows], rollouts.floats_NC[rows] = part.ints_NC[rows], part.floats_NC[rows]
            self.clock.mark("generation")  # a replica waits for the slowest one
            if not algorithm.has_dynamic_sampling:
                break
            has_spread = prompts_with_spread(rollouts.rewards_N, group_size=rl.num_generations_per_prompt).tolist()
            missing = [prompt for prompt in missing if not has_spread[prompt]]
            if not missing:
                break
        return CollectedRollouts(
            rollouts=rollouts,
            generation_sec=sum(seconds for _, seconds in rounds),
            num_generated_tokens=sum(generated.num_tokens for generated, _ in rounds),
            num_slot_passes=sum(generated.num_slot_passes for generated, _ in rounds),
        )

    def _answer(
        self, prompts: Sequence[int], *, step: int, round_number: int, version: Tensor, rollouts: RolloutBatch
    ) -> tuple[Generated, float]:
        """Put this replica's answers into the rollouts; return what was generated and how long that took."""
        rl, seed = self._rl, self.plan.seed
        tasks = {
            prompt: make_task(rl, seed=seed, step=step, round_number=round_number, prompt=prompt) for prompt in prompts
        }
        requests = self._requests(tasks)
        self.clock.synchronize()  # weights still on their way are no part of the time of generation
        start = time.perf_counter()
        draw_seed = derived_seed(seed, purpose=f"samples of step {step} round {round_number}")
        generated = self.generator.generate(requests, seed=draw_seed)
        seconds = time.perf_counter() - start
        self.clock.mark("generation")
        if self.mesh.replica is None or self.mesh.replica.rank() == 0:  # one rank of a replica fills its rows
            rewards = {
                response.sample: reward_of(
                    response.tokens, task=tasks[response.sample // rl.num_generations_per_prompt]
                )
                for response in generated.responses
            }
            rollouts.put(generated.responses, rewards=rewards, round_number=round_number, version=version)
        self.clock.mark("reward")
        return generated, seconds

    def _requests(self, tasks: dict[int, PromptTask]) -> list[Request]:
        rl = self._rl
        group = rl.num_generations_per_prompt
        return [
            Request(
                sample=sample,
                prompt=task.prompt,
                max_len=rl.response_limit(sample),
                is_pinned=rl.has_pinned_lengths,
            )
            for prompt, task in tasks.items()
            for sample in range(prompt * group, (prompt + 1) * group)
        ]


def _rows_of(prompts: Sequence[int], group_size: int, *, device: torch.device) -> Tensor:
    firsts = torch.tensor(prompts, device=device)[:, None] * group_size
    return (firsts + torch.arange(group_size, device=device)).flatten()
