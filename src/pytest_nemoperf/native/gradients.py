"""What happens to gradients between backward and the optimizer: completed over the axes, measured, clipped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor

from pytest_nemoperf.native.mesh import RankMesh
from pytest_nemoperf.parallelism import Layout
from pytest_nemoperf.weights import TensorGrad, Weight

_BUCKET_BYTES = 2**28


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sum:
    """One collective of ``complete``: gradients that are summed over a group and then scaled."""

    group: ProcessGroup | None
    factor: float
    parameters: Sequence[Tensor]


class Gradients:
    """Gradients of one rank's shards.

    All arithmetic is on local tensors, because ranks of different axes hold different parts and torch's
    clipping knows one mesh at a time.

    Args:
        parameters: Of this rank, by the name the weight has in the whole model.
        weights: What the axes do with each weight, by name.
        layout: Parallel degrees.
        mesh: Of the run.
        are_averaged: Dense gradients are averaged over the data-parallel ranks while backward runs; otherwise
            ``complete`` does it.
        tied: The embedding table, where the first and the last pipeline stage each have a copy.
        tied_group: The two ranks that have them.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        *,
        weights: Mapping[str, Weight],
        layout: Layout,
        mesh: RankMesh,
        are_averaged: bool = True,
        tied: Tensor | None = None,
        tied_group: ProcessGroup | None = None,
    ) -> None:
        pairs = [(parameter, weights[name]) for name, parameter in parameters.items() if parameter.requires_grad]
        self._sums = [
            each for each in _sums(pairs, layout=layout, mesh=mesh, are_averaged=are_averaged) if _is_needed(each)
        ]
        if tied is not None and tied_group is not None:
            self._sums.append(_Sum(group=tied_group, factor=1.0, parameters=[tied]))
        self._by_copies: dict[int, list[Tensor]] = {}
        for parameter, weight in pairs:
            copies = num_copies(weight, layout=layout) * (2 if parameter is tied else 1)
            self._by_copies.setdefault(copies, []).append(parameter)
        self._world = mesh.world

    @property
    def are_partial(self) -> bool:
        """Whether ``complete`` has anything to do."""
        return bool(self._sums)

    def complete(self) -> None:
        """Sum what each rank has only a part of."""
        for each in self._sums:
            grads = _local_grads(each.parameters)
            if not grads:
                continue
            if each.group is not None:
                for bucket in _buckets(grads):
                    _all_reduce(bucket, group=each.group)
            if each.factor != 1:
                torch._foreach_mul_(grads, each.factor)

    def clip(self, max_norm: float) -> Tensor:
        """Scale all gradients down to the norm if they exceed it.

        Returns:
            Norm of the whole gradient before clipping, the same on every rank; it stays on the device.
        """
        by_copies = {copies: _local_grads(parameters) for copies, parameters in self._by_copies.items()}
        # Several ranks hold the same element: each counts its share, and the sum over all ranks has it once.
        squares = torch.stack(
            [torch.nn.utils.get_total_norm(grads, foreach=True).square() / n for n, grads in by_copies.items() if grads]
        ).sum()
        if self._world is not None:
            dist.all_reduce(squares, group=self._world)
        norm = squares.sqrt()
        grads = [grad for each in by_copies.values() for grad in each]
        torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm


def num_copies(weight: Weight, *, layout: Layout) -> int:
    """Return how many ranks hold the same element of a weight (or of its shard), within its pipeline stage."""
    is_sharded = layout.dp_shard > 1
    if weight.is_expert:
        data = layout.dp_replicate if is_sharded else layout.expert_dp
        return data * (1 if weight.split else layout.etp)
    data = layout.dp_replicate if is_sharded else layout.dp_replicate * layout.cp
    return data * (1 if weight.split else layout.tp)


def _sums(
    pairs: Sequence[tuple[Tensor, Weight]], *, layout: Layout, mesh: RankMesh, are_averaged: bool
) -> Iterable[_Sum]:
    """Yield every collective a layout could need, in order; those over no group or nothing are left out."""
    partial = {TensorGrad.HEADS, TensorGrad.TOKENS} if layout.sequence_parallel else {TensorGrad.HEADS}
    dense = [(parameter, weight) for parameter, weight in pairs if not weight.is_expert]
    experts = [parameter for parameter, weight in pairs if weight.is_expert]
    yield _Sum(group=mesh.tp, factor=1.0, parameters=[each for each, weight in dense if weight.tensor_grad in partial])
    if not are_averaged and mesh.replicas is not None:
        yield _Sum(group=mesh.replicas, factor=1 / mesh.replicas.size(), parameters=[each for each, _ in dense])
    # Experts see the tokens of several data-parallel ranks: the sum over all tokens is what their gradient
    # is, and it is divided by as many ranks as a dense gradient is averaged over.
    averaged = 1 if mesh.expert_shards is None else mesh.expert_shards.size()
    yield _Sum(group=mesh.expert_replicas, factor=averaged / (layout.dp * layout.cp), parameters=experts)
    whole = [parameter for parameter, weight in pairs if weight.is_expert and weight.split is None]
    yield _Sum(group=mesh.etp, factor=1.0, parameters=whole)


def _buckets(grads: Sequence[Tensor]) -> Iterable[list[Tensor]]:
    """Yield gradients in collectives' worth: few messages, and little memory beside the gradients."""
    bucket: list[Tensor] = []
    for grad in grads:
        if bucket and sum(each.nbytes for each in bucket) + grad.nbytes > _BUCKET_BYTES:
            yield bucket
            bucket = []
        bucket.append(grad)
    yield bucket


def _all_reduce(grads: list[Tensor], *, group: ProcessGroup) -> None:
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat, group=group)
    parts = torch.split(flat, [grad.numel() for grad in grads])
    torch._foreach_copy_(grads, [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)])


def _is_needed(each: _Sum) -> bool:
    return bool(each.parameters) and (each.group is not None or not math.isclose(each.factor, 1.0))


def _local_grads(parameters: Iterable[Tensor]) -> list[Tensor]:
    grads = (parameter.grad for parameter in parameters)
    return [grad.to_local() if isinstance(grad, DTensor) else grad for grad in grads if grad is not None]
