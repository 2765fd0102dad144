"""Synthetic tokens, drawn on the device: every layout sees the same global batch."""

# L this rank's sequences of a step, S tokens of a sequence (this rank's), N next tokens of each, B a micro-batch

from __future__ import annotations

import torch
from torch import Tensor

from pytest_nemoperf.native.seeds import seeded_generator
from pytest_nemoperf.recipes.recipe import Plan


class SyntheticTokens:
    """This rank's share of the global batch of each step.

    Low token ids are much more frequent than high ones (density falls with the power 3/4), so that there
    is something to learn: the loss falls within a few steps, and a broken gradient shows in it.

    Args:
        plan: Shapes, seed and layout.
        dp_rank: Number of the data-parallel share.
        positions: Positions of this rank's tokens in each sequence; None for all.
        device: Device that draws the tokens.
    """

    def __init__(self, plan: Plan, *, dp_rank: int, device: torch.device, positions: Tensor | None = None) -> None:
        self._plan = plan
        self._device = device
        self._num_local = plan.global_batch_size // plan.layout.dp
        self._first = dp_rank * self._num_local
        self._positions = slice(None) if positions is None else positions.to(device)

    def micro_batches(self, step: int) -> list[tuple[Tensor, Tensor]]:
        """Return the step's tokens (B, S) and the next tokens of each (B, S, N), a pair per forward pass.

        N is 1, and more for a model that predicts further ahead.
        """
        plan = self._plan
        num_ahead = 1 + plan.model.mtp_num_layers
        generator = seeded_generator(self._device, seed=plan.seed, purpose=f"tokens of step {step}")
        # The whole global batch is drawn and a part kept: cheap, and the same in every layout. float32 below 1
        # stays below the vocabulary size after the fourth power for all vocabularies under 2**20.
        shape = (plan.global_batch_size, plan.seq_len + num_ahead)
        uniform = torch.rand(shape, generator=generator, device=self._device)
        uniform = uniform[self._first : self._first + self._num_local]
        tokens = uniform.square_().square_().mul_(plan.model.vocab_size).long()
        tokens_LSN = tokens.unfold(1, num_ahead + 1, 1)[:, self._positions]
        tokens_BS = torch.split(tokens_LSN[..., 0], plan.micro_batch_size)
        labels_BSN = torch.split(tokens_LSN[..., 1:], plan.micro_batch_size)
        return list(zip(tokens_BS, labels_BSN, strict=True))
