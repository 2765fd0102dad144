"""Advantages of responses, from their rewards.

Every training rank computes the same from the same samples, so that nothing is sent.
"""

# N samples of a step, P prompts, G samples of a prompt, S tokens of the longest, prompt and response; an advantage or
# a value at index t belongs to token t, the value being that of the state in which the token was chosen

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pytest_nemoperf.native.rl.generate.rollouts import StepSamples
from pytest_nemoperf.recipes.algorithms import Algorithm
from pytest_nemoperf.recipes.rl import RL

_STD_EPS = 1e-6
_VAR_EPS = 1e-8
_EQUAL = 1e-6
"""Largest difference of equal rewards of a group, relative to the largest reward; float32 keeps 1.2e-7."""


def shaped_rewards(samples: StepSamples, *, rl: RL) -> Tensor:
    """Return the rewards less the penalty for responses that come near their limit.

    The penalty grows linearly from zero, at the start of the limit's last ``overlong_share``, to its full size at the
    limit. Pinned lengths are not chosen by the policy and cost nothing.

    Args:
        samples: Samples of the step.
        rl: Limit of the responses, and the algorithm.

    Returns:
        rewards_N, float32.

    References:
        Yu et al. 2025, equation 13, https://arxiv.org/abs/2503.14476
    """
    algorithm = rl.algorithm_config
    zone = algorithm.overlong_share * rl.max_response_len
    if rl.has_pinned_lengths or zone == 0:
        return samples.rewards_N
    response_lens_N = samples.lens_N - samples.prompt_lens_N
    share_N = (1 + (response_lens_N - rl.max_response_len) / zone).clamp(0, 1)  # exactly 1 at the limit
    return samples.rewards_N - algorithm.overlong_penalty * share_N


def prompts_with_spread(rewards_N: Tensor, *, group_size: int) -> Tensor:
    """Return booleans (P,), true for prompts with different rewards; equal ones, but for rounding, have no advantages.

    Dynamic sampling uses the rewards before shaping: a group of right answers does not become useful because some of
    them are long (DAPO, equation 11, counts right answers).

    Args:
        rewards_N: Samples of one prompt follow each other.
        group_size: Samples of a prompt.
    """
    rewards_PG = rewards_N.view(-1, group_size)
    return rewards_PG.amax(1) - rewards_PG.amin(1) > _EQUAL * rewards_PG.abs().amax(1)


def group_advantages(rewards_N: Tensor, *, group_size: int, algorithm: Algorithm) -> Tensor:
    """Return each reward less the mean of its prompt's, or less the mean of the others'.

    If the standard deviation divides, it is that of the whole group, unbiased (over G - 1) and with 1e-6 added, as NeMo
    RL and TRL estimate it; the paper leaves both open. NeMo RL leaves the sample out of the deviation as well, which
    divides the one odd reward of a group by the rounding error of the others' deviation; here leaving one out changes
    the mean alone.

    Args:
        rewards_N: Samples of one prompt follow each other.
        group_size: Samples of a prompt, at least 2.
        algorithm: Kind of mean, and whether the deviation divides.

    Returns:
        advantages_N, float32; they sum to zero over a prompt, and are exactly zero if its rewards are equal but for
        rounding.

    References:
        Shao et al. 2024, section 4.1.2, https://arxiv.org/abs/2402.03300; Ahmadian et al. 2024,
        https://arxiv.org/abs/2402.14740
    """
    rewards_PG = rewards_N.float().view(-1, group_size)
    advantages_PG = rewards_PG - rewards_PG.mean(1, keepdim=True)
    num_others = max(1, group_size - 1)
    std_P1 = (advantages_PG.square().sum(1, keepdim=True) / num_others).sqrt()
    if algorithm.is_leave_one_out:  # r - mean of the others = (r - mean of all) * G / (G - 1)
        advantages_PG = advantages_PG * (group_size / num_others)
    if algorithm.is_std_normalized:
        advantages_PG = advantages_PG / (std_P1 + _STD_EPS)
    # Shaping can leave equal rewards a few bits apart, and so can their mean; dividing would magnify that.
    has_spread_P1 = prompts_with_spread(rewards_N, group_size=group_size)[:, None]
    return advantages_PG.masked_fill(~has_spread_P1, 0).flatten()


def gae(samples: StepSamples, *, rewards_N: Tensor, values_NS: Tensor, algorithm: Algorithm) -> tuple[Tensor, Tensor]:
    """Return generalised advantage estimates, and the returns: targets of the value model.

    The reward comes with the last token of the response, and the value after it is zero, truncated or not: a limit is
    part of the task.

    Args:
        samples: Samples of the step.
        rewards_N: After shaping.
        values_NS: Predicted before the step's updates; read at tokens of the response alone.
        algorithm: Discount, lambda, and whether advantages are shifted and scaled over the step's response tokens.

    Returns:
        advantages_NS and returns_NS, float32, zero outside responses. Returns are the advantages before scaling plus
        the values.

    References:
        Schulman et al. 2015, equation 16, https://arxiv.org/abs/1506.02438
    """
    mask_NS = samples.response_mask_NS()
    values_NS = values_NS.float().masked_fill(~mask_NS, 0)
    positions_S = torch.arange(mask_NS.shape[1], device=mask_NS.device)
    is_last_NS = mask_NS & (positions_S == samples.lens_N[:, None] - 1)
    rewards_NS = is_last_NS * rewards_N.float()[:, None]
    deltas_NS = rewards_NS + algorithm.discount * _shifted(values_NS, 1) - values_NS
    advantages_NS = _discounted_sums(deltas_NS * mask_NS, factor=algorithm.discount * algorithm.gae_lambda) * mask_NS
    returns_NS = advantages_NS + values_NS
    if algorithm.is_std_normalized:
        advantages_NS = _whitened(advantages_NS, mask_NS)
    return advantages_NS, returns_NS


def _discounted_sums(x_NS: Tensor, *, factor: float) -> Tensor:
    """Return the sum over t of factor**t * x[n, s + t], at each (n, s).

    Doubling: sums over the next n tokens make sums over the next 2n, so that log2(S) operations are enough.
    """
    num_summed = 1
    while num_summed < x_NS.shape[1]:
        x_NS = x_NS + factor**num_summed * _shifted(x_NS, num_summed)
        num_summed *= 2
    return x_NS


def _shifted(x_NS: Tensor, distance: int) -> Tensor:
    """Return the values shifted to the left by a distance, zeros at the end."""
    return F.pad(x_NS[:, distance:], (0, distance))


def _whitened(x_NS: Tensor, mask_NS: Tensor) -> Tensor:
    """Return values of mean 0 and variance 1 over the masked tokens, zeros elsewhere."""
    num_tokens = mask_NS.sum().clamp(min=1)
    shifted_NS = (x_NS - x_NS.sum() / num_tokens) * mask_NS
    variance = shifted_NS.square().sum() / num_tokens
    return shifted_NS * variance.clamp(min=_VAR_EPS).rsqrt()
