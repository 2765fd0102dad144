"""Process groups and device meshes of a rank, one for each axis of its layout."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.weights import num_kv_copies
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.collective import Collective


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMesh:
    """Process groups of one training rank; None for a group of one.

    Attributes:
        world: All ranks that train.
        pp: Stages of the same pipeline.
        stage: All ranks of this pipeline stage.
        ends: First and last stage of the same pipeline; None on the stages between.
        cp: Ranks with pieces of the same sequences.
        tp: Ranks with shards of the same matrices.
        kv_copies: Ranks of tp with copies of the same key and value heads.
        replicas: Ranks with the same dense weights and different tokens, which average gradients; only without FSDP.
        shards: Ranks FSDP shards dense weights over, or two axes (replicas, shards) for HSDP.
        ep: Ranks with other experts of the same layer.
        etp: Ranks with shards of the same experts.
        experts: Ranks with all experts of a layer: ep and etp together.
        expert_replicas: Ranks with the same experts; only without FSDP.
        expert_shards: Like ``shards``, for the experts.
    """

    world: ProcessGroup | None = None
    pp: ProcessGroup | None = None
    stage: ProcessGroup | None = None
    ends: ProcessGroup | None = None
    cp: ProcessGroup | None = None
    tp: ProcessGroup | None = None
    kv_copies: ProcessGroup | None = None
    replicas: ProcessGroup | None = None
    shards: DeviceMesh | None = None
    ep: ProcessGroup | None = None
    etp: ProcessGroup | None = None
    experts: ProcessGroup | None = None
    expert_replicas: ProcessGroup | None = None
    expert_shards: DeviceMesh | None = None


def group_timeout(plan: Plan | Collective) -> timedelta:
    """Return the timeout of process groups, the time limit of the run.

    NCCL's default of 10 minutes is less than some generations take. The launcher ends a run that hangs.
    """
    return timedelta(seconds=plan.timeout_sec)


def build_mesh(layout: Layout, *, model: ModelConfig, device_type: str, timeout: timedelta | None = None) -> RankMesh:
    """Return this rank's groups; every rank of the run must call it, as each group is made by all of them.

    The first ``layout.gpus`` ranks train; the others belong to no group.

    Ranks are in the order (pp, dp_replicate, dp_shard, cp, tp): the axis that communicates most is on neighbours.
    For experts the ranks of one pipeline stage (and one FSDP replica) are in the order (copies or shards, ep, etp).

    Args:
        layout: Layout of the run.
        model: Architecture; mixtures of experts and copied key-value heads have groups of their own.
        device_type: Device type of the ranks.
        timeout: Timeout of the groups, not inherited from the default group; None for torch's own.
    """
    groups = _Groups(timeout=timeout)
    ranks = torch.arange(layout.gpus).view(layout.pp, layout.dp_replicate, layout.dp_shard, layout.cp, layout.tp)
    experts = ranks.view(layout.pp, -1, layout.expert_dp, layout.ep, layout.etp)
    kv_heads = ranks.view(*ranks.shape[:4], -1, num_kv_copies(model, tp=layout.tp))
    is_sharded = layout.dp_shard > 1
    # Every rank must make the groups in the same order.
    mesh = RankMesh(world=groups.along(ranks, 0, 1, 2, 3, 4), pp=groups.along(ranks, 0))
    if layout.pp > 1:
        mesh = replace(mesh, stage=groups.along(ranks, 1, 2, 3, 4), ends=groups.along(ranks[[0, -1]], 0))
    mesh = replace(mesh, cp=groups.along(ranks, 3), tp=groups.along(ranks, 4), kv_copies=groups.along(kv_heads, 5))
    if is_sharded:
        mesh = replace(mesh, shards=groups.mesh(ranks.flatten(2, 3), device_type=device_type))
    else:
        mesh = replace(mesh, replicas=groups.along(ranks, 1, 3))
    if model.moe is None:
        return mesh
    mesh = replace(mesh, ep=groups.along(experts, 3), etp=groups.along(experts, 4), experts=groups.along(experts, 3, 4))
    if is_sharded:
        return replace(mesh, expert_shards=groups.mesh(experts.flatten(3), device_type=device_type))
    return replace(mesh, expert_replicas=groups.along(experts, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationMesh:
    """Process groups of one generating rank; None for a group of one.

    Attributes:
        number: Number of this rank's replica; each replica has requests of its own.
        tp: Ranks with shards of the same matrices.
        pp: Stages of the same pipeline, in order.
        replica: All ranks of the replica.
        world: All ranks that generate.
    """

    number: int = 0
    tp: ProcessGroup | None = None
    pp: ProcessGroup | None = None
    replica: ProcessGroup | None = None
    world: ProcessGroup | None = None


def build_generation_mesh(layout: Layout, *, timeout: timedelta | None = None) -> GenerationMesh | None:
    """Return this rank's groups for generation, or None for a rank that only trains.

    Every rank of the run must call it, as each group is made by all of them. Ranks are in the order (replica, pp, tp):
    the same ones that train, or those after them. The timeout is as in ``build_mesh``.
    """
    generation = layout.generation or GenerationLayout(gpus=layout.gpus)
    first = 0 if generation.is_colocated else layout.gpus
    ranks = torch.arange(first, first + generation.gpus).view(generation.dp, generation.pp, generation.tp)
    groups = _Groups(timeout=timeout)
    index = dist.get_rank() - first
    mesh = GenerationMesh(
        number=index // (generation.pp * generation.tp),
        tp=groups.along(ranks, 2),
        pp=groups.along(ranks, 1),
        replica=groups.along(ranks, 1, 2),
        world=groups.along(ranks, 0, 1, 2),
    )
    if not 0 <= index < generation.gpus:
        return None  # the rank has helped to make the groups
    return mesh


def data_parallel_rank(rank: int, *, layout: Layout) -> int:
    """Return the data-parallel rank, which selects the part of the global batch; the same in a tp, cp or pp group."""
    return rank // (layout.tp * layout.cp) % layout.dp


class _Groups:
    """Makes process groups, each set of ranks once."""

    def __init__(self, *, timeout: timedelta | None) -> None:
        self._timeout = timeout
        self._known: dict[tuple[tuple[int, ...], ...], ProcessGroup] = {}

    def along(self, ranks: Tensor, *dims: int) -> ProcessGroup | None:
        """Return the group of this rank and those that differ from it in the given dimensions only."""
        last = tuple(range(-len(dims), 0))
        flat = ranks.movedim(dims, last).flatten(-len(dims))
        size = flat.shape[-1]
        if size == 1:
            return None
        rows = sorted(flat.reshape(-1, size).tolist())
        key = tuple(tuple(row) for row in rows)
        if key not in self._known:
            self._known[key], _ = dist.new_subgroups_by_enumeration(  # type: ignore[no-untyped-call]  # torch leaves it untyped
                rows, timeout=self._timeout
            )
        return self._known[key]

    def mesh(self, ranks: Tensor, *, device_type: str) -> DeviceMesh | None:
        """Return FSDP's axes: dimension 2 of (pp, replicas, shards, others), or 1 and 2 if there are replicas."""
        num_replicas, num_shards = ranks.shape[1:3]
        shards = self.along(ranks, 2)
        replicas = self.along(ranks, 1)
        if num_replicas == 1:
            if shards is None:
                return None
            return DeviceMesh.from_group(shards, device_type, mesh_dim_names=("shard",))
        if num_shards == 1:
            # Only replicas are left to average over: HSDP with one shard. Ranks that train nothing belong to no group,
            # but must take part in making this one too.
            shards, _ = dist.new_subgroups(1, timeout=self._timeout)  # type: ignore[no-untyped-call]  # as above
        if replicas is None or shards is None:
            return None  # a rank that trains nothing
        planes = ranks.permute(0, 3, 1, 2).flatten(0, 1)
        plane = next(plane for plane in planes if (plane == dist.get_rank()).any())
        return DeviceMesh.from_group([replicas, shards], device_type, mesh=plane, mesh_dim_names=("replicate", "shard"))
