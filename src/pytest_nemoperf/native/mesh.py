"""Where a rank stands: the mesh of its run."""

from __future__ import annotations

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from pytest_nemoperf.parallelism import Layout


def build_mesh(layout: Layout, *, device_type: str) -> DeviceMesh | None:
    """Return the mesh of all axes with more than one rank, or None for a single rank.

    The order (dp_replicate, dp_shard, tp) puts the axis that talks most on neighbouring ranks.
    Axes of degree 1 are left out: each would cost a process group that nobody uses.
    """
    axes = {
        name: degree
        for name, degree in (
            ("dp_replicate", layout.dp_replicate),
            ("dp_shard", layout.dp_shard),
            ("tp", layout.tp),
        )
        if degree > 1
    }
    if not axes:
        return None
    return init_device_mesh(device_type, tuple(axes.values()), mesh_dim_names=tuple(axes))


def data_parallel_rank(rank: int, *, layout: Layout) -> int:
    """Return which share of the global batch a rank reads; ranks of one tp group read the same."""
    return rank // layout.tp
