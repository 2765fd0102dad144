"""Copies of a model's matrices in its compute dtype, made once a step instead of in each micro-batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pytest_nemoperf.native.model.layers import Linear
from pytest_nemoperf.native.model.moe import ExpertLinear
from pytest_nemoperf.native.model.transformer import Decoder, LossHead


class WeightCasts:
    """Copies of the matrices of linear layers, experts and output head.

    Passes use the copies, and their gradients go to the master weights, cast to the masters' dtype as before. Call
    ``renew`` whenever the master weights have changed.

    Args:
        model: Whole model of a rank on its device, without FSDP, which keeps copies of its own.
    """

    def __init__(self, model: Decoder) -> None:
        self._copies: dict[nn.Parameter, Tensor] = {}
        for weight in self._taken_over(model):
            self._copies[weight] = weight.detach().to(model.dtype)

    def __call__(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a master weight cast to a dtype; its copy, if that is the copy's dtype."""
        copy = self._copies.get(weight) if isinstance(weight, nn.Parameter) else None
        if copy is None or copy.dtype != dtype:
            return weight.to(dtype)
        cast: Tensor = _UseCopy.apply(weight, copy)  # type: ignore[no-untyped-call]  # torch leaves it
        return cast

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return x times the transposed weight, plus bias, in x's dtype."""
        if bias is not None:
            bias = bias.to(x.dtype)
        return F.linear(x, self(weight, x.dtype), bias)

    @torch.no_grad()
    def renew(self) -> None:
        """Cast the master weights anew."""
        for weight, copy in self._copies.items():
            copy.copy_(weight)

    def _taken_over(self, model: Decoder) -> Iterator[nn.Parameter]:
        """Yield the matrices that passes read through this object from now on."""
        for module in model.modules():
            if isinstance(module, Linear):
                module.product = self.product
                yield module.weight
            elif isinstance(module, ExpertLinear):
                module.cast = self
                yield module.weight
            elif isinstance(module, LossHead):
                module.cast = self
                if module.weight is not None:
                    yield module.weight
                elif model.embedding is not None:
                    yield model.embedding.weight


class _UseCopy(torch.autograd.Function):
    """Copy of a master weight; its gradient goes to the master weight."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, copy: Tensor) -> Tensor:
        """Return the copy."""
        ctx.dtype = weight.dtype
        return copy.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return the gradient in the master's dtype."""
        return grads[0].to(ctx.dtype), None
