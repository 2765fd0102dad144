"""Operators with a custom backward that makes fewer passes over memory than plain autograd.

In a block compiled by torch.compile plain operations take their place: the compiler fuses those, and would break the
graph at these. Without gradients the same forward runs without autograd.Function, which costs small batches as much
as several operations.
"""

# B sequences, S tokens of a sequence, T = B*S tokens, D hidden, N heads of a fused tensor, H query heads,
# K key-value heads, C width of a head, R rotated pairs of a head, F width of the MLP

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def split_heads(qkv_BSNC: Tensor, *, num_kv_heads: int, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Split the fused projection into queries, keys and values, and rotate queries and keys by their positions.

    Args:
        qkv_BSNC: All query heads, then all key heads, then all value heads.
        num_kv_heads: Number of key heads, and of value heads.
        angles: Cosines and sines of each position's angles, (S, R), for the pairs (r, r + R) of a head's first
            2R columns; the other columns are not rotated.
    """
    if torch.compiler.is_compiling():
        sizes = [qkv_BSNC.shape[2] - 2 * num_kv_heads, num_kv_heads, num_kv_heads]
        q_BSHC, k_BSKC, v_BSKC = torch.split(qkv_BSNC, sizes, dim=2)
        return _plain_rotate(q_BSHC, *angles), _plain_rotate(k_BSKC, *angles), v_BSKC
    if not torch.is_grad_enabled():
        return _split_heads(qkv_BSNC, num_kv_heads, *angles)
    heads: tuple[Tensor, Tensor, Tensor] = _SplitHeads.apply(  # type: ignore[no-untyped-call]  # torch leaves it so
        qkv_BSNC, num_kv_heads, *angles
    )
    return heads


def rotate(x_BSNC: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Return the heads rotated by their positions; angles as in split_heads."""
    if torch.compiler.is_compiling():
        return _plain_rotate(x_BSNC, *angles)
    if not torch.is_grad_enabled():
        return _rotated(x_BSNC, *angles)
    rotated: Tensor = _Rotate.apply(x_BSNC, *angles)  # type: ignore[no-untyped-call]  # as above
    return rotated


def rms_norm(x: Tensor, weight_D: Tensor, *, eps: float) -> Tensor:
    """Return the input over the root mean square of its last dimension, times the weight."""
    if x.is_cuda or x.dtype != torch.float32 or torch.compiler.is_compiling():
        return F.rms_norm(x, weight_D.shape, weight_D, eps)
    # On the CPU torch's own rms_norm makes two and a half times as many passes over memory, forward and backward.
    x_TD = x.reshape(-1, weight_D.shape[0])
    if not torch.is_grad_enabled():
        return _unit_rows(x_TD, eps=eps)[0].mul_(weight_D).view(x.shape)
    normed_TD: Tensor = _HostRMSNorm.apply(x_TD, weight_D, eps)  # type: ignore[no-untyped-call]  # as above
    return normed_TD.view(x.shape)


def swiglu(gate_up_TF: Tensor) -> Tensor:
    """Return silu(gate) * up; the first half of the columns is the gate."""
    if torch.compiler.is_compiling():
        gate_TF, up_TF = gate_up_TF.chunk(2, dim=-1)
        return F.silu(gate_TF) * up_TF
    if not torch.is_grad_enabled():
        gate_TF, up_TF = gate_up_TF.chunk(2, dim=-1)
        return F.silu(gate_TF).mul_(up_TF)
    product: Tensor = _SwiGLU.apply(gate_up_TF)  # type: ignore[no-untyped-call]  # as above
    return product


def cross_entropy(logits_TV: Tensor, labels_T: Tensor) -> Tensor:
    """Return the next-token loss of each token (T), in fp32."""
    loss_T: Tensor = _CrossEntropy.apply(logits_TV.float(), labels_T)  # type: ignore[no-untyped-call]  # as above
    return loss_T


def contiguous_gradient(x: Tensor) -> Tensor:
    """Identity that makes the gradient contiguous, as grouped products reject expanded ones."""
    identity: Tensor = _ContiguousGradient.apply(x)  # type: ignore[no-untyped-call]  # as above
    return identity


def copy_rows(x_TD: Tensor, *, num_copies: int, order_R: Tensor, inverse_R: Tensor) -> Tensor:
    """Repeat each row ``num_copies`` times and permute the copies; returns (R, D), with R = T*K.

    Args:
        x_TD: Rows.
        num_copies: Copies of each row (K).
        order_R: Permutation: the copy at each index of the output; copy k of row t is number t*K + k.
        inverse_R: Inverse permutation: the index of each copy in the output.
    """
    rows_RD: Tensor = _CopyRows.apply(x_TD, num_copies, order_R, inverse_R)  # type: ignore[no-untyped-call]  # as above
    return rows_RD


class _SplitHeads(torch.autograd.Function):
    """Rotates queries and keys in one pass; the backward fills one tensor instead of concatenating three."""

    @staticmethod
    def forward(
        ctx: Any, qkv_BSNC: Tensor, num_kv_heads: int, cos_SR: Tensor, sin_SR: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos_SR, sin_SR)
        return _split_heads(qkv_BSNC, num_kv_heads, cos_SR, sin_SR)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        cos_SR, sin_SR = ctx.saved_tensors
        sizes = [grad.shape[2] for grad in grads]
        shape_BSNC = (*grads[0].shape[:2], sum(sizes), grads[0].shape[3])
        grad_BSNC = torch.empty(shape_BSNC, dtype=grads[0].dtype, device=grads[0].device)
        q_BSHC, k_BSKC, v_BSKC = torch.split(grad_BSNC, sizes, dim=2)
        _rotate(grads[0], cos_SR, -sin_SR, out=q_BSHC)
        _rotate(grads[1], cos_SR, -sin_SR, out=k_BSKC)
        v_BSKC.copy_(grads[2])
        return grad_BSNC, None, None, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BSNC: Tensor, cos_SR: Tensor, sin_SR: Tensor) -> Tensor:
        ctx.save_for_backward(cos_SR, sin_SR)
        return _rotated(x_BSNC, cos_SR, sin_SR)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos_SR, sin_SR = ctx.saved_tensors
        grad_BSNC = torch.empty(grads[0].shape, dtype=grads[0].dtype, device=grads[0].device)
        _rotate(grads[0], cos_SR, -sin_SR, out=grad_BSNC)
        return grad_BSNC, None, None


