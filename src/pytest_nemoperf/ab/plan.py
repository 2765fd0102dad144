"""Plans of a comparison of two versions: turns or whole launches, and the number of steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from pytest_nemoperf.pricing.generation_memory import generation_memory
from pytest_nemoperf.pricing.memory import host_bytes, memory_of_stages
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.rules import NATIVE

DEFAULT_BLOCK_STEPS: Final = 3
"""Steps of a block: the first starts with caches full of the other side's data, the other two do not."""
_BYTES_PER_GIB = 2**30
_USABLE_GPU_SHARE = 0.9  # the rest: two CUDA contexts, and memory that allocators reserve and don't use


def unsuited_to_turns(plan: Plan, *, host_memory_bytes: int, gpu_memory_bytes: int | None) -> str | None:
    """Return the reason that ranks of two versions can't run side by side and take turns, or None if they can.

    Args:
        plan: Plan of one side.
        host_memory_bytes: Memory of this machine.
        gpu_memory_bytes: Memory of one GPU; None if the plan runs on the CPU.
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
        device = "this host"
        needed = 2 * host_bytes(plan)
        usable = host_memory_bytes
    else:
        device = "a GPU"
        needed = 2 * _fullest_rank_bytes(plan)
        usable = int(_USABLE_GPU_SHARE * gpu_memory_bytes)
    if needed <= usable:
        return None
    return (
        f"two models need about {needed / _BYTES_PER_GIB:,.1f} GiB, "
        f"{device} has room for {usable / _BYTES_PER_GIB:,.1f} GiB"
    )


def plan_for_turns(plan: Plan, *, block_steps: int) -> Plan:
    """Return the plan with warm-up and measured steps rounded up to whole pairs of blocks, for the order A BB A.

    Args:
        plan: Plan of an ordinary run.
        block_steps: Steps of a block.
    """
    pair = 2 * block_steps
    return replace(
        plan,
        warmup_steps=_rounded_up(plan.warmup_steps, multiple=pair),
        steps=_rounded_up(plan.steps, multiple=pair),
        timeout_sec=2 * plan.timeout_sec,  # each side also waits while the other one runs
    )


def _rounded_up(count: int, *, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _fullest_rank_bytes(plan: Plan) -> int:
    fullest = 0
    for stage in memory_of_stages(plan):
        fullest = max(fullest, stage.peak)
    generation = generation_memory(plan)
    if generation is not None:
        fullest = max(fullest, generation.total)
    return fullest
