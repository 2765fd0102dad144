"""Losses of policy and value model, and their terms per token.

Both losses are sums over tokens, weighted for the mean over a whole optimizer update: the loss is the sum over all
micro-batches and ranks, for any cut of the tokens.
"""

# N samples of a step, S tokens of the longest, T tokens of a micro-batch, K terms per token

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

import torch
from torch import Tensor

from pytest_nemoperf.native.rl.generate.rollouts import StepSamples
from pytest_nemoperf.recipes.algorithms import Algorithm

_MAX_LOG_RATIO = 20.0
"""Bound on differences of log-probabilities: exp of larger ones leaves float32's range, and NaN follows. NeMo RL bounds
those of its divergence alike."""


class PolicyTerm(IntEnum):
    """Terms of the policy's loss, by column."""

    WEIGHT = 0
    IMPORTANCE = 1
    ADVANTAGE = 2
    OLD_LOGPROB = 3
    REFERENCE_LOGPROB = 4


class ValueTerm(IntEnum):
    """Terms of the value model's loss, by column."""

    WEIGHT = 0
    OLD_VALUE = 1
    RETURN = 2


def policy_terms(
    samples: StepSamples,
    *,
    numbers: Sequence[int] | Tensor,
    advantages: Tensor,
    old_logprobs_NS: Tensor,
    reference_logprobs_NS: Tensor | None,
    algorithm: Algorithm,
) -> Tensor:
    """Return the terms of the policy's loss for one optimizer update.

    Args:
        samples: Samples of the step.
        numbers: Indices of the samples to train on.
        advantages: One a sample (N,), or one a token (N, S).
        old_logprobs_NS: Log-probabilities of the policy before the step's updates, in the training layout.
        reference_logprobs_NS: Log-probabilities of the policy before all training; None if the algorithm has no
            reference.
        algorithm: Kind of mean, and importance weights.

    Returns:
        terms_NSK, float32, with the columns of PolicyTerm; zeros for tokens outside responses and for other samples.
    """
    mask_NS = samples.response_mask_NS()
    importance_NS = torch.ones_like(old_logprobs_NS)
    if algorithm.importance_cap is not None:
        importance_NS = (old_logprobs_NS - samples.logprobs_NS).exp().clamp(max=algorithm.importance_cap)
    if advantages.dim() == 1:
        advantages = advantages[:, None].expand_as(mask_NS)
    if reference_logprobs_NS is None:
        reference_logprobs_NS = old_logprobs_NS
    columns: dict[int, Tensor] = {
        PolicyTerm.WEIGHT: _weights_NS(mask_NS, numbers=numbers, algorithm=algorithm),
        PolicyTerm.IMPORTANCE: importance_NS,
        PolicyTerm.ADVANTAGE: advantages,
        PolicyTerm.OLD_LOGPROB: old_logprobs_NS,
        PolicyTerm.REFERENCE_LOGPROB: reference_logprobs_NS,
    }
    return _stacked(columns, weight_NS=columns[PolicyTerm.WEIGHT])


def value_terms(
    samples: StepSamples,
    *,
    numbers: Sequence[int] | Tensor,
    old_values_NS: Tensor,
    returns_NS: Tensor,
    algorithm: Algorithm,
) -> Tensor:
    """Return the terms of the value model's loss for one optimizer update.

    Args:
        samples: Samples of the step.
        numbers: Indices of the samples to train on.
        old_values_NS: Predicted before the step's updates.
        returns_NS: Targets of the prediction.
        algorithm: Kind of mean.

    Returns:
        terms_NSK, float32, with the columns of ValueTerm; zeros for tokens outside responses and for other samples.
    """
    columns: dict[int, Tensor] = {
        ValueTerm.WEIGHT: _weights_NS(samples.response_mask_NS(), numbers=numbers, algorithm=algorithm),
        ValueTerm.OLD_VALUE: old_values_NS,
        ValueTerm.RETURN: returns_NS,
    }
    return _stacked(columns, weight_NS=columns[ValueTerm.WEIGHT])


def policy_objective(logprob_T: Tensor, terms_TK: Tensor, *, algorithm: Algorithm) -> Tensor:
    """Return the clipped policy loss plus the divergence from the reference, summed over the tokens.

    Args:
        logprob_T: Log-probability of each token now; at tokens of weight 0 any number, even NaN, has no effect.
        terms_TK: From policy_terms.
        algorithm: Clip range and weight of the divergence.

    Returns:
        A scalar, float32.

    References:
        Schulman et al. 2017, equation 7, https://arxiv.org/abs/1707.06347; with two bounds: Yu et al. 2025, equation
        10, https://arxiv.org/abs/2503.14476
    """
    weight_T = terms_TK[:, PolicyTerm.WEIGHT]
    importance_T = terms_TK[:, PolicyTerm.IMPORTANCE]
    advantage_T = terms_TK[:, PolicyTerm.ADVANTAGE]
    old_T = terms_TK[:, PolicyTerm.OLD_LOGPROB]
    reference_T = terms_TK[:, PolicyTerm.REFERENCE_LOGPROB]
    logprob_T = torch.where(weight_T > 0, logprob_T.float(), old_T)
    ratio_T = (logprob_T - old_T).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()
    clipped_T = ratio_T.clamp(1 - algorithm.clip_low, 1 + algorithm.clip_high)
    gain_T = torch.minimum(ratio_T * advantage_T, clipped_T * advantage_T)
    loss = -(weight_T * importance_T * gain_T).sum()
    if algorithm.has_reference:
        loss = loss + algorithm.kl_coef * (weight_T * k3(logprob_T, reference_T)).sum()
    return loss


