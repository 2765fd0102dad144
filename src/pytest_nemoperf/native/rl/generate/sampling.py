"""Sampling of tokens: one uniform number a token, and the inverse of the cumulative distribution.

A token depends on the seed, the sample, its index in the response and the logits, never on other samples of the batch.
"""

# R requests, M maximum tokens of a response, N tokens to be drawn, V vocabulary, K most probable tokens

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pytest_nemoperf.native.rl.generate.rollouts import Request
from pytest_nemoperf.native.seeds import seeded_generator

_CPU = torch.device("cpu")
# A uniform number is below 1 by so much that its product with the total of the probabilities stays below it.
_BELOW_ONE = 1 - 2**-22


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Distribution that tokens are drawn from.

    Attributes:
        temperature: Logits are divided by it.
        top_k: Only so many of the most probable tokens; None for all.
        top_p: Then only the most probable of these up to so much probability together, the one that reaches it
            included.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def draw(self, logits_NV: Tensor, uniform_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens and their log-probabilities under the softmax of all logits over the temperature, in fp32.

        Logits that are not finite make the log-probability NaN and the token arbitrary.

        Args:
            logits_NV: Logits of the whole vocabulary, without padding.
            uniform_N: Numbers from [0, 1), from draw_uniforms.
        """
        logits_NV = logits_NV.float()
        if self.temperature != 1:
            logits_NV = logits_NV / self.temperature
        logprobs_NV = logits_NV.log_softmax(-1)
        if self.top_k is None and self.top_p == 1:
            tokens_N1 = _invert(logprobs_NV.exp(), uniform_N)
        else:
            tokens_N1 = self._draw_among_best(logprobs_NV, uniform_N)
        return tokens_N1[:, 0], logprobs_NV.gather(1, tokens_N1)[:, 0]

    def _draw_among_best(self, logprobs_NV: Tensor, uniform_N: Tensor) -> Tensor:
        num_best = logprobs_NV.shape[1]
        if self.top_k is not None:
            num_best = min(self.top_k, num_best)
        best_NK, tokens_NK = logprobs_NV.topk(num_best, dim=-1)
        probs_NK = best_NK.softmax(-1)
        if self.top_p < 1:
            before_NK = probs_NK.cumsum(-1) - probs_NK
            probs_NK = probs_NK.masked_fill(before_NK >= self.top_p, 0)
        return tokens_NK.gather(1, _invert(probs_NK, uniform_N))


def draw_uniforms(requests: Sequence[Request], *, seed: int) -> Tensor:
    """Return a uniform number from [0, 1) for each token of each response (R, M), on the CPU.

    Args:
        requests: At least one.
        seed: Seed of the step.
    """
    longest = max(request.max_len for request in requests)
    uniforms_RM = torch.zeros(len(requests), longest)
    for row_M, request in zip(uniforms_RM, requests, strict=True):
        generator = seeded_generator(_CPU, seed=seed, purpose=f"response {request.sample}")
        row_M[: request.max_len] = torch.rand(request.max_len, generator=generator)
    return uniforms_RM * _BELOW_ONE


def _invert(probs_NK: Tensor, uniform_N: Tensor) -> Tensor:
    """Return an index drawn from each distribution (N, 1), of any sum; an index of probability zero is never drawn."""
    sums_NK = probs_NK.cumsum(-1)
    index_N1 = torch.searchsorted(sums_NK, uniform_N[:, None] * sums_NK[:, -1:], right=True)
    return index_N1.clamp_(max=probs_NK.shape[1] - 1)  # NaN is found past the end
