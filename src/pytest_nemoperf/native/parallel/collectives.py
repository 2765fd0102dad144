"""Differentiable collectives over process groups; all work on dimension 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup


def all_gather(shard: Tensor, *, group: ProcessGroup) -> Tensor:
    """Concatenate every rank's shard; the gradient is reduce-scattered."""
    return _AllGather.apply(shard, group)  # type: ignore[no-any-return, no-untyped-call]  # torch leaves it untyped


def all_gather_replicated(shard: Tensor, *, group: ProcessGroup) -> Tensor:
    """Concatenate every rank's shard for replicated computation; the gradient is this rank's chunk."""
    return _AllGatherReplicated.apply(shard, group)  # type: ignore[no-any-return, no-untyped-call]  # as above


def reduce_scatter(partial: Tensor, *, group: ProcessGroup) -> Tensor:
    """Sum over the ranks and keep this rank's shard; the gradient is all-gathered."""
    return _ReduceScatter.apply(partial, group)  # type: ignore[no-any-return, no-untyped-call]  # as above


def all_reduce(partial: Tensor, *, group: ProcessGroup) -> Tensor:
    """Sum over the ranks; the gradient, the same on every rank, passes through."""
    return _AllReduce.apply(partial, group)  # type: ignore[no-any-return, no-untyped-call]  # as above


def all_reduce_gradient(replica: Tensor, *, group: ProcessGroup) -> Tensor:
    """Return a replicated value unchanged; its gradient is summed over the ranks."""
    return _AllReduceGradient.apply(replica, group)  # type: ignore[no-any-return, no-untyped-call]  # as above


def all_to_all(x: Tensor, *, group: ProcessGroup, sends: Sequence[int] = (), receives: Sequence[int] = ()) -> Tensor:
    """Send the n-th part of dimension 0 to the n-th rank; the gradient is sent back the same way.

    Args:
        x: Parts for each rank, one after the other.
        group: Ranks of the exchange.
        sends: Rows for each rank; empty for equal parts.
        receives: Rows from each rank; empty for equal parts.
    """
    return _AllToAll.apply(x, group, sends, receives)  # type: ignore[no-any-return, no-untyped-call]  # as above


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup, sends: Sequence[int], receives: Sequence[int]) -> Tensor:
        ctx.group = group
        ctx.sends = sends
        ctx.receives = receives
        return _exchanged(x, group, sends=sends, receives=receives)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return _exchanged(grads[0], ctx.group, sends=ctx.receives, receives=ctx.sends), None, None, None


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shard: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return _gathered(shard, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _scattered(grads[0], ctx.group), None


class _AllGatherReplicated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shard: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return _gathered(shard, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].chunk(ctx.group.size())[ctx.group.rank()], None


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return _scattered(partial, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _gathered(grads[0], ctx.group), None


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, group: ProcessGroup) -> Tensor:
        del ctx
        return _summed(partial, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        del ctx
        return grads[0], None


class _AllReduceGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, replica: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return replica.view_as(replica)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _summed(grads[0], ctx.group), None


def _gathered(shard: Tensor, group: ProcessGroup) -> Tensor:
    out = shard.new_empty(group.size() * shard.shape[0], *shard.shape[1:])
    # torch 2.13 renamed the collective and warns about the old name, the only one in older versions.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(out, shard.contiguous(), group=group)
    return out


def _scattered(partial: Tensor, group: ProcessGroup) -> Tensor:
    out = partial.new_empty(partial.shape[0] // group.size(), *partial.shape[1:])
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor  # as above
    scatter(out, partial.contiguous(), group=group)
    return out


def _summed(partial: Tensor, group: ProcessGroup) -> Tensor:
    out = partial.clone(memory_format=torch.contiguous_format)  # autograd owns the input
    dist.all_reduce(out, group=group)
    return out


def _exchanged(x: Tensor, group: ProcessGroup, *, sends: Sequence[int], receives: Sequence[int]) -> Tensor:
    num_rows = sum(receives) if receives else x.shape[0]
    out = x.new_empty(num_rows, *x.shape[1:])
    dist.all_to_all_single(out, x.contiguous(), list(receives) or None, list(sends) or None, group=group)
    return out
