"""Gradients between backward and the optimizer: reduction over the axes, global norm, clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.weights import TPGrad, Weight
from pytest_nemoperf.native.parallel.mesh import RankMesh

_BUCKET_BYTES = 2**28


@dataclass(frozen=True, slots=True, kw_only=True)
class _ParameterRows:
    """A parameter, or rows of it that other ranks of the tp axis hold as well.

    Attributes:
        parameter: Parameter of this rank.
        rows: Rows of the tp shard, before FSDP shards it further; None for all.
        num_copies: Ranks of the tp axis with the same rows.
    """

    parameter: Tensor
    rows: slice | None = None
    num_copies: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reduction:
    """One reduction: gradients that are summed over a group and then scaled."""

    group: ProcessGroup | None
    factor: float
    pieces: Sequence[_ParameterRows]


class Gradients:
    """Gradients of one rank's shards.

    All arithmetic is on local tensors, because ranks of different axes hold different parts and torch's clipping
    takes one mesh at a time.

    Args:
        parameters: Parameters of this rank, by the name of the weight in the whole model.
        weights: Sharding of each weight, by name.
        layout: Parallel degrees.
        mesh: Process groups of this rank.
        are_averaged: Dense gradients are averaged over the data-parallel ranks while backward runs; otherwise
            ``reduce`` does it.
        tied: Embedding table, if the first and the last pipeline stage each have a copy.
        tied_group: The two ranks with the copies.
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
        sums = _reductions(pairs, layout=layout, mesh=mesh, are_averaged=are_averaged)
        self._reductions = [reduction for reduction in sums if _is_needed(reduction)]
        if tied is not None and tied_group is not None:
            self._reductions.append(_Reduction(group=tied_group, factor=1.0, pieces=[_ParameterRows(parameter=tied)]))
        self._by_copies: dict[int, list[_ParameterRows]] = {}
        for parameter, weight in pairs:
            copies = _num_copies(weight, layout=layout)
            if parameter is tied:
                copies *= 2
            for piece in _parameter_rows(parameter, weight, tp=layout.tp):
                self._by_copies.setdefault(copies * piece.num_copies, []).append(piece)
        self._world = mesh.world

    @property
    def are_partial(self) -> bool:
        """Whether gradients must be reduced after backward."""
        return bool(self._reductions)

    def reduce(self) -> None:
        """Sum partial gradients over their groups."""
        for reduction in self._reductions:
            grads = _local_grads(reduction.pieces)
            if not grads:
                continue
            if reduction.group is not None:
                for bucket in _buckets(grads):
                    _all_reduce(bucket, group=reduction.group)
            if reduction.factor != 1:
                torch._foreach_mul_(grads, reduction.factor)

    def clip(self, max_norm: float) -> Tensor:
        """Clip the global gradient norm.

        Returns:
            Norm of the whole gradient before clipping, the same on every rank; it stays on the device.
        """
        grads: list[Tensor] = []
        squares: list[Tensor] = []
        for copies, pieces in self._by_copies.items():
            group_grads = _local_grads(pieces)
            if group_grads:
                # Each of the ranks with copies of an element adds its fraction: the sum over all ranks has it once.
                squares.append(torch.nn.utils.get_total_norm(group_grads, foreach=True).square() / copies)
                grads += group_grads
        total = torch.stack(squares).sum()
        if self._world is not None:
            dist.all_reduce(total, group=self._world)
        norm = total.sqrt()
        torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm


def _num_copies(weight: Weight, *, layout: Layout) -> int:
    """Return the number of ranks of a pipeline stage that hold the same element of a weight (or of its shard).

    Copies of a split weight's rows over the tp axis are not included: ``_ParameterRows`` counts them.
    """
    is_sharded = layout.dp_shard > 1
    copies = layout.dp_replicate
    if weight.is_expert:
        if not is_sharded:
            copies = layout.expert_dp
        if weight.split is None:
            copies *= layout.etp
        return copies
    if not is_sharded:
        copies *= layout.cp
    if weight.split is None:
        copies *= layout.tp
    return copies


