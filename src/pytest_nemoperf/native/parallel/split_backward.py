"""Backward passes in two halves: first the gradients of inputs, later those of matrices.

The first half is an ordinary backward pass, but each matrix product keeps its input and the gradient of its output in
place of the gradient of its weight. The second half computes these. Nothing is computed twice, recomputation included,
and all other activations are freed by the first half. Weights that are no matrices (norms, biases, routers, tables) and
the products of 8-bit and 4-bit precisions, get their gradients in the first half.

References:
    Qi et al. 2023, https://arxiv.org/abs/2401.10241, whose implementation keeps the same pairs
"""

# T tokens, R rows of experts, I width into and O width out of a matrix, E experts

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pytest_nemoperf.native.model.layers import Linear, plain_product
from pytest_nemoperf.native.model.moe import ExpertLinear, Experts, experts_weight_gradient, grouped_product
from pytest_nemoperf.native.model.transformer import Decoder, LossHead

WeightPass = Callable[[], None]
"""Adds the gradients of one pass to the weights."""


class SplitBackward:
    """Matrix products that leave their weights' gradients to the second half of the backward pass."""

    def __init__(self) -> None:
        self._waiting: list[WeightPass] = []

    def apply(self, model: Decoder) -> None:
        """Replace the plain matrix products of a model; call it after those of its precision are in place."""
        for module in model.modules():
            if isinstance(module, (Linear, LossHead)) and module.product is plain_product:
                module.product = self._product
            elif isinstance(module, Experts):
                module.product = self._experts_product
            if isinstance(module, (ExpertLinear, LossHead)):
                module.cast = _uncast  # the products do it, and add to the gradient of the weight itself

    def take(self) -> WeightPass:
        """Return the second half of the backward pass that has just run, and wait for the next."""
        waiting = self._waiting
        self._waiting = []
        return partial(_run, waiting)

    def _wait(self, weight_pass: WeightPass) -> None:
        self._waiting.append(weight_pass)

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not torch.is_grad_enabled():
            return plain_product(x, weight, bias)
        out: Tensor = _Product.apply(x, weight, bias, self._wait)  # type: ignore[no-untyped-call]  # torch leaves it
        return out

    def _experts_product(self, x_RI: Tensor, weight_EOI: Tensor, counts_E: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return grouped_product(x_RI, weight_EOI, counts_E)
        out: Tensor = _ExpertsProduct.apply(  # type: ignore[no-untyped-call]  # as above
            x_RI, weight_EOI, counts_E, self._wait
        )
        return out


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, wait: Callable[[WeightPass], None]) -> Tensor:
        cast = weight.to(x.dtype)
        ctx.save_for_backward(x, cast)
        ctx.weight = weight
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.wait = wait
        if bias is not None:
            bias = bias.to(x.dtype)
        return F.linear(x, cast, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad_TO = grads[0].flatten(0, -2)
        ctx.wait(partial(_add_product, ctx.weight, grad_TO, x.flatten(0, -2)))
        grad_bias = None
        if ctx.bias_dtype is not None:
            grad_bias = grad_TO.sum(0).to(ctx.bias_dtype)
        return grads[0] @ weight, None, grad_bias, None


class _ExpertsProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_RI: Tensor, weight_EOI: Tensor, counts_E: Tensor, wait: Callable[[WeightPass], None]
    ) -> Tensor:
        cast_EOI = weight_EOI.to(x_RI.dtype)
        ctx.save_for_backward(x_RI, cast_EOI, counts_E)
        ctx.weight = weight_EOI
        ctx.wait = wait
        return grouped_product(x_RI, cast_EOI, counts_E)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        x_RI, weight_EOI, counts_E = ctx.saved_tensors
        grad_RO = grads[0].contiguous()
        ctx.wait(partial(_add_experts_product, ctx.weight, grad_RO, x_RI, counts_E))
        return grouped_product(grad_RO, weight_EOI.transpose(1, 2), counts_E), None, None, None


def _uncast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    del dtype  # that of the product's input
    return weight


def _run(waiting: list[WeightPass]) -> None:
    with torch.no_grad():
        while waiting:
            waiting.pop(0)()  # frees what it kept


def _add_product(weight: Tensor, grad_TO: Tensor, x_TI: Tensor) -> None:
    _add(weight, grad_TO.t() @ x_TI)


def _add_experts_product(weight_EOI: Tensor, grad_RO: Tensor, x_RI: Tensor, counts_E: Tensor) -> None:
    _add(weight_EOI, experts_weight_gradient(grad_RO, x_RI, counts_E, weight_EOI=weight_EOI))


def _add(weight: Tensor, grad: Tensor) -> None:
    if weight.grad is None:
        weight.grad = grad.to(weight.dtype)
    else:
        weight.grad += grad
