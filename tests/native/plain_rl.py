"""Reference for the algorithms: plain loops over samples and tokens, written from their papers."""

# N samples, S tokens of the longest

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pytest_nemoperf.native.rl.generate.rollouts import StepSamples
from pytest_nemoperf.recipes.algorithms import Algorithm
from tests.native.samples import response_places

Table = list[list[float]]


def shaped_rewards(samples: StepSamples, *, limit: int, algorithm: Algorithm) -> list[float]:
    zone = algorithm.overlong_share * limit
    rewards = samples.rewards_N.tolist()
    if not zone:
        return rewards
    beyond = [len(places) - (limit - zone) for places in response_places(samples)]
    return [
        reward - algorithm.overlong_penalty * max(0.0, excess / zone)
        for reward, excess in zip(rewards, beyond, strict=True)
    ]


def group_advantages(rewards: Sequence[float], *, group_size: int, algorithm: Algorithm) -> list[float]:
    advantages = []
    for sample, reward in enumerate(rewards):
        first = sample // group_size * group_size
        group = list(rewards[first : first + group_size])
        others = [*rewards[first:sample], *rewards[sample + 1 : first + group_size]]
        advantage = reward - statistics.mean(others if algorithm.is_leave_one_out else group)
        if algorithm.is_std_normalized and advantage:
            advantage /= statistics.stdev(group) + 1e-6
        advantages.append(advantage)
    return advantages


def gae(samples: StepSamples, *, values: Table, algorithm: Algorithm) -> Table:
    """Return the sums of the definition, one temporal difference after the other, without recursion or scaling."""
    table = zeros_like(values)
    for sample, places in enumerate(response_places(samples)):
        reward = samples.rewards_N[sample].item()
        deltas = []
        for place in places:
            is_last = place == places[-1]
            after = 0.0 if is_last else values[sample][place + 1]
            deltas.append((reward if is_last else 0.0) + algorithm.discount * after - values[sample][place])
        factor = algorithm.discount * algorithm.gae_lambda
        for number, place in enumerate(places):
            table[sample][place] = sum(factor**ahead * delta for ahead, delta in enumerate(deltas[number:]))
    return table


def returns(samples: StepSamples, *, values: Table, algorithm: Algorithm) -> Table:
    """Return advantages plus values at the tokens of responses."""
    table = gae(samples, values=values, algorithm=algorithm)
    for sample, places in enumerate(response_places(samples)):
        for place in places:
            table[sample][place] += values[sample][place]
    return table


def whitened(samples: StepSamples, table: Table) -> Table:
    """Return the numbers at the tokens of responses with mean 0 and variance 1."""
    all_places = response_places(samples)
    numbers = [table[sample][place] for sample, places in enumerate(all_places) for place in places]
    mean, deviation = statistics.mean(numbers), statistics.pstdev(numbers)
    white = zeros_like(table)
    for sample, places in enumerate(all_places):
        for place in places:
            white[sample][place] = (table[sample][place] - mean) / deviation
    return white


def token_advantages(samples: StepSamples, *, values: Table, algorithm: Algorithm) -> Table:
    """Return the advantage of each token under any algorithm."""
    if algorithm.has_value_model:
        table = gae(samples, values=values, algorithm=algorithm)
        return whitened(samples, table) if algorithm.is_std_normalized else table
    rewards = samples.rewards_N.tolist()
    advantages = group_advantages(rewards, group_size=samples.group_size, algorithm=algorithm)
    return [[advantage] * samples.tokens_NS.shape[1] for advantage in advantages]


def policy_loss(
    samples: StepSamples,
    *,
    batch: Sequence[int],
    advantages: Table,
    old: Table,
    reference: Table,
    new_NS: Tensor,
    algorithm: Algorithm,
) -> Tensor:
    def per_token(sample: int, place: int) -> Tensor:
        new, advantage = new_NS[sample, place], advantages[sample][place]
        ratio = torch.exp(new - old[sample][place])
        low, high = 1 - algorithm.clip_low, 1 + algorithm.clip_high
        bounded = ratio
        if ratio.item() < low:
            bounded = torch.tensor(low)
        elif ratio.item() > high:
            bounded = torch.tensor(high)
        loss = -min(ratio * advantage, bounded * advantage, key=Tensor.item)
        if algorithm.importance_cap is not None:
            importance = math.exp(old[sample][place] - samples.logprobs_NS[sample, place].item())
            loss = loss * min(importance, algorithm.importance_cap)
        if algorithm.kl_coef:
            log_ratio = reference[sample][place] - new
            loss = loss + algorithm.kl_coef * (torch.exp(log_ratio) - log_ratio - 1)
        return loss

    return _mean(samples, per_token, batch=batch, over=algorithm.loss_mean)


def value_loss(
    samples: StepSamples,
    *,
    batch: Sequence[int],
    targets: Table,
    old: Table,
    new_NS: Tensor,
    algorithm: Algorithm,
) -> Tensor:
    def per_token(sample: int, place: int) -> Tensor:
        new, before = new_NS[sample, place], old[sample][place]
        moved = new.item() - before
        is_near = abs(moved) <= algorithm.value_clip
        bounded = new if is_near else torch.tensor(before + math.copysign(algorithm.value_clip, moved))
        errors = [(each - targets[sample][place]) ** 2 for each in (new, bounded)]
        return algorithm.value_coef * 0.5 * max(errors, key=lambda error: error.item())

    return _mean(samples, per_token, batch=batch, over=algorithm.loss_mean)


def zeros_like(table: Table) -> Table:
    return [[0.0] * len(row) for row in table]


def _mean(samples: StepSamples, per_token: Callable[[int, int], Tensor], *, batch: Sequence[int], over: str) -> Tensor:
    """Return the mean over tokens, or over the tokens of each response and then over the responses that have any."""
    tokens = [[per_token(sample, place) for place in response_places(samples)[sample]] for sample in batch]
    if over == "token":
        return torch.stack([token for response in tokens for token in response]).mean()
    return torch.stack([torch.stack(response).mean() for response in tokens if response]).mean()
