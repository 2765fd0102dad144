"""Where a rank stands: the groups of ranks it shares work with, one for each axis of its layout."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from pytest_nemoperf.architecture import ModelConfig
from pytest_nemoperf.parallelism import GenerationLayout, Layout
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.weights import num_kv_copies


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMesh:
    """The groups one rank belongs to; None where the rank would be alone.

    Attributes:
        world: All ranks that train.
        pp: Stages of the same pipeline.
        stage: All ranks of this pipeline stage.
        ends: The first and the last of them; None between.
        cp: Pieces of the same sequences.
        tp: Parts of the same matrices.
        kv_copies: Of these, copies of the same key and value heads.
        replicas: Ranks with the same dense weights that read other tokens and average gradients; only
            without FSDP.
        shards: The ranks FSDP shards dense weights over, or two axes (replicas, shards) for HSDP.
        ep: Other experts of the same layer.
        etp: Parts of the same experts.
        experts: All experts of a layer: ep and etp together.
        expert_replicas: Ranks with the same experts; only without FSDP.
        expert_shards: As ``shards``, for the experts.
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


def group_timeout(plan: Plan) -> timedelta:
    """Return how long a rank waits for another: as long as the run may take.

    The 10 minutes of NCCL's groups are less than some generations. Whoever launched the ranks ends a run that hangs.
    """
    return timedelta(seconds=plan.timeout_sec)


def build_mesh(layout: Layout, *, model: ModelConfig, device_type: str, timeout: timedelta | None = None) -> RankMesh:
    """Return this rank's groups; every rank of the run must call it, as each group is made by all of them.

    The first ``layout.gpus`` ranks train; one that does not belongs to no group.

    Ranks are in the order (pp, dp_replicate, dp_shard, cp, tp): the axis that talks most is on neighbours.
    Experts see the ranks of one pipeline stage (and one FSDP replica) as (copies or shards, ep, etp) instead.

    Args:
        layout: Of the run.
        model: What the ranks train: a mixture has groups of its own, and so have copies of key-value heads.
        device_type: Where the ranks compute.
        timeout: Of the groups, which don't inherit it from the default group; None for torch's own.
    """
    groups = _Groups(timeout=timeout)
    ranks = torch.arange(layout.gpus).view(layout.pp, layout.dp_replicate, layout.dp_shard, layout.cp, layout.tp)
    experts = ranks.view(layout.pp, -1, layout.expert_dp, layout.ep, layout.etp)
    kv_heads = ranks.view(*ranks.shape[:4], -1, num_kv_copies(model, tp=layout.tp))
    is_sharded = layout.dp_shard > 1
    has_experts = model.moe is not None
    return RankMesh(
        world=groups.along(ranks, 0, 1, 2, 3, 4),
        pp=groups.along(ranks, 0),
        stage=groups.along(ranks, 1, 2, 3, 4) if layout.pp > 1 else None,
        ends=groups.along(ranks[[0, -1]], 0) if layout.pp > 1 else None,
        cp=groups.along(ranks, 3),
        tp=groups.along(ranks, 4),
        kv_copies=groups.along(kv_heads, 5),
        replicas=None if is_sharded else groups.along(ranks, 1, 3),
        shards=groups.mesh(ranks.flatten(2, 3), device_type=device_type) if is_sharded else None,
        ep=groups.along(experts, 3) if has_experts else None,
        etp=groups.along(experts, 4) if has_experts else None,
        experts=groups.along(experts, 3, 4) if has_experts else None,
        expert_replicas=groups.along(experts, 2) if has_experts and not is_sharded else None,
        expert_shards=groups.mesh(experts.flatten(3), device_type=device_type) if has_experts and is_sharded else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationMesh:
    """The groups of one rank that generates; None where the rank would be alone.

    Attributes:
        number: Of the replica this rank belongs to; each has requests of its own.
        tp: Parts of the same matrices.
        pp: Stages of the same pipeline, in order.
        replica: All ranks of the replica.
        everyone: All ranks that generate.
    """

    number: int = 0
    tp: ProcessGroup | None = None
    pp: ProcessGroup | None = None
    replica: ProcessGroup | None = None
    everyone: ProcessGroup | None = None


def build_generation_mesh(layout: Layout, *, timeout: timedelta | None = None) -> GenerationMesh | None:
    """Return this rank's groups for generation, or None for a rank that only trains.

    Every rank of the run must call it, as each group is made by all of them. Ranks are in the order (replica, pp, tp):
    the same ones that train, or those after them. The timeout is as in ``build_mesh``.
    """
    generation = layout.generation or GenerationLayout(gpus=layout.gpus)
    first = 0 if generation.is_colocated else layout.gpus
    ranks = torch.arange(first, first + generation.gpus).view(generation.dp, generation.pp, generation.tp)
    groups = _Groups(timeout=timeout)
    tp, pp = groups.along(ranks, 2), groups.along(ranks, 1)
    replica, everyone = groups.along(ranks, 1, 2), groups.along(ranks, 0, 1, 2)
    place = dist.get_rank() - first
    if not 0 <= place < generation.gpus:
        return None  # it took part in making the groups
    number = place // (generation.pp * generation.tp)
    return GenerationMesh(number=number, tp=tp, pp=pp, replica=replica, everyone=everyone)


def data_parallel_rank(rank: int, *, layout: Layout) -> int:
    """Return which share of the global batch a rank reads; ranks of one tp, cp or pp group read the same."""
    return rank // (layout.tp * layout.cp) % layout.dp


class _Groups:
    """Makes process groups, each set of ranks once."""

    def __init__(self, *, timeout: timedelta | None) -> None:
        self._timeout = timeout
        self._known: dict[tuple[tuple[int, ...], ...], ProcessGroup] = {}

    def along(self, ranks: Tensor, *dims: int) -> ProcessGroup | None:
        """Return the group of this rank and those that differ from it in the given dimensions alone."""
        size = torch.Size(ranks.shape[dim] for dim in dims).numel()
        if size == 1:
            return None
        last = tuple(range(-len(dims), 0))
        rows = tuple(sorted(tuple(row) for row in ranks.movedim(dims, last).reshape(-1, size).tolist()))
        if rows not in self._known:
            enumeration = [list(row) for row in rows]
            self._known[rows], _ = dist.new_subgroups_by_enumeration(  # type: ignore[no-untyped-call]  # torch leaves it untyped
                enumeration, timeout=self._timeout
            )
        return self._known[rows]

    def mesh(self, ranks: Tensor, *, device_type: str) -> DeviceMesh | None:
        """Return FSDP's axes: dimension 2 of (pp, replicas, shards, others), or 1 and 2 if there are replicas."""
        num_replicas, num_shards = ranks.shape[1:3]
        shards = self.along(ranks, 2)
        replicas = self.along(ranks, 1)
        if num_replicas == 1:
            return None if shards is None else DeviceMesh.from_group(shards, device_type, mesh_dim_names=("shard",))
        if num_shards == 1:
            # Only replicas are left to average over: HSDP with one shard. Ranks that train nothing belong to no group,
            # and make this one all the same: which groups there are is a matter of the layout alone.
            shards, _ = dist.new_subgroups(1, timeout=self._timeout)  # type: ignore[no-untyped-call]  # as above
        if replicas is None or shards is None:
            return None  # it took part in making the groups, and trains nothing
        planes = ranks.permute(0, 3, 1, 2).flatten(0, 1)
        plane = next(plane for plane in planes if (plane == dist.get_rank()).any())
        return DeviceMesh.from_group([replicas, shards], device_type, mesh=plane, mesh_dim_names=("replicate", "shard"))
