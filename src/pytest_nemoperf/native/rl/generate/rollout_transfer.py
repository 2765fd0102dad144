"""Transfer of a step's samples from the ranks that generated them to all ranks that train.

Replicas sum tensors of zeros in which each fills its own rows; the plan fixes their shapes, so that no sizes have to be
exchanged. If training has ranks of its own, the first generating rank then sends the sum to them without waiting: it
may be batches ahead.
"""

# N samples of a step, R tokens of the longest possible response, C columns

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from pytest_nemoperf.native.rl.generate.rollouts import Response, StepSamples
from pytest_nemoperf.native.rl.generate.tasks import make_task
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.rl import RL

_INT_COLUMNS = 4  # behind the tokens: length, is_truncated, round, version
_FLOAT_COLUMNS = 1  # behind the log-probabilities: reward


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutBatch:
    """Responses to all prompts of a step; rows of samples that are not here yet are zeros.

    Attributes:
        ints_NC: Tokens (R), then length, is_truncated, round, and version of the weights that generated the sample:
            the number of steps they had been trained for.
        floats_NC: Log-probabilities (R), then the reward.
    """

    ints_NC: Tensor
    floats_NC: Tensor

    @classmethod
    def empty(cls, rl: RL, *, device: torch.device) -> RolloutBatch:
        """Return a batch without any sample."""
        width = rl.max_response_len
        return cls(
            ints_NC=torch.zeros(rl.num_samples, width + _INT_COLUMNS, dtype=torch.int32, device=device),
            floats_NC=torch.zeros(rl.num_samples, width + _FLOAT_COLUMNS, device=device),
        )

    @property
    def rewards_N(self) -> Tensor:
        """Reward of each sample, on the device."""
        return self.floats_NC[:, -1]

    @property
    def rounds_N(self) -> Tensor:
        """Round of each sample, counted from 0."""
        return self.ints_NC[:, -2]

    @property
    def versions_N(self) -> Tensor:
        """Version of the weights that generated each sample."""
        return self.ints_NC[:, -1]

    def tokens_digest(self) -> str:
        """Return a hash of all tokens and lengths; to be called after the step, as it waits for the device."""
        width = self.ints_NC.shape[1] - _INT_COLUMNS
        tokens_NC = self.ints_NC[:, : width + 1].contiguous().cpu()
        return hashlib.blake2b(tokens_NC.numpy().tobytes(), digest_size=8).hexdigest()

    def put(
        self, responses: Sequence[Response], *, rewards: Mapping[int, float], round_number: int, version: Tensor
    ) -> None:
        """Fill the rows of these responses.

        Args:
            responses: Responses of this rank.
            rewards: By sample.
            round_number: Round of the responses.
            version: Version of the weights, int32 of shape (1,); it may be on the device.
        """
        if not responses:
            return
        width = self.ints_NC.shape[1] - _INT_COLUMNS
        samples = []
        ints = []
        floats = []
        for response in responses:
            padding = [0] * (width - len(response.tokens))
            samples.append(response.sample)
            ints.append([*response.tokens, *padding, len(response.tokens), int(response.is_truncated), round_number, 0])
            floats.append([*response.logprobs, *padding, rewards[response.sample]])
        device = self.ints_NC.device
        rows = torch.tensor(samples, device=device)
        self.ints_NC[rows] = torch.tensor(ints, dtype=torch.int32, device=device)
        self.ints_NC[rows, -1] = version
        self.floats_NC[rows] = torch.tensor(floats, device=device)


class RolloutTransfer:
    """Gathers rollouts on the generating ranks and sends them to the training ranks.

    Args:
        plan: Sizes of a step.
        generating: Group of the ranks that generate; None for one rank.
        link: Group of all ranks of the run, used by nothing else; None if the same ranks generate and train.
        device: Device of this rank.
    """

    def __init__(
        self, plan: Plan, *, generating: ProcessGroup | None, link: ProcessGroup | None, device: torch.device
    ) -> None:
        assert plan.rl is not None  # noqa: S101 (the caller checked it)
        self._plan = plan
        self._rl = plan.rl
        self._generating = generating
        self._link = link
        self._device = device
        self._sender = plan.layout.gpus  # the first rank that only generates
        self._in_flight: deque[tuple[RolloutBatch, list[dist.Work]]] = deque()

    def gather(self, rollouts: RolloutBatch) -> None:
        """Complete rollouts on every generating rank; each row may be filled on one of them only."""
        if self._generating is not None:
            dist.all_reduce(rollouts.ints_NC, group=self._generating)
            dist.all_reduce(rollouts.floats_NC, group=self._generating)

    def send(self, rollouts: RolloutBatch) -> None:
        """Start sending complete rollouts to the training ranks; wait if more than max_staleness are on their way."""
        if len(self._in_flight) > self._rl.max_staleness:
            _wait(self._in_flight.popleft()[1])
        works = []
        for tensor in _tensors(rollouts):
            work = dist.broadcast(tensor, self._sender, group=self._link, async_op=True)
            if work is not None:
                works.append(work)
        self._in_flight.append((rollouts, works))

    def finish(self) -> None:
        """Wait until all sent rollouts have arrived."""
        while self._in_flight:
            _wait(self._in_flight.popleft()[1])

    def receive(self) -> RolloutBatch:
        """Wait for the next rollouts and return them; on a rank that trains."""
        rollouts = RolloutBatch.empty(self._rl, device=self._device)
        for tensor in _tensors(rollouts):
            dist.broadcast(tensor, self._sender, group=self._link)
        return rollouts

    def to_samples(self, rollouts: RolloutBatch, *, step: int) -> StepSamples:
        """Return the samples of a step: its prompts, computed on every rank alike, and the responses."""
        rl = self._rl
        device = self._device
        group = rl.num_generations_per_prompt
        rounds = rollouts.rounds_N[::group].tolist()
        prompts = []
        for number, round_number in enumerate(rounds):
            task = make_task(rl, seed=self._plan.seed, step=step, round_number=round_number, prompt=number)
            prompts.append(task.prompt)
        width = rl.max_response_len
        lens_N = rollouts.ints_NC[:, width].long()
        prompt_lens_N = torch.tensor(list(map(len, prompts)), device=device).repeat_interleave(group)
        longest = int((prompt_lens_N + lens_N).max())
        tokens_NS = torch.zeros(rl.num_samples, longest, dtype=torch.int64, device=device)
        logprobs_NS = torch.zeros(rl.num_samples, longest, device=device)
        for number, prompt in enumerate(prompts):  # the responses of one prompt begin at the same index
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
