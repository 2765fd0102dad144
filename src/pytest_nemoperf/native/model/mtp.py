"""Multi-token prediction (MTP): the block of each depth predicts one token further ahead.

References:
    DeepSeek-V3, https://arxiv.org/abs/2412.19437, section 2.2
"""

# B sequences of a micro-batch, S tokens of a sequence, T = B*S tokens (this rank's part between blocks under
# sequence parallelism), D hidden

from __future__ import annotations

import torch
from torch import Tensor, nn

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.native.model.block import Block
from pytest_nemoperf.native.model.layers import Linear, make_norm
from pytest_nemoperf.native.model.rope import Positions

# Weight of the loss averaged over the depths, during most of DeepSeek-V3's pre-training (its section 4.2).
LOSS_WEIGHT = 0.3


class MTPDepth(nn.Module):
    """One depth: norms of the two inputs, their projection to one, a block, and the norm before the model's head."""

    def __init__(self, config: ModelConfig, block: Block) -> None:
        super().__init__()
        self.embedding_norm = make_norm(config)
        self.hidden_norm = make_norm(config)
        self.projection = Linear(2 * config.hidden_size, config.hidden_size)
        self.block = block
        self.norm = make_norm(config)

    def forward(self, embedded_TD: Tensor, hidden_TD: Tensor, positions: Positions) -> Tensor:
        """Return the normalised hidden state (T, D), the input of the head and of the next depth.

        Args:
            embedded_TD: Embeddings of the tokens that many positions ahead as this depth is deep.
            hidden_TD: Output of the depth before, or of the model's last norm.
            positions: Position table of the block.
        """
        joined_T2D = torch.cat([self.embedding_norm(embedded_TD), self.hidden_norm(hidden_TD)], dim=-1)
        out_TD: Tensor = self.norm(self.block(self.projection(joined_T2D), positions))
        return out_TD
