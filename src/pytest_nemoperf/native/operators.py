"""Operators with a backward of their own, where plain autograd takes many more passes over memory."""

# B sequences, S tokens of a sequence, T = B*S tokens, D hidden, N heads, C width of a head, F width of the MLP

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def rotate(x_BSNC: Tensor, cos_SC: Tensor, sin_SC: Tensor) -> Tensor:
    """Rotate the pairs (c, c + C/2) of every head by its position's angles; cos and sin hold C/2 columns."""
    rotated: Tensor = _Rotate.apply(x_BSNC, cos_SC, sin_SC)  # type: ignore[no-untyped-call]  # torch leaves it so
    return rotated


def rms_norm(x_TD: Tensor, weight_D: Tensor, *, eps: float) -> Tensor:
    """Return the input over its root mean square, times the weight."""
    if x_TD.is_cuda or x_TD.dtype != torch.float32:
        return F.rms_norm(x_TD, weight_D.shape, weight_D, eps)
    # On the CPU torch composes it, forward and backward, of two and a half times as many passes.
    normed: Tensor = _HostRMSNorm.apply(x_TD, weight_D, eps)  # type: ignore[no-untyped-call]  # as above
    return normed


def swiglu(gate_up_TF: Tensor) -> Tensor:
    """Return silu(gate) * up, where the first half of the columns is the gate."""
    product: Tensor = _SwiGLU.apply(gate_up_TF)  # type: ignore[no-untyped-call]  # as above
    return product


def cross_entropy_sum(logits_TV: Tensor, labels_T: Tensor) -> Tensor:
    """Return the next-token loss summed over the tokens, in fp32."""
    loss: Tensor = _CrossEntropy.apply(logits_TV.float(), labels_T)  # type: ignore[no-untyped-call]  # as above
    return loss


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BSNC: Tensor, cos_SC: Tensor, sin_SC: Tensor) -> Tensor:
        ctx.save_for_backward(cos_SC, sin_SC)
        return _rotated(x_BSNC, cos_SC, sin_SC)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos_SC, sin_SC = ctx.saved_tensors
        return _rotated(grads[0], cos_SC, -sin_SC), None, None


def _rotated(x_BSNC: Tensor, cos_SC: Tensor, sin_SC: Tensor) -> Tensor:
    cos_S1C, sin_S1C = cos_SC[:, None], sin_SC[:, None]
    out_BSNC = torch.empty(x_BSNC.shape, dtype=x_BSNC.dtype, device=x_BSNC.device)
    first, second = x_BSNC.chunk(2, dim=-1)
    out_first, out_second = out_BSNC.chunk(2, dim=-1)
    torch.mul(first, cos_S1C, out=out_first).addcmul_(second, sin_S1C, value=-1)
    torch.mul(second, cos_S1C, out=out_second).addcmul_(first, sin_S1C)
    return out_BSNC


class _HostRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        norm_T1 = torch.linalg.vector_norm(x_TD, dim=-1, keepdim=True)
        scale_T1 = norm_T1.square_().div_(x_TD.shape[-1]).add_(eps).rsqrt_()
        unit_TD = x_TD * scale_T1
        ctx.save_for_backward(unit_TD, scale_T1, weight_D)
        out_TD: Tensor = unit_TD * weight_D
        return out_TD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        unit_TD, scale_T1, weight_D = ctx.saved_tensors
        product_TD = grads[0] * unit_TD
        grad_weight_D = product_TD.sum(0)
        # The gradient has no part along the row itself: its scale is normalised away.
        along_T1 = torch.mv(product_TD, weight_D).div_(-weight_D.shape[0])[:, None]
        grad_TD = torch.mul(grads[0], weight_D, out=product_TD).addcmul_(unit_TD, along_T1).mul_(scale_T1)
        return grad_TD, grad_weight_D, None


class _SwiGLU(torch.autograd.Function):
    """Writes both gradients where they belong, instead of into two tensors to be joined."""

    @staticmethod
    def forward(ctx: Any, gate_up_TF: Tensor) -> Tensor:
        gate_TF, up_TF = gate_up_TF.chunk(2, dim=-1)
        activation_TF = F.silu(gate_TF)
        ctx.save_for_backward(gate_up_TF, activation_TF)
        return activation_TF * up_TF

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        gate_up_TF, activation_TF = ctx.saved_tensors
        gate_TF, up_TF = gate_up_TF.chunk(2, dim=-1)
        grad_TF = torch.empty_like(gate_up_TF)
        grad_gate_TF, grad_up_TF = grad_TF.chunk(2, dim=-1)
        torch.mul(grads[0], activation_TF, out=grad_up_TF)
        torch.mul(grads[0], up_TF, out=grad_gate_TF)
        torch.ops.aten.silu_backward.grad_input(grad_gate_TF, gate_TF, grad_input=grad_gate_TF)
        return grad_TF


class _CrossEntropy(torch.autograd.Function):
    """Turns the log-probabilities into their gradient in place: they are the largest activation there is."""

    @staticmethod
    def forward(ctx: Any, logits_TV: Tensor, labels_T: Tensor) -> Tensor:
        log_probs_TV = logits_TV.log_softmax(-1)
        loss: Tensor = -log_probs_TV.gather(1, labels_T[:, None]).sum()
        ctx.save_for_backward(log_probs_TV.exp_(), labels_T)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        probs_TV, labels_T = ctx.saved_tensors
        labels_T1 = labels_T[:, None]
        probs_TV.scatter_(1, labels_T1, probs_TV.gather(1, labels_T1) - 1)
        return probs_TV.mul_(grads[0]), None
