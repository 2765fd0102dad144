"""How the samples of a step get from the ranks that generated them to all ranks that train.

Replicas add up their parts among themselves: everyone fills its own rows of tensors whose shape the plan knows, so no
sizes have to be agreed on. Where training has ranks of its own, the first generating rank then sends the whole to them,
and goes on: it may be batches ahead.
"""

# N samples of a step, R tokens of the longest response there may be, C columns

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from pytest_nemoperf.native.rollouts import Response, StepSamples
from pytest_nemoperf.native.tasks import make_task
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.rl import RL

_INT_COLUMNS = 4  # behind the tokens: length, is_truncated, round, version
_FLOAT_COLUMNS = 1  # behind the log-probabilities: reward


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutBatch:
    """Responses to all prompts of a step; rows of samples that are not here yet are zeros.

    Attributes:
        ints_NC: Tokens (R), then length, whether it was truncated, the round it comes from, and the version of the
            weights it was generated with: the number of steps they had been trained for.
        floats_NC: Log-probabilities (R), then the reward.
    """

    ints_NC: Tensor
    floats_NC: Tensor

    @classmethod
    def empty(cls, rl: RL, *, device: torch.device) -> RolloutBatch:
        """Return one without any sample."""
        rows, width = rl.num_samples, rl.max_response_len
        return cls(
            ints_NC=torch.zeros(rows, width + _INT_COLUMNS, dtype=torch.int32, device=device),
            floats_NC=torch.zeros(rows, width + _FLOAT_COLUMNS, device=device),
        )

    @property
    def rewards_N(self) -> Tensor:
        """Rewards, on the device."""
        return self.floats_NC[:, -1]

    @property
    def rounds_N(self) -> Tensor:
        """Round each sample was generated in, counted from 0."""
        return self.ints_NC[:, -2]

    @property
    def versions_N(self) -> Tensor:
        """Version of the weights each sample was generated with."""
        return self.ints_NC[:, -1]

    def tokens_digest(self) -> str:
        """Return a hash of all tokens and lengths; waits for the device, so it belongs behind the step."""
        width = self.ints_NC.shape[1] - _INT_COLUMNS
        tokens_NC = self.ints_NC[:, : width + 1].contiguous().cpu()
        return hashlib.blake2b(tokens_NC.numpy().tobytes(), digest_size=8).hexdigest()

    def put(
        self, responses: Sequence[Response], *, rewards: Mapping[int, float], round_number: int, version: Tensor
    ) -> None:
        """Fill the rows of these responses.

        Args:
            responses: Of this rank.
            rewards: By sample.
            round_number: They come from.
            version: Of the weights, one number in int32; it may be on the device.
        """
        width = self.ints_NC.shape[1] - _INT_COLUMNS
        ints, floats = [], []
        for response in responses:
            padding = [0] * (width - len(response.tokens))
            facts = [len(response.tokens), int(response.is_truncated), round_number, 0]
            ints.append([*response.tokens, *padding, *facts])
            floats.append([*response.logprobs, *padding, rewards[response.sample]])
        if responses:
            rows = torch.tensor([response.sample for response in responses], device=self.ints_NC.device)
            self.ints_NC[rows] = torch.tensor(ints, dtype=torch.int32, device=rows.device)
            self.ints_NC[rows, -1] = version
            self.floats_NC[rows] = torch.tensor(floats, device=rows.device)


class RolloutTransfer:
    """Gathers and sends rollouts.

    Args:
        plan: Sizes of a step.
        generating: The ranks that generate; None for one.
        link: All ranks of the run, for nothing but this; None where the ranks that generate are those that train.
        device: Of this rank.
    """

    def __init__(
        self, plan: Plan, *, generating: ProcessGroup | None, link: ProcessGroup | None, device: torch.device
    ) -> None:
        assert plan.rl is not None  # noqa: S101 (the caller looked)
        self._plan, self._rl = plan, plan.rl
        self._generating, self._link = generating, link
        self._device = device
        self._sender = plan.layout.gpus  # the first rank that only generates
        self._on_the_way: deque[tuple[RolloutBatch, list[dist.Work]]] = deque()

    def gather(self, rollouts: RolloutBatch) -> None:
        """Complete a rollouts on every generating rank; each row may be filled on one of them only."""
        if self._generating is not None:
            dist.all_reduce(rollouts.ints_NC, group=self._generating)
            dist.all_reduce(rollouts.floats_NC, group=self._generating)

    def send(self, rollouts: RolloutBatch) -> None:
        """Have the training ranks get a complete rollouts; returns at once unless very many are on their way."""
        if len(self._on_the_way) > self._rl.max_staleness:
            _wait(self._on_the_way.popleft()[1])
        works = [dist.broadcast(x, self._sender, group=self._link, async_op=True) for x in _tensors(rollouts)]
        self._on_the_way.append((rollouts, [work for work in works if work is not None]))

    def finish(self) -> None:
        """Wait until all that was sent has arrived."""
        while self._on_the_way:
            _wait(self._on_the_way.popleft()[1])

    def receive(self) -> RolloutBatch:
        """Wait for the next rollouts, on a rank that trains."""
        rollouts = RolloutBatch.empty(self._rl, device=self._device)
        for tensor in _tensors(rollouts):
            dist.broadcast(tensor, self._sender, group=self._link)
        return rollouts

    def open(self, rollouts: RolloutBatch, *, step: int) -> StepSamples:
        """Return the samples of a step: its prompts, which every rank knows, and the responses."""
        rl, device = self._rl, self._device
        group = rl.num_generations_per_prompt
        rounds = rollouts.rounds_N[::group].tolist()
        prompts = [
            make_task(rl, seed=self._plan.seed, step=step, round_number=number, prompt=prompt).prompt
            for prompt, number in enumerate(rounds)
        ]
        width = rl.max_response_len
        lens_N = rollouts.ints_NC[:, width].long()
        prompt_lens_N = torch.tensor([len(prompt) for prompt in prompts], device=device).repeat_interleave(group)
        longest = int((prompt_lens_N + lens_N).max())
        tokens_NS = torch.zeros(rl.num_samples, longest, dtype=torch.int64, device=device)
        logprobs_NS = torch.zeros(rl.num_samples, longest, device=device)
        for number, prompt in enumerate(prompts):  # a prompt's samples have their responses at the same place
            rows = slice(number * group, (number + 1) * group)
            end = min(longest, len(prompt) + width)
            tokens_NS[rows, : len(prompt)] = torch.tensor(prompt, device=device)
            tokens_NS[rows, len(prompt) : end] = rollouts.ints_NC[rows, : end - len(prompt)].long()
            logprobs_NS[rows, len(prompt) : end] = rollouts.floats_NC[rows, : end - len(prompt)]
        return StepSamples(
            tokens_NS=tokens_NS,
            prompt_lens_N=prompt_lens_N,
            lens_N=prompt_lens_N + lens_N,
            is_truncated_N=rollouts.ints_NC[:, width + 1].bool(),
            logprobs_NS=logprobs_NS,
            rewards_N=rollouts.rewards_N,
            group_size=group,
        )


def _tensors(rollouts: RolloutBatch) -> tuple[Tensor, Tensor]:
    return rollouts.ints_NC, rollouts.floats_NC


def _wait(works: Sequence[dist.Work]) -> None:
    for work in works:
        work.wait()
