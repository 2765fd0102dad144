"""Synthetic tokens, drawn on the device: every layout sees the same global batch."""

# G sequences of the global batch, L this rank's sequences of a step, S tokens of a sequence

from __future__ import annotations

import torch
from torch import Tensor

from pytest_nemoperf.native.seeds import seeded_generator
from pytest_nemoperf.recipe import Plan


class SyntheticTokens:
    """This rank's share of the global batch of each step.

    Low token ids are much more frequent than high ones (density falls with the power 3/4), so that there
    is something to learn: the loss falls within a few steps, and a broken gradient shows in it.

    Args:
        plan: Shapes, seed and layout.
        dp_rank: Which of the data-parallel shares this is.
        positions: Of the tokens this rank has of each sequence; None for all of them.
        device: Where the tokens are drawn.
    """

    def __init__(self, plan: Plan, *, dp_rank: int, device: torch.device, positions: Tensor | None = None) -> None:
        self._plan = plan
        self._device = device
        self._num_local = plan.global_batch_size // plan.layout.dp
        self._first = dp_rank * self._num_local
        self._positions = None if positions is None else positions.to(device)

    def micro_batches(self, step: int) -> list[tuple[Tensor, Tensor]]:
        """Return the step's (tokens, next tokens), one pair of (micro batch, S) tensors per forward pass."""
        plan = self._plan
        generator = seeded_generator(self._device, seed=plan.seed, purpose=f"tokens of step {step}")
        shape_GS1 = (plan.global_batch_size, plan.seq_len + 1)
        # The whole global batch is drawn and a part kept: cheap, and the same in every layout. float32 below 1
        # stays below the vocabulary size after the fourth power for all vocabularies under 2**20.
        uniform_GS1 = torch.rand(shape_GS1, generator=generator, device=self._device)
        uniform_LS1 = uniform_GS1[self._first : self._first + self._num_local]
        tokens_LS1 = uniform_LS1.square_().square_().mul_(plan.model.vocab_size).long()
        tokens_LS, labels_LS = tokens_LS1[:, :-1], tokens_LS1[:, 1:]
        if self._positions is not None:
            tokens_LS, labels_LS = tokens_LS[:, self._positions], labels_LS[:, self._positions]
        size = plan.micro_batch_size
        return list(zip(torch.split(tokens_LS, size), torch.split(labels_LS, size), strict=True))
