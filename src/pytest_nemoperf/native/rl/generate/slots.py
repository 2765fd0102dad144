"""Continuous batching: assignment of requests to rows of the decoding batch, counted on the host."""

# R requests, N active slots

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pytest_nemoperf.native.rl.generate.rollouts import Request

Ints = npt.NDArray[np.int64]

_MAX_PREFILL_TOKENS = 8192
"""Tokens of prompts in one pass, unless the first prompt is longer: bounds the memory of activations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt that is computed in one pass.

    Attributes:
        tokens: Tokens of the prompt.
        slots: Slots that begin with it: requests with the same prompt share its computation.
    """

    tokens: tuple[int, ...]
    slots: list[int] = field(default_factory=list)


class DecodeSlots:
    """Rows of the decoding batch; the active ones are always the first, so that a pass has no idle rows.

    Args:
        requests: All requests, in the order they get their slots.
        num_slots: Maximum number of active slots.

    Attributes:
        request_N: Number of each active slot's request.
        generated_N: Tokens generated for it so far.
    """

    def __init__(self, requests: Sequence[Request], *, num_slots: int) -> None:
        self._requests = requests
        self._num_slots = num_slots
        self._waiting = deque(range(len(requests)))
        self._limits_R = np.array([request.max_len for request in requests])
        self._prompt_lens_R = np.array([len(request.prompt) for request in requests])
        self._may_stop_R = np.array([not request.is_pinned for request in requests])
        self.request_N: Ints = np.empty(0, dtype=np.int64)
        self.generated_N: Ints = np.empty(0, dtype=np.int64)

    @property
    def is_done(self) -> bool:
        """Whether every request was answered."""
        return not self._waiting and not self.request_N.size

    @property
    def may_stop(self) -> bool:
        """Whether an active response may end before its limit, so that the host has to read the tokens."""
        return bool(self._may_stop_R[self.request_N].any())

    @property
    def positions_N(self) -> Ints:
        """Position of each slot's next input token: the last one it generated."""
        positions_N: Ints = self._prompt_lens_R[self.request_N] + self.generated_N - 1
        return positions_N

    def admit(self) -> tuple[Prompt, ...]:
        """Give free slots to waiting requests and return the prompts that must be computed for them."""
        prompts: dict[tuple[int, ...], Prompt] = {}
        admitted: list[int] = []
        num_tokens = 0
        while self._waiting and self.request_N.size + len(admitted) < self._num_slots:
            tokens = self._requests[self._waiting[0]].prompt
            if tokens not in prompts:
                num_tokens += len(tokens)
                if prompts and num_tokens > _MAX_PREFILL_TOKENS:
                    break
                prompts[tokens] = Prompt(tokens=tokens)
            prompts[tokens].slots.append(self.request_N.size + len(admitted))
            admitted.append(self._waiting.popleft())
        if admitted:
            self.request_N = np.concatenate([self.request_N, admitted])
            self.generated_N = np.concatenate([self.generated_N, np.zeros(len(admitted), dtype=np.int64)])
        return tuple(prompts.values())

    def advance(self, is_stop_N: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_] | None:
        """Count one more token of each slot and return booleans (N,), true for responses that ended; None for none.

        Args:
            is_stop_N: True for stop tokens; None if no response may stop.
        """
        self.generated_N += 1
        has_ended_N = self.generated_N == self._limits_R[self.request_N]
        if is_stop_N is not None:
            has_ended_N |= is_stop_N & self._may_stop_R[self.request_N]
        return has_ended_N if has_ended_N.any() else None

    def remove_ended(self, has_ended_N: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
        """Remove ended responses; return the slots they free, and the active slots that move there from the end."""
        num_left = int((~has_ended_N).sum())
        (holes,) = has_ended_N[:num_left].nonzero()
        movers = num_left + (~has_ended_N[num_left:]).nonzero()[0]
        for values_N in (self.request_N, self.generated_N):
            values_N[holes] = values_N[movers]
        self.request_N = self.request_N[:num_left]
        self.generated_N = self.generated_N[:num_left]
        return holes, movers
