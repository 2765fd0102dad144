"""Which part of a whole weight a rank holds, before FSDP shards it further."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from pytest_nemoperf.native.mesh import RankMesh
from pytest_nemoperf.native.model import Decoder
from pytest_nemoperf.weights import ShardSpec, Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisShard:
    """One rank's part of a weight over one axis.

    Attributes:
        split: Dimension, and what is fused along it.
        degree: Of the axis.
        place: Of this rank in it.
    """

    split: ShardSpec
    degree: int
    place: int

    def take(self, whole: Tensor) -> Tensor:
        """Return this rank's part, contiguous.

        Raises:
            PlanError: If the parts would not be equal.
        """
        dim, degree = self.split.dim, self.degree
        if self.split.is_padded and whole.shape[dim] % degree:
            missing = -whole.shape[dim] % degree
            whole = F.pad(whole, [0, 0] * (whole.dim() - dim - 1) + [0, missing])
        bounds = [cut.bounds(self.place) for cut in self.split.equal_cuts(whole.shape, degree=degree)]
        return torch.cat([whole.narrow(dim, first, end - first) for first, end in bounds], dim)


def shares_of(weight: Weight, *, mesh: RankMesh) -> tuple[AxisShard, ...]:
    """Return what is taken of a weight, one axis after the other; nothing for a weight that is whole here."""
    experts = (_share(ShardSpec(dim=0), mesh.ep),) if weight.is_expert and mesh.ep is not None else ()
    return (*experts, *tensor_shares_of(weight, mesh=mesh))


def tensor_shares_of(weight: Weight, *, mesh: RankMesh) -> tuple[AxisShard, ...]:
    """Return the part over tp, or over etp for an expert's weight."""
    group = mesh.etp if weight.is_expert else mesh.tp
    return (_share(weight.split, group),) if weight.split is not None and group is not None else ()


def local_experts(num_experts: int, *, mesh: RankMesh) -> tuple[int, int]:
    """Return the first expert of this rank, and the one after its last."""
    ep, place = (1, 0) if mesh.ep is None else (mesh.ep.size(), mesh.ep.rank())
    return num_experts * place // ep, num_experts * (place + 1) // ep


def cut(model: Decoder, *, weights: dict[str, Weight], mesh: RankMesh) -> None:
    """Replace every weight of the model, on the meta device, by this rank's part of it."""
    for name, parameter in list(model.named_parameters()):
        part = parameter.detach()
        for share in shares_of(weights[name], mesh=mesh):
            part = share.take(part)
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, nn.Parameter(part))


def _share(split: ShardSpec, group: ProcessGroup) -> AxisShard:
    return AxisShard(split=split, degree=group.size(), place=group.rank())
