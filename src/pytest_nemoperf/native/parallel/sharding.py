"""Shards of weights over the tp, ep and etp axes, before FSDP shards them further."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from pytest_nemoperf.models.weights import ShardSpec, Weight
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.native.parallel.mesh import RankMesh


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisShard:
    """One rank's shard of a weight over one axis.

    Attributes:
        split: Dimension and sections that are cut.
        degree: Degree of the axis.
        rank: This rank's index on the axis.
    """

    split: ShardSpec
    degree: int
    rank: int

    def take(self, whole: Tensor) -> Tensor:
        """Return this rank's shard of a tensor, contiguous.

        Raises:
            PlanError: If the shards would not be equal.
        """
        dim = self.split.dim
        missing = -whole.shape[dim] % self.degree
        if self.split.is_padded and missing:
            whole = F.pad(whole, [0, 0] * (whole.dim() - dim - 1) + [0, missing])
        sections = []
        for cut in self.split.equal_cuts(whole.shape, degree=self.degree):
            first, end = cut.bounds(self.rank)
            sections.append(whole.narrow(dim, first, end - first))
        return torch.cat(sections, dim)


def axis_shards(weight: Weight, *, mesh: RankMesh) -> tuple[AxisShard, ...]:
    """Return this rank's shard of a weight, one axis after the other; empty for a weight that is not cut."""
    shards = tensor_shards(weight, mesh=mesh)
    if weight.is_expert and mesh.ep is not None:
        return (_axis_shard(ShardSpec(dim=0), mesh.ep), *shards)
    return shards


def tensor_shards(weight: Weight, *, mesh: RankMesh) -> tuple[AxisShard, ...]:
    """Return this rank's shard over tp, or over etp for an expert's weight; empty for a weight that is not cut."""
    group = mesh.etp if weight.is_expert else mesh.tp
    if weight.split is None or group is None:
        return ()
    return (_axis_shard(weight.split, group),)


def local_experts(num_experts: int, *, mesh: RankMesh) -> tuple[int, int]:
    """Return the first expert of this rank, and the one after its last."""
    if mesh.ep is None:
        return 0, num_experts
    ep = mesh.ep.size()
    rank = mesh.ep.rank()
    return num_experts * rank // ep, num_experts * (rank + 1) // ep


def shard_weights(model: Decoder, *, weights: dict[str, Weight], mesh: RankMesh) -> None:
    """Replace every weight of the model, on the meta device, by this rank's shard."""
    for name, parameter in list(model.named_parameters()):
        shard = parameter.detach()
        for axis in axis_shards(weights[name], mesh=mesh):
            shard = axis.take(shard)
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, nn.Parameter(shard))


def _axis_shard(split: ShardSpec, group: ProcessGroup) -> AxisShard:
    return AxisShard(split=split, degree=group.size(), rank=group.rank())