def _split_heads(qkv_BSNC: Tensor, num_kv_heads: int, cos_SR: Tensor, sin_SR: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    qk_BSNC = _rotated(qkv_BSNC[:, :, :-num_kv_heads], cos_SR, sin_SR)
    v_BSKC = qkv_BSNC[:, :, -num_kv_heads:]
    return qk_BSNC[:, :, :-num_kv_heads], qk_BSNC[:, :, -num_kv_heads:], v_BSKC


def _rotated(x_BSNC: Tensor, cos_SR: Tensor, sin_SR: Tensor) -> Tensor:
    rotated_BSNC = torch.empty(x_BSNC.shape, dtype=x_BSNC.dtype, device=x_BSNC.device)
    _rotate(x_BSNC, cos_SR, sin_SR, out=rotated_BSNC)
    return rotated_BSNC


def _plain_rotate(x_BSNC: Tensor, cos_SR: Tensor, sin_SR: Tensor) -> Tensor:
    cos_S1R = cos_SR[:, None]
    sin_S1R = sin_SR[:, None]
    num_pairs = cos_SR.shape[1]
    first, second, rest = torch.split(x_BSNC, [num_pairs, num_pairs, x_BSNC.shape[-1] - 2 * num_pairs], dim=-1)
    return torch.cat([first * cos_S1R - second * sin_S1R, second * cos_S1R + first * sin_S1R, rest], dim=-1)


def _rotate(x_BSNC: Tensor, cos_SR: Tensor, sin_SR: Tensor, *, out: Tensor) -> None:
    cos_S1R = cos_SR[:, None]
    sin_S1R = sin_SR[:, None]
    num_pairs = cos_SR.shape[1]
    sizes = [num_pairs, num_pairs, x_BSNC.shape[-1] - 2 * num_pairs]
    first, second, rest = torch.split(x_BSNC, sizes, dim=-1)
    out_first, out_second, out_rest = torch.split(out, sizes, dim=-1)
    torch.mul(first, cos_S1R, out=out_first).addcmul_(second, sin_S1R, value=-1)
    torch.mul(second, cos_S1R, out=out_second).addcmul_(first, sin_S1R)
    if sizes[-1]:
        out_rest.copy_(rest)


def _unit_rows(x_TD: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """Return the rows scaled to unit root mean square, and their scales."""
    norm_T1 = torch.linalg.vector_norm(x_TD, dim=-1, keepdim=True)
    scale_T1 = norm_T1.square_().div_(x_TD.shape[-1]).add_(eps).rsqrt_()
    return x_TD * scale_T1, scale_T1


class _HostRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        unit_TD, scale_T1 = _unit_rows(x_TD, eps=eps)
        ctx.save_for_backward(unit_TD, scale_T1, weight_D)
        out_TD: Tensor = unit_TD * weight_D
        return out_TD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        unit_TD, scale_T1, weight_D = ctx.saved_tensors
        product_TD = grads[0] * unit_TD
        grad_weight_D = product_TD.sum(0)
        # The gradient has no component along the row itself: its scale is normalised away.
        along_T1 = torch.mv(product_TD, weight_D).div_(-weight_D.shape[0])[:, None]
        grad_TD = torch.mul(grads[0], weight_D, out=product_TD).addcmul_(unit_TD, along_T1).mul_(scale_T1)
        return grad_TD, grad_weight_D, None


class _SwiGLU(torch.autograd.Function):
    """The backward writes both gradients into one tensor instead of concatenating two."""

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


class _ContiguousGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx  # nothing to save
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        del ctx  # as above
        return grads[0].contiguous()


class _CopyRows(torch.autograd.Function):
    """The order is a permutation, so the backward gathers; autograd's would scatter-add row by row."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, num_copies: int, order_R: Tensor, inverse_R: Tensor) -> Tensor:
        ctx.save_for_backward(inverse_R)
        ctx.num_copies = num_copies
        return x_TD.index_select(0, order_R.div(num_copies, rounding_mode="floor"))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse_R,) = ctx.saved_tensors
        grad_RD = grads[0].index_select(0, inverse_R)
        if ctx.num_copies == 1:
            return grad_RD, None, None, None
        grad_TD = torch.unflatten(grad_RD, 0, (-1, ctx.num_copies)).sum(1)
        return grad_TD, None, None, None


class _CrossEntropy(torch.autograd.Function):
    """The backward overwrites the probabilities, the model's largest activation, with the gradient."""

    @staticmethod
    def forward(ctx: Any, logits_TV: Tensor, labels_T: Tensor) -> Tensor:
        log_probs_TV = logits_TV.log_softmax(-1)
        loss_T = -log_probs_TV.gather(1, labels_T[:, None])[:, 0]
        ctx.save_for_backward(log_probs_TV.exp_(), labels_T)
        return loss_T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        probs_TV, labels_T = ctx.saved_tensors
        labels_T1 = labels_T[:, None]
        probs_TV.scatter_(1, labels_T1, probs_TV.gather(1, labels_T1) - 1)
        return probs_TV.mul_(grads[0][:, None]), None
