"""Process groups: every rank of a run makes all of them, with the timeout of the run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.recipes.recipe import Plan
from tests.native.engine import Engine, plan_of
from tests.native.families import PARTS
from tests.native.mesh_probe import read_facts
from tests.native.rl_plans import APART, rl_plan


def test_a_rank_that_only_generates_makes_the_groups_of_replicas_of_experts(engine: Engine) -> None:
    apart = GenerationLayout(gpus=1, is_colocated=False)
    layout = Layout(gpus=4, dp_replicate=2, dp_shard=2, ep=2, generation=apart)  # one shard of each expert
    plan = replace(rl_plan(layout, model=PARTS["moe"]), timeout_sec=60)

    run_dir = engine.launch(plan, entrypoint="tests.native.mesh_probe:main")

    *training, generating = read_facts(run_dir, num_ranks=5)
    assert training == [{"shapes": [[2, 2], [2, 1]], "generates": False}] * 4
    assert generating == {"shapes": [None, None], "generates": True}


@pytest.mark.parametrize(
    ("plan", "num_groups"),
    [
        pytest.param(plan_of(Layout(gpus=2, dp_replicate=2)), 2, id="pre-training"),
        pytest.param(rl_plan(Layout(gpus=2, tp=2, generation=GenerationLayout(gpus=2, tp=2))), 4, id="together"),
        pytest.param(rl_plan(APART), 4, id="apart"),
    ],
)
def test_no_group_waits_shorter_than_the_run_may_take(engine: Engine, plan: Plan, num_groups: int) -> None:
    plan = replace(plan, timeout_sec=83.0, steps=1)

    run_dir = engine.launch(plan, entrypoint="tests.native.mesh_probe:with_timeouts")

    for timeouts in read_facts(run_dir, num_ranks=2):
        assert len(timeouts) >= num_groups
        assert set(timeouts) == {83.0}