def value_objective(value_T: Tensor, terms_TK: Tensor, *, algorithm: Algorithm) -> Tensor:
    """Return the clipped value loss, summed over the tokens: half the larger squared error, clipped or not.

    Args:
        value_T: Predicted now; at tokens of weight 0 any number, even NaN, has no effect.
        terms_TK: From value_terms.
        algorithm: Clip range and weight of the loss.

    Returns:
        A scalar, float32.

    References:
        OpenAI Baselines (ppo2), https://github.com/openai/baselines
    """
    weight_T = terms_TK[:, ValueTerm.WEIGHT]
    old_T = terms_TK[:, ValueTerm.OLD_VALUE]
    return_T = terms_TK[:, ValueTerm.RETURN]
    value_T = torch.where(weight_T > 0, value_T.float(), old_T)
    clipped_T = old_T + (value_T - old_T).clamp(-algorithm.value_clip, algorithm.value_clip)
    error_T = torch.maximum((value_T - return_T).square(), (clipped_T - return_T).square())
    return algorithm.value_coef * 0.5 * (weight_T * error_T).sum()


def k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Return an unbiased estimate, never negative, of the divergence from the reference, for each sampled token.

    References:
        Schulman 2020, http://joschu.net/blog/kl-approx.html
    """
    log_ratio = (reference_logprobs - logprobs).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    return log_ratio.expm1() - log_ratio


def token_mult_prob_error(logprobs_NS: Tensor, samples: StepSamples) -> Tensor:
    """Return the mean factor between training's and generation's probability of a token, a scalar; 1 is best.

    The mean of exp(abs(training - generation log-probability)) over response tokens, as NeMo RL defines it; 1 if there
    are none.
    """
    mask_NS = samples.response_mask_NS()
    factors_NS = _errors_NS(logprobs_NS, samples).exp()
    return torch.where(mask_NS.any(), (factors_NS * mask_NS).sum() / mask_NS.sum().clamp(min=1), 1.0)


def max_logprob_error(logprobs_NS: Tensor, samples: StepSamples) -> Tensor:
    """Return the largest difference of training and generation log-probability of a response token; 0 without any."""
    return _errors_NS(logprobs_NS, samples).amax()


def mean_kl(logprobs_NS: Tensor, reference_logprobs_NS: Tensor, samples: StepSamples) -> Tensor:
    """Return the k3 divergence from the reference, averaged over response tokens; 0 without any."""
    mask_NS = samples.response_mask_NS()
    kl_NS = k3(logprobs_NS, reference_logprobs_NS).masked_fill(~mask_NS, 0)
    return kl_NS.sum() / mask_NS.sum().clamp(min=1)


def _errors_NS(logprobs_NS: Tensor, samples: StepSamples) -> Tensor:
    return (logprobs_NS - samples.logprobs_NS).abs().masked_fill(~samples.response_mask_NS(), 0)


def _weights_NS(mask_NS: Tensor, *, numbers: Sequence[int] | Tensor, algorithm: Algorithm) -> Tensor:
    """Return each token's weight in the update's mean; the weights sum to 1, or to 0 without any token.

    A response without tokens has no mean and does not count among the responses.
    """
    numbers = torch.as_tensor(numbers, device=mask_NS.device)
    is_chosen_N = torch.zeros_like(mask_NS[:, 0]).index_fill(0, numbers, True)  # noqa: FBT003 (torch's signature)
    chosen_NS = (mask_NS & is_chosen_N[:, None]).float()
    if algorithm.loss_mean == "token":
        return chosen_NS / chosen_NS.sum().clamp(min=1)
    lens_N1 = chosen_NS.sum(1, keepdim=True)
    return chosen_NS / lens_N1.clamp(min=1) / (lens_N1 > 0).sum().clamp(min=1)


def _stacked(columns: Mapping[int, Tensor], *, weight_NS: Tensor) -> Tensor:
    """Stack the columns (N, S, K), with zeros at tokens of weight 0, so that none of them becomes NaN."""
    terms_NSK = torch.stack([columns[number].float() for number in sorted(columns)], -1)
    return terms_NSK.masked_fill((weight_NS == 0)[:, :, None], 0)
