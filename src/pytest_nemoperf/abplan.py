"""How a plan runs in a comparison of two versions: by turns or launch by launch, and in how many steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from pytest_nemoperf.generation_memory import generation_memory
from pytest_nemoperf.memory import host_bytes, stage_memory
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.rules import NATIVE

DEFAULT_BLOCK_STEPS: Final = 3
"""Steps of a block: one that meets caches full of the other side's data, and two that don't."""
_BYTES_PER_GB = 1e9
_SHARE_OF_GPU = 0.9  # two CUDA contexts, and what allocators keep and don't use, take the rest


def unsuited_to_turns(plan: Plan, *, host_memory_bytes: int, gpu_memory_bytes: int | None) -> str | None:
    """Return why the ranks of two versions can't live at the same time and take turns, or None if they can.

    Args:
        plan: Of one side.
        host_memory_bytes: Of this machine.
        gpu_memory_bytes: Of one GPU; None if the plan runs on the CPU.
    """
    if plan.framework != NATIVE:
        return f"framework {plan.framework} starts its ranks by itself, and they know no turns"
    if plan.device == "cuda" and plan.num_nodes > 1:
        return f"{plan.num_nodes} nodes can't hand a turn to each other"
    generation = plan.layout.generation
    if generation is not None and not generation.is_colocated:
        return "ranks that generate run ahead of those that train, so that no step ends for both"
    if plan.rl is not None and plan.rl.generator != "native":
        return f"{plan.rl.generator} takes all memory that is left on a device, which two of them can't"
    if gpu_memory_bytes is None:
        needed, there, what = 2 * host_bytes(plan), host_memory_bytes, "this host"
    else:
        needed, there, what = 2 * _fullest_rank_bytes(plan), int(_SHARE_OF_GPU * gpu_memory_bytes), "a GPU"
    if needed <= there:
        return None
    return (
        f"two models need about {needed / _BYTES_PER_GB:,.1f} GB, {what} has room for {there / _BYTES_PER_GB:,.1f} GB"
    )


def plan_for_turns(plan: Plan, *, block_steps: int) -> Plan:
    """Return a plan whose warm-up and measured steps are whole pairs of blocks, as A BB A needs.

    Args:
        plan: Of a run by itself.
        block_steps: Steps of a block.
    """
    pair = 2 * block_steps
    warmup_steps, steps = (-(-count // pair) * pair for count in (plan.warmup_steps, plan.steps))
    # Each side also waits while the other one runs.
    return replace(plan, warmup_steps=warmup_steps, steps=steps, timeout_sec=2 * plan.timeout_sec)


def _fullest_rank_bytes(plan: Plan) -> int:
    generation = generation_memory(plan)
    training = max(stage_memory(plan, pp_rank=pp_rank).peak for pp_rank in range(plan.layout.pp))
    return max(training, 0 if generation is None else generation.total)
