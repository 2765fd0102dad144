"""Failures of one rank end the run with that rank's error, in any phase of the others."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from pytest_nemoperf.errors import LaunchError
from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.runs.execute import run_once
from tests.native.engine import Engine
from tests.native.rl_plans import APART, rl_plan
from tests.native.sabotaged import Sabotaged

TOGETHER = Layout(gpus=2, dp_shard=2)
PAIRS = Layout(gpus=2, dp_shard=2, generation=GenerationLayout(gpus=2, is_colocated=False))


def failure_of(plan: Plan, *, sabotage: str, engine: Engine, run_dir: Path) -> str:
    """Return the error of a failing run, and check that no rank of it is left."""
    with pytest.raises(LaunchError, match="rank") as caught:
        run_once(
            plan,
            framework=Sabotaged(TorchFramework(), f"tests.native.rl_sabotage:{sabotage}"),
            launcher=engine.launcher,
            run_dir=run_dir,
            on_progress=lambda _progress: None,
        )
    assert not [rank for server in psutil.Process().children() for rank in server.children()]
    return str(caught.value)


@pytest.mark.parametrize(
    ("sabotage", "rank", "algorithm"),
    [
        ("raises_while_generating", 1, "grpo"),
        ("raises_while_scoring", 1, "grpo"),
        ("raises_in_logprobs", 0, "grpo"),
        ("raises_in_reference_logprobs", 0, "grpo"),
        ("raises_in_values", 0, "ppo"),
        ("raises_while_sending_weights", 0, "grpo"),
    ],
)
def test_a_failing_rank_is_named_with_its_own_error(
    engine: Engine, tmp_path: Path, sabotage: str, rank: int, algorithm: str
) -> None:
    plan = rl_plan(APART, steps=6, rl={"max_staleness": 1, "algorithm": algorithm})

    error = failure_of(plan, sabotage=sabotage, engine=engine, run_dir=tmp_path / "run")

    assert error.startswith(f"rank {rank} of {plan.case} failed: RuntimeError: this rank fails on purpose")


@pytest.mark.parametrize(
    ("sabotage", "rank", "staleness"),
    [
        ("is_killed_while_generating", 1, 0),
        ("is_killed_while_generating", 1, 2),
        ("is_killed_while_training", 0, 0),
        ("is_killed_while_training", 0, 2),
        ("is_killed_while_taking_weights", 1, 0),
        ("is_killed_while_taking_weights", 1, 2),
        ("is_killed_with_a_full_queue", 0, 2),
        ("is_killed_with_an_empty_queue", 1, 2),
        # Without staleness nothing queues up, and the other side waits as it does above.
        pytest.param("is_killed_with_a_full_queue", 0, 0, marks=pytest.mark.slow),
        pytest.param("is_killed_with_an_empty_queue", 1, 0, marks=pytest.mark.slow),
    ],
)
def test_a_killed_rank_is_named_and_the_other_side_ends(
    engine: Engine, tmp_path: Path, sabotage: str, rank: int, staleness: int
) -> None:
    plan = rl_plan(APART, steps=6, rl={"max_staleness": staleness})

    error = failure_of(plan, sabotage=sabotage, engine=engine, run_dir=tmp_path / "run")

    assert error.startswith(f"rank {rank} of {plan.case} was killed by SIGKILL")


@pytest.mark.parametrize(
    ("sabotage", "rank"), [("is_killed_as_second_that_trains", 1), ("is_killed_as_second_that_generates", 3)]
)
def test_the_second_rank_of_a_group_is_named_and_all_others_end(
    engine: Engine, tmp_path: Path, sabotage: str, rank: int
) -> None:
    plan = rl_plan(PAIRS, steps=6, rl={"max_staleness": 1})

    error = failure_of(plan, sabotage=sabotage, engine=engine, run_dir=tmp_path / "run")

    assert error.startswith(f"rank {rank} of {plan.case} was killed by SIGKILL")


@pytest.mark.parametrize("sabotage", ["raises_while_generating", "raises_in_logprobs"])
def test_ranks_that_take_turns_fail_alike(engine: Engine, tmp_path: Path, sabotage: str) -> None:
    error = failure_of(rl_plan(TOGETHER), sabotage=sabotage, engine=engine, run_dir=tmp_path / "run")

    assert "this rank fails on purpose" in error


def test_logits_that_are_no_numbers_are_named_with_their_sample(engine: Engine, tmp_path: Path) -> None:
    error = failure_of(rl_plan(), sabotage="has_logits_that_are_no_numbers", engine=engine, run_dir=tmp_path / "run")

    assert "GenerationError" in error
    assert "sample 0" in error
