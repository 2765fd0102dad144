"""Plans that can run by turns, and their number of steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_nemoperf.ab.plan import plan_for_turns, unsuited_to_turns
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.pricing.memory import host_bytes, stage_memory
from pytest_nemoperf.recipes.recipe import Plan
from tests.builders import make_plan, make_rl, make_rl_plan

PLENTY = 10**15
APART = Layout(gpus=1, generation=GenerationLayout(gpus=1, is_colocated=False))


def why_not(plan: Plan, *, host: int = PLENTY, gpu: int | None = None) -> str | None:
    return unsuited_to_turns(plan, host_memory_bytes=host, gpu_memory_bytes=gpu)


@pytest.mark.parametrize("plan", [make_plan(), make_rl_plan()], ids=["pretrain", "colocated"])
def test_ranks_of_the_native_engine_can_take_turns(plan: Plan) -> None:
    assert why_not(plan) is None


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (make_plan(framework="command", command=("train",)), "framework command starts its ranks by itself"),
        (replace(make_plan(), device="cuda", num_nodes=2), "2 nodes can't hand a turn to each other"),
        (make_rl_plan(layouts={"cpu": APART}), "ranks that generate run ahead of those that train"),
        (make_rl_plan(rl=make_rl(generator="vllm")), "vllm takes all memory that is left on a device"),
    ],
    ids=["command", "nodes", "apart", "vllm"],
)
def test_others_can_not_and_it_is_said_why(plan: Plan, reason: str) -> None:
    assert reason in (why_not(plan) or "")


def test_two_models_must_fit_the_host() -> None:
    plan = make_plan()

    assert why_not(plan, host=2 * host_bytes(plan)) is None
    assert "GiB, this host has room for" in (why_not(plan, host=2 * host_bytes(plan) - 1) or "")


def test_two_ranks_must_fit_a_gpu_with_room_to_spare() -> None:
    plan = make_plan()
    needed = 2 * stage_memory(plan, pp_rank=0).peak

    assert why_not(plan, gpu=int(needed / 0.9) + 2) is None
    assert "a GPU has room for" in (why_not(plan, gpu=needed) or "")


@pytest.mark.parametrize(
    ("warmup_steps", "steps", "block_steps", "expected"),
    [(5, 20, 3, (6, 24)), (6, 24, 3, (6, 24)), (2, 4, 1, (2, 4)), (3, 10, 2, (4, 12))],
)
def test_steps_are_rounded_up_to_whole_pairs_of_blocks(
    warmup_steps: int, steps: int, block_steps: int, expected: tuple[int, int]
) -> None:
    plan = make_plan(warmup_steps=warmup_steps, steps=steps)

    turns = plan_for_turns(plan, block_steps=block_steps)

    assert (turns.warmup_steps, turns.steps) == expected
    assert turns.timeout_sec == 2 * plan.timeout_sec  # each side waits as long as the other one runs
