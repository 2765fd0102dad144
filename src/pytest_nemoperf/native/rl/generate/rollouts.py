"""Rollout types: Request, Response, GenerationResult, Generator, StepSamples."""

# N samples of a step, S tokens of the longest, prompt and response; a value at index t of a sample belongs to its
# token t: the log-probability of that token, the value of the state in which it was chosen

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One response to be generated.

    Attributes:
        sample: Number in the step; together with the seed it fixes the tokens that are drawn, on any rank and in any
            batch.
        prompt: Tokens.
        max_len: Maximum tokens of the response.
        is_pinned: The response has exactly max_len tokens: stop tokens are tokens like any other.
    """

    sample: int
    prompt: tuple[int, ...]
    max_len: int
    is_pinned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One response.

    Attributes:
        sample: Sample of the request.
        tokens: Generated tokens, the stop token included if there is one.
        logprobs: Log-probability of each token under the softmax of all logits over the temperature, before top-k and
            top-p.
        is_truncated: The response ended at its limit, not with a stop token; never if its length was pinned.
    """

    sample: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    is_truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationResult:
    """Responses of one replica.

    Attributes:
        responses: One a request, in the order of the requests.
        num_slot_passes: Passes of the model, each counted once for every slot of the decoding batch, free or not.
    """

    responses: tuple[Response, ...]
    num_slot_passes: int

    @property
    def num_tokens(self) -> int:
        """Tokens of all responses: the number of slots that held a sample, over all passes."""
        return sum(len(response.tokens) for response in self.responses)


class Generator(Protocol):
    """One rank of a generation replica; all ranks of the replica make the same calls."""

    def allocate(self) -> Mapping[str, Tensor]:
        """Return memory for this rank's weights, by the native engine's names; a refit fills it."""

    def on_weights_updated(self) -> None:
        """Begin to use new, complete weights and drop everything computed with others."""

    def generate(self, requests: Sequence[Request], *, seed: int) -> GenerationResult:
        """Generate a response to each request; the same seed and requests give the same tokens.

        Every rank of the replica gets the same requests and returns the same responses.

        Raises:
            GenerationError: If logits are not finite, or a prompt and its limit don't fit the cache.
        """

    def release(self) -> None:
        """Free weights and cache; ``allocate`` comes before the next use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSamples:
    """All samples of one step, the same on every rank that trains, on its device.

    Attributes:
        tokens_NS: Prompt, then response, then zeros.
        prompt_lens_N: Tokens of each prompt.
        lens_N: Tokens of prompt and response.
        is_truncated_N: The response ended at its limit.
        logprobs_NS: Log-probabilities of the response's tokens when they were generated; zeros elsewhere.
        rewards_N: As the task gave them, in float32.
        group_size: Samples of one prompt; they follow each other.
    """

    tokens_NS: Tensor
    prompt_lens_N: Tensor
    lens_N: Tensor
    is_truncated_N: Tensor
    logprobs_NS: Tensor
    rewards_N: Tensor
    group_size: int

    def response_mask_NS(self) -> Tensor:
        """Return booleans (N, S), true at tokens of responses."""
        positions_S = torch.arange(self.tokens_NS.shape[1], device=self.tokens_NS.device)
        return (positions_S >= self.prompt_lens_N[:, None]) & (positions_S < self.lens_N[:, None])
