"""Ranks that make their groups and report them; entrypoints of the warm server, as in sabotage.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from pytest_nemoperf.native.parallel.mesh import build_generation_mesh, build_mesh
from pytest_nemoperf.native.rank import entry
from pytest_nemoperf.native.rank.output import gather_steps
from pytest_nemoperf.recipes.recipe import Plan


def main() -> None:
    """Stand for a rank's entrypoint: write the shapes of FSDP's axes, and whether this rank generates."""
    with mock.patch.object(entry, "train", _train):
        entry.main()


def with_timeouts() -> None:
    """Run the plan, and write the timeouts of this rank's groups, in seconds."""
    original = gather_steps

    def observed(steps: Any, *, device: torch.device, **options: Any) -> Any:
        groups = [group._get_backend(device) for group in distributed_c10d._world.pg_map]
        env = entry.read_environment()
        facts = [group.options._timeout.total_seconds() for group in groups]
        (env.run_dir / f"mesh-{env.rank}.json").write_text(json.dumps(facts))
        return original(steps, device=device, **options)

    with mock.patch.object(entry, "gather_steps", observed):
        entry.main()


def read_facts(run_dir: Path, *, num_ranks: int) -> list[Any]:
    """Return the report of each rank."""
    return [json.loads((run_dir / f"mesh-{number}.json").read_text()) for number in range(num_ranks)]


def _train(plan: Plan, *, env: entry.RankEnvironment, device: torch.device, make_trainer: entry.MakeStepRunner) -> None:
    mesh = build_mesh(plan.layout, model=plan.model, device_type=device.type)
    generation_mesh = build_generation_mesh(plan.layout)
    shapes = [None if axes is None else list(axes.shape) for axes in (mesh.shards, mesh.expert_shards)]
    facts = {"shapes": shapes, "generates": generation_mesh is not None}
    (env.run_dir / f"mesh-{env.rank}.json").write_text(json.dumps(facts))
    dist.barrier(group=dist.new_group())  # groups are told apart by how many a rank made before
