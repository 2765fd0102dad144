"""Head of a value model: one value per token."""

# T tokens (this rank's part under sequence parallelism), D hidden, V vocabulary

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ValueHead(nn.Module):
    """Predicts the reward to come after each token, with the interface of a policy's ``LossHead``.

    It is replicated over the tp axis and works on the tokens of the residual stream, as the norms do. Without sequence
    parallelism all ranks compute the same values; with it each has its own tokens, and tensor parallelism gathers the
    T values, while a policy's head needs all of T x D.

    Args:
        hidden_size: Width of the residual stream (D).
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, hidden_size))

    def forward(self, x_TD: Tensor, labels_T: Tensor, tied_weight_VD: Tensor | None) -> Tensor:
        """Return the value of each token (T), in fp32; labels are unused."""
        del labels_T, tied_weight_VD  # arguments of a policy's head
        value_T1 = F.linear(x_TD.float(), self.weight.float())
        return value_T1[:, 0]