def _reductions(
    pairs: Sequence[tuple[Tensor, Weight]], *, layout: Layout, mesh: RankMesh, are_averaged: bool
) -> Iterable[_Reduction]:
    """Yield every reduction a layout could need, in order, also those over no group or of no gradients."""
    partial_over_tp = {TPGrad.HEADS}
    if layout.sequence_parallel:
        partial_over_tp.add(TPGrad.TOKENS)
    dense: list[_ParameterRows] = []
    experts: list[_ParameterRows] = []
    over_tp: list[_ParameterRows] = []
    over_kv_copies: list[_ParameterRows] = []
    over_etp: list[_ParameterRows] = []
    for parameter, weight in pairs:
        whole = _ParameterRows(parameter=parameter)
        if weight.is_expert:
            experts.append(whole)
            if weight.split is None:
                over_etp.append(whole)
            continue
        dense.append(whole)
        if weight.tp_grad in partial_over_tp:
            over_tp.append(whole)
        over_kv_copies += [piece for piece in _parameter_rows(parameter, weight, tp=layout.tp) if piece.num_copies > 1]
    yield _Reduction(group=mesh.tp, factor=1.0, pieces=over_tp)
    # Each rank has used its copy of a key-value head for its own query heads alone.
    yield _Reduction(group=mesh.kv_copies, factor=1.0, pieces=over_kv_copies)
    if not are_averaged and mesh.replicas is not None:
        yield _Reduction(group=mesh.replicas, factor=1 / mesh.replicas.size(), pieces=dense)
    # Experts get the tokens of several data-parallel ranks: their gradient is the sum over all tokens, divided by the
    # number of ranks that a dense gradient is averaged over. FSDP has averaged over the shards already.
    num_averaged = 1 if mesh.expert_shards is None else mesh.expert_shards.size()
    yield _Reduction(group=mesh.expert_replicas, factor=num_averaged / (layout.dp * layout.cp), pieces=experts)
    yield _Reduction(group=mesh.etp, factor=1.0, pieces=over_etp)


def _parameter_rows(parameter: Tensor, weight: Weight, *, tp: int) -> Iterable[_ParameterRows]:
    """Yield a parameter whole, or section by section if the tp axis copies some of them."""
    if weight.split is None or weight.is_expert:
        yield _ParameterRows(parameter=parameter)
        return
    cuts = weight.split.cuts(weight.shape, degree=tp)
    if all(cut.num_copies == 1 for cut in cuts):
        yield _ParameterRows(parameter=parameter)
        return
    first = 0
    for cut in cuts:
        yield _ParameterRows(parameter=parameter, rows=slice(first, first + cut.length), num_copies=cut.num_copies)
        first += cut.length


def _buckets(grads: Sequence[Tensor]) -> Iterable[list[Tensor]]:
    """Yield buckets of gradients for one all-reduce each: few messages, and little memory beside the gradients."""
    bucket: list[Tensor] = []
    num_bytes = 0
    for grad in grads:
        if bucket and num_bytes + grad.nbytes > _BUCKET_BYTES:
            yield bucket
            bucket = []
            num_bytes = 0
        bucket.append(grad)
        num_bytes += grad.nbytes
    yield bucket


def _all_reduce(grads: list[Tensor], *, group: ProcessGroup) -> None:
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat, group=group)
    parts = torch.split(flat, [grad.numel() for grad in grads])
    torch._foreach_copy_(grads, [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)])


def _is_needed(reduction: _Reduction) -> bool:
    return bool(reduction.pieces) and (reduction.group is not None or not math.isclose(reduction.factor, 1.0))


def _local_grads(pieces: Iterable[_ParameterRows]) -> list[Tensor]:
    """Return the gradients on this rank, without rows that are in other shards."""
    grads = []
    for piece in pieces:
        grad = piece.parameter.grad
        if grad is None:
            continue
        local = grad
        if isinstance(grad, DTensor):
            local = grad.to_local()
        if piece.rows is not None:
            first = _first_row(grad)
            local = local[max(0, piece.rows.start - first) : max(0, piece.rows.stop - first)]
        if piece.rows is None or local.numel():
            grads.append(local)
    return grads


def _first_row(grad: Tensor) -> int:
    """Return the first row of this rank's shard; FSDP shards rows as torch.chunk does."""
    if not isinstance(grad, DTensor):
        return 0
    mesh = grad.device_mesh
    return mesh.get_local_rank("shard") * math.ceil(grad.shape[0] / mesh.size(-1))
