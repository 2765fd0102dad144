"""Dense MLP and activation functions."""

# T tokens, D hidden, F width of the MLP (this rank's part under tensor parallelism)

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import Activation
from pytest_nemoperf.native.model.layers import Linear, OutputLinear
from pytest_nemoperf.native.model.operators import swiglu

# GPT-OSS's release: https://github.com/openai/gpt-oss/blob/main/gpt_oss/torch/model.py
_CLAMP_LIMIT = 7.0
_CLAMP_SLOPE = 1.702


def activate(hidden_TF: Tensor, activation: Activation) -> Tensor:
    """Apply the activation between an MLP's matrices; gated ones halve the columns.

    Args:
        hidden_TF: Output of the first matrix; the first half of the columns is the gate, if the activation is gated.
        activation: Activation function.
    """
    match activation:
        case Activation.SWIGLU:
            return swiglu(hidden_TF)
        case Activation.GEGLU:
            gate_TF, up_TF = hidden_TF.chunk(2, dim=-1)
            return F.gelu(gate_TF, approximate="tanh") * up_TF
        case Activation.CLAMPED_SWIGLU:
            gate_TF, up_TF = hidden_TF.chunk(2, dim=-1)
            gate_TF = gate_TF.clamp(max=_CLAMP_LIMIT)
            up_TF = up_TF.clamp(-_CLAMP_LIMIT, _CLAMP_LIMIT)
            return gate_TF * torch.sigmoid(_CLAMP_SLOPE * gate_TF) * (up_TF + 1)
        case Activation.GELU:
            return F.gelu(hidden_TF, approximate="tanh")  # as in GPT-2's release
        case Activation.SQUARED_RELU:
            return F.relu(hidden_TF).square()


class MLP(nn.Module):
    """Two matrices and an activation; gate and up projection are fused, the gate first."""

    def __init__(self, config: ModelConfig, *, width: int) -> None:
        super().__init__()
        self.activation = config.activation
        self.gate_up: Linear | None = None
        self.up: Linear | None = None
        if config.activation.is_gated:
            self.gate_up = Linear(config.hidden_size, 2 * width, has_bias=config.mlp_bias)
        else:
            self.up = Linear(config.hidden_size, width, has_bias=config.mlp_bias)
        self.down = OutputLinear(width, config.hidden_size, has_bias=config.mlp_bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        """Return the MLP output (T, D) without the output bias."""
        first: Callable[[Tensor], Tensor] | None = self.up if self.gate_up is None else self.gate_up
        assert first is not None  # noqa: S101 (one of them is there)
        out_TD: Tensor = self.down(activate(first(x_TD), self.activation))
        return out_TD
