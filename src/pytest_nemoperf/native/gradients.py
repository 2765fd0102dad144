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
class _Piece:
    """A parameter, or some rows of it that other ranks of the tp axis have copies of.

    Attributes:
        parameter: Of this rank.
        rows: Of its part over the tp axis, before FSDP takes its shard; None for all.
        num_copies: Ranks of the tp axis with the same rows.
    """

    parameter: Tensor
    rows: slice | None = None
    num_copies: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sum:
    """One collective of ``complete``: gradients that are summed over a group and then scaled."""

    group: ProcessGroup | None
    factor: float
    pieces: Sequence[_Piece]


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
            self._sums.append(_Sum(group=tied_group, factor=1.0, pieces=[_Piece(parameter=tied)]))
        self._by_copies: dict[int, list[_Piece]] = {}
        for parameter, weight in pairs:
            copies = num_copies(weight, layout=layout) * (2 if parameter is tied else 1)
            for piece in _pieces(parameter, weight, tp=layout.tp):
                self._by_copies.setdefault(copies * piece.num_copies, []).append(piece)
        self._world = mesh.world

    @property
    def are_partial(self) -> bool:
        """Whether ``complete`` has anything to do."""
        return bool(self._sums)

    def complete(self) -> None:
        """Sum what each rank has only a part of."""
        for each in self._sums:
            grads = _local_grads(each.pieces)
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
        by_copies = {copies: _local_grads(pieces) for copies, pieces in self._by_copies.items()}
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
    """Return how many ranks hold the same element of a weight (or of its shard), within its pipeline stage.

    Copies of a split weight's rows over the tp axis come on top: they are counted for each piece.
    """
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
    experts = [_Piece(parameter=parameter) for parameter, weight in pairs if weight.is_expert]
    summed = [_Piece(parameter=parameter) for parameter, weight in dense if weight.tensor_grad in partial]
    yield _Sum(group=mesh.tp, factor=1.0, pieces=summed)
    # Each rank has used its copy of a key-value head for its own query heads alone.
    pieces = [piece for parameter, weight in dense for piece in _pieces(parameter, weight, tp=layout.tp)]
    yield _Sum(group=mesh.kv_copies, factor=1.0, pieces=[piece for piece in pieces if piece.num_copies > 1])
    if not are_averaged and mesh.replicas is not None:
        averaged = [_Piece(parameter=parameter) for parameter, _ in dense]
        yield _Sum(group=mesh.replicas, factor=1 / mesh.replicas.size(), pieces=averaged)
    # Experts see the tokens of several data-parallel ranks: the sum over all tokens is what their gradient
    # is, and it is divided by as many ranks as a dense gradient is averaged over.
    num_averaged = 1 if mesh.expert_shards is None else mesh.expert_shards.size()
    yield _Sum(group=mesh.expert_replicas, factor=num_averaged / (layout.dp * layout.cp), pieces=experts)
    whole = [_Piece(parameter=parameter) for parameter, weight in pairs if weight.is_expert and weight.split is None]
    yield _Sum(group=mesh.etp, factor=1.0, pieces=whole)


def _pieces(parameter: Tensor, weight: Weight, *, tp: int) -> Iterable[_Piece]:
    """Yield a parameter, section by section where the tp axis copies some of them."""
    cuts = () if weight.split is None or weight.is_expert else weight.split.cuts(weight.shape, degree=tp)
    if all(cut.num_copies == 1 for cut in cuts):
        yield _Piece(parameter=parameter)
        return
    first = 0
    for cut in cuts:
        yield _Piece(parameter=parameter, rows=slice(first, first + cut.length), num_copies=cut.num_copies)
        first += cut.length


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
    return bool(each.pieces) and (each.group is not None or not math.isclose(each.factor, 1.0))


def _local_grads(pieces: Iterable[_Piece]) -> list[Tensor]:
    """Return the gradients on this rank; of rows that are all in other shards there is nothing."""
    grads = []
    for piece in pieces:
        grad = piece.parameter.grad
        if grad is None:
            continue
        local = grad.to_local() if isinstance(grad, DTensor) else grad
        if piece.rows is not None:
            first = _first_row(grad)
            local = local[max(0, piece.rows.start - first) : max(0, piece.rows.stop - first)]
        if piece.rows is None or local.numel():
            grads.append(local)
    return grads


def _first_row(grad: Tensor) -> int:
    """Return which row the shard on this rank begins with; FSDP cuts rows as torch.chunk does."""
    if not isinstance(grad, DTensor):
        return 0
    mesh = grad.device_mesh
    return mesh.get_local_rank("shard") * math.ceil(grad.shape[0] / mesh.size(-1))
