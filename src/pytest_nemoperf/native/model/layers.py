"""Layers of decoders: matrix products, embedding tables and norms."""

# T tokens, D hidden, C width of a head

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.native.model.operators import rms_norm


class Linear(nn.Module):
    """Matrix product; the fp32 master weight is cast to the input's dtype in each call.

    ``product`` maps input, weight and bias to the output; 8-bit and 4-bit precisions replace it, and so does a backward
    pass in two halves.
    """

    def __init__(self, in_features: int, out_features: int, *, has_bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if has_bias else None
        self.product: Callable[[Tensor, Tensor, Tensor | None], Tensor] = plain_product

    def forward(self, x: Tensor) -> Tensor:
        """Return the product over the last dimension, plus bias."""
        return self.product(x, self.weight, self.bias)


class OutputLinear(Linear):
    """Second matrix of a sub-layer; the caller of the sub-layer adds the bias, with ``add_bias``.

    Tensor parallelism sums the outputs of the ranks after the sub-layer; a bias inside would be summed too.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the product over the last dimension, without bias."""
        return self.product(x, self.weight, None)

    def add_bias(self, out_TD: Tensor) -> Tensor:
        """Return the sub-layer's output plus bias, if any."""
        if self.bias is None:
            return out_TD
        return out_TD + self.bias.to(out_TD.dtype)


class Embedding(nn.Module):
    """Embedding table; tensor parallelism replaces ``lookup`` by one over this rank's rows."""

    def __init__(self, num_rows: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_rows, size))
        self.lookup: Callable[[Tensor, Tensor], Tensor] = F.embedding

    def forward(self, tokens_T: Tensor) -> Tensor:
        """Return one row of the table for each token."""
        return self.lookup(tokens_T, self.weight)


class LearnedPositions(nn.Module):
    """Learned position embeddings (GPT-3).

    Sequence parallelism replaces ``own_tokens`` by a selection of the tokens this rank has between blocks.
    """

    def __init__(self, num_rows: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_rows, size))
        self.own_tokens: Callable[[Tensor], Tensor] = _all_tokens

    def forward(self, x_TD: Tensor, positions_T: Tensor) -> Tensor:
        """Return the residual stream plus the embeddings of its positions."""
        return x_TD + F.embedding(self.own_tokens(positions_T), self.weight).to(x_TD.dtype)


class RMSNorm(nn.Module):
    """Root mean square norm over the last dimension."""

    def __init__(self, size: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size))

    def forward(self, x: Tensor) -> Tensor:
        """Return the input scaled to unit root mean square, times the weight."""
        return rms_norm(x, self.weight.to(x.dtype), eps=self.eps)


class LayerNorm(nn.Module):
    """Norm over the last dimension to mean 0 and variance 1, with weight and bias."""

    def __init__(self, size: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size))
        self.bias = nn.Parameter(torch.empty(size))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised input, times the weight, plus the bias."""
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


def make_norm(config: ModelConfig) -> RMSNorm | LayerNorm:
    """Return a norm of the residual stream."""
    kind = RMSNorm if config.norm == "rmsnorm" else LayerNorm
    return kind(config.hidden_size, eps=config.norm_eps)


def in_dtype(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a master weight cast to the dtype of a product."""
    return weight.to(dtype)


def plain_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x times the transposed weight, plus bias, in x's dtype."""
    if bias is not None:
        bias = bias.to(x.dtype)
    return F.linear(x, weight.to(x.dtype), bias)


def _all_tokens(positions_T: Tensor) -> Tensor:
    return positions_T
