"""Every rank of a run makes the same groups, whatever it has to do with them."""

from __future__ import annotations

from dataclasses import replace

from pytest_nemoperf.parallelism import GenerationLayout, Layout
from tests.native.engine import Engine
from tests.native.families import PARTS
from tests.native.mesh_probe import read_facts
from tests.native.rl_plans import rl_plan


def test_a_rank_that_only_generates_makes_the_groups_of_replicas_of_experts(engine: Engine) -> None:
    apart = GenerationLayout(gpus=1, is_colocated=False)
    layout = Layout(gpus=4, dp_replicate=2, dp_shard=2, ep=2, generation=apart)  # one shard of each expert
    plan = replace(rl_plan(layout, model=PARTS["moe"]), timeout_sec=60)

    run_dir = engine.launch(plan, entrypoint="tests.native.mesh_probe:main")

    *training, generating = read_facts(run_dir, num_ranks=5)
    assert training == [{"shapes": [[2, 2], [2, 1]], "generates": False}] * 4
    assert generating == {"shapes": [None, None], "generates": True}
