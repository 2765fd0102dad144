"""Responses while they are generated: a row of the device's memory for each, read by the host at the end."""

# R requests, M maximum tokens of a response, N active slots

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from pytest_nemoperf.errors import GenerationError
from pytest_nemoperf.native.rl.generate.rollouts import Request, Response
from pytest_nemoperf.native.rl.generate.sampling import draw_uniforms
from pytest_nemoperf.native.rl.generate.slots import DecodeSlots
from pytest_nemoperf.recipes.rl import STOP_TOKEN


class Responses:
    """Drawn tokens and log-probabilities on the device, a row for each request.

    Args:
        requests: At least one.
        seed: Seed of the step.
        device: Device of this rank.
    """

    def __init__(self, requests: Sequence[Request], *, seed: int, device: torch.device) -> None:
        self._requests = requests
        uniforms_RM = draw_uniforms(requests, seed=seed)
        self.longest = uniforms_RM.shape[1]
        self._uniforms = uniforms_RM.flatten().to(device, non_blocking=True)
        self._tokens = torch.zeros(self._uniforms.shape, dtype=torch.int64, device=device)
        self._logprobs = torch.zeros_like(self._uniforms)
        self._lens = [0] * len(requests)

    def tokens_of(self, index_N: Tensor) -> Tensor:
        """Return tokens by their indices in the flattened responses."""
        return self._tokens[index_N]

    def uniforms_of(self, index_N: Tensor) -> Tensor:
        """Return the uniform numbers for the tokens at these indices."""
        return self._uniforms[index_N]

    def write(self, index_N: Tensor, *, tokens_N: Tensor, logprobs_N: Tensor) -> None:
        """Store drawn tokens."""
        self._tokens.index_copy_(0, index_N, tokens_N)
        self._logprobs.index_copy_(0, index_N, logprobs_N)

    def keep_lengths(self, slots: DecodeSlots, *, has_ended_N: npt.NDArray[np.bool_]) -> None:
        """Store the lengths of responses that have just ended."""
        for slot in has_ended_N.nonzero()[0]:
            self._lens[slots.request_N[slot]] = int(slots.generated_N[slot])

    def read(self, *, pp: dist.ProcessGroup | None, tp: dist.ProcessGroup | None) -> tuple[Response, ...]:
        """Return all responses.

        Args:
            pp: Group of the pp axis, of which only the last rank has log-probabilities.
            tp: Group that takes its first rank's log-probabilities; None if all are the same anyway.

        Raises:
            GenerationError: If a log-probability is not finite.
        """
        if pp is not None:
            dist.broadcast(self._logprobs, group_src=pp.size() - 1, group=pp)
        if tp is not None:
            dist.broadcast(self._logprobs, group_src=0, group=tp)
        tokens_RM = self._tokens.view(-1, self.longest).tolist()
        logprobs_RM = self._logprobs.view(-1, self.longest).cpu().numpy()
        responses = []
        for row, request in enumerate(self._requests):
            num_tokens = self._lens[row]
            tokens = tokens_RM[row][:num_tokens]
            responses.append(_response(request, tokens=tokens, logprobs=logprobs_RM[row, :num_tokens]))
        return tuple(responses)


def check_requests(requests: Sequence[Request], *, seq_len: int) -> None:
    """Check that a cache of so many tokens a sequence can hold the requests.

    Raises:
        GenerationError: If not.
    """
    for request in requests:
        prompt_len = len(request.prompt)
        if prompt_len < 1 or request.max_len < 1:
            raise GenerationError(
                f"sample {request.sample}: a prompt of {prompt_len} tokens and a response of at most "
                f"{request.max_len} can't be generated; both need at least 1"
            )
        if prompt_len + request.max_len > seq_len:
            raise GenerationError(
                f"sample {request.sample}: a prompt of {prompt_len} tokens and a response of up to {request.max_len} "
                f"are {prompt_len + request.max_len}, more than seq_len={seq_len}; raise seq_len, or shorten one"
            )


def _response(request: Request, *, tokens: list[int], logprobs: npt.NDArray[np.float32]) -> Response:
    is_bad = ~np.isfinite(logprobs)
    if is_bad.any():
        raise GenerationError(
            f"sample {request.sample}, token {int(is_bad.argmax())} of its response: the logits are not finite; "
            "look at the loss and gradient norm of the steps before, and lower the learning rate"
        )
    return Response(
        sample=request.sample,
        tokens=tuple(tokens),
        logprobs=tuple(logprobs.tolist()),
        is_truncated=not request.is_pinned and tokens[-1] != STOP_TOKEN,
    )
