"""A learner says and learns the same in every layout, and the same as a few lines of plain torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.native.mesh import RankMesh
from pytest_nemoperf.parallelism import Layout
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.rl import RL
from tests.native.engine import MODEL, Engine, plan_of
from tests.native.families import PARTS
from tests.native.learning import Findings, findings, read_findings

TOLERANCE = 1e-5
ALONE = Layout(gpus=1)
DENSE = replace(MODEL, num_layers=4)
ZERO_BUBBLE: Any = {"pp_schedule": "zero_bubble"}
LAYOUTS = [
    pytest.param(Layout(gpus=2, dp_shard=2), {}, id="fsdp2"),
    pytest.param(Layout(gpus=2, dp_replicate=2), {}, id="ddp2"),
    pytest.param(Layout(gpus=4, dp_replicate=2, dp_shard=2), {}, id="hsdp2x2"),
    pytest.param(Layout(gpus=2, tp=2), {}, id="tp2"),
    pytest.param(Layout(gpus=2, tp=2, sequence_parallel=False), {}, id="tp2nosp"),
    pytest.param(Layout(gpus=2, cp=2), {}, id="cp2"),
    pytest.param(Layout(gpus=2, cp=2, cp_comm="a2a"), {}, id="cp2a2a"),
    pytest.param(Layout(gpus=2, pp=2), {}, id="pp2"),
    pytest.param(Layout(gpus=2, pp=2, vp=2), {}, id="pp2vp2"),
    pytest.param(Layout(gpus=2, pp=2, **ZERO_BUBBLE), {}, id="zb2"),
    pytest.param(Layout(gpus=4, tp=2, cp=2), {}, id="tp2cp2"),
    pytest.param(Layout(gpus=4, dp_shard=2, tp=2), {}, id="fsdp2tp2"),
    pytest.param(Layout(gpus=4, dp_shard=2, pp=2), {}, id="fsdp2pp2"),
    pytest.param(Layout(gpus=2, dp_shard=2), {"recompute": "full"}, id="fsdp2-recompute"),
    pytest.param(Layout(gpus=2, dp_shard=2, ep=2), {"model": PARTS["moe"]}, id="fsdp2ep2"),
]


def rl_plan(layout: Layout, *, is_packed: bool = False, temperature: float = 1.0, **changes: Any) -> Plan:
    """Eight samples a step, four an update, in micro-batches of one."""
    rl = RL(
        num_prompts_per_step=4,
        num_generations_per_prompt=2,
        prompt_len=12,
        max_response_len=20,
        learning_rate=3e-4,
        is_packed=is_packed,
        temperature=temperature,
    )
    return plan_of(layout, **{"rl": rl, "global_batch_size": 4, "model": DENSE, **changes})


def alone(plan: Plan) -> Findings:
    """Return what one process finds for the plan's model and batch, padded and without tricks."""
    return findings(rl_plan(ALONE, model=plan.model), mesh=RankMesh())


def found_by(engine: Engine, plan: Plan, *, entrypoint: str = "main") -> list[Findings]:
    run_dir = engine.launch(plan, entrypoint=f"tests.native.learning:{entrypoint}")
    return read_findings(run_dir, num_ranks=plan.layout.gpus)


def largest_difference(ours: Findings, theirs: Findings) -> float:
    """Return the largest difference of a log-probability, or relative one of a loss or gradient norm."""
    logprobs = [
        abs(mine - other)
        for name in ("before", "after", "reference")
        for my_row, other_row in zip(getattr(ours, name), getattr(theirs, name), strict=True)
        for mine, other in zip(my_row, other_row, strict=True)
    ]
    numbers = [
        abs(mine - other) / abs(other)
        for my_pair, other_pair in zip(ours.updates, theirs.updates, strict=True)
        for mine, other in zip(my_pair, other_pair, strict=True)
    ]
    return max(logprobs + numbers)


@pytest.mark.parametrize(("layout", "changes"), LAYOUTS)
@pytest.mark.parametrize("is_packed", [False, True], ids=["padded", "packed"])
def test_a_layout_learns_what_one_process_learns(
    engine: Engine, layout: Layout, changes: dict[str, Any], is_packed: bool
) -> None:
    plan = rl_plan(layout, is_packed=is_packed, **changes)
    expected = alone(plan)

    ranks = found_by(engine, plan)

    assert max(largest_difference(found, expected) for found in ranks) <= TOLERANCE
