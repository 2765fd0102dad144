"""The fixed workload that ranks time before and after their steps."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.native.rank import yardstick
from pytest_nemoperf.native.rank.yardstick import gather_yardsticks, has_yardstick, measure_yardstick
from pytest_nemoperf.recipes.ab_turn import ABTurn
from pytest_nemoperf.recipes.recipe import Precision
from pytest_nemoperf.records.step import RunOutput
from pytest_nemoperf.records.yardstick import YARDSTICK_OFF, YARDSTICK_VARIABLE, Yardstick
from tests.native.engine import Engine, plan_of
from tests.native.tiny import CPU, tiny_plan

ONE = Layout(gpus=1)
TWO = Layout(gpus=2, dp_shard=2)


def run(engine: Engine, layout: Layout, **changes: object) -> RunOutput:
    plan = plan_of(layout, **changes)
    return TorchFramework().read_output(plan, run_dir=engine.launch(plan))


@pytest.mark.parametrize("layout", [pytest.param(ONE, id="one rank"), pytest.param(TWO, id="two ranks")])
def test_each_rank_has_a_yardstick_before_and_after_its_steps(engine: Engine, layout: Layout) -> None:
    output = run(engine, layout)

    assert len(output.yardsticks_before) == len(output.yardsticks_after) == layout.gpus
    for each in (*output.yardsticks_before, *output.yardsticks_after):
        assert 0 < each.matmul_sec < math.inf
        assert 0 < each.copy_sec < math.inf
        assert (each.all_reduce_sec is None) is (layout.gpus == 1)


def test_a_run_in_bfloat16_has_a_yardstick_too(engine: Engine) -> None:
    assert len(run(engine, ONE, precision="bf16").yardsticks_after) == 1


def test_the_variable_leaves_the_yardstick_out_and_the_steps_are_the_same(engine: Engine) -> None:
    without = run(engine, ONE, env={YARDSTICK_VARIABLE: YARDSTICK_OFF})

    assert without.yardsticks_before == without.yardsticks_after == ()
    assert [record.loss for record in without.records] == [record.loss for record in run(engine, ONE).records]


def test_ranks_that_take_turns_or_are_profiled_have_none(tmp_path: Path) -> None:
    plan = tiny_plan()
    turn = ABTurn(directory=str(tmp_path), side="old", other="new", is_first=True, block_steps=2)

    assert has_yardstick(plan)
    assert not has_yardstick(replace(plan, turn=turn))
    assert not has_yardstick(replace(plan, is_profiled=True))


def test_a_rank_without_room_for_the_yardstick_leaves_all_without_one_and_the_run_whole(engine: Engine) -> None:
    plan = plan_of(TWO)

    run_dir = engine.launch(plan, entrypoint="tests.native.sabotage:without_room_on_one_rank")

    output = TorchFramework().read_output(plan, run_dir=run_dir)
    assert output.yardsticks_before == output.yardsticks_after == ()
    assert len(output.records) == plan.total_steps


@pytest.fixture
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process be the only rank of a run."""
    monkeypatch.setattr(dist, "get_world_size", lambda: 1)
    monkeypatch.setattr(dist, "all_gather", lambda gathered, local: gathered[0].copy_(local))


@pytest.mark.usefixtures("_alone")
def test_a_device_without_room_for_the_workload_has_no_yardstick(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_arguments: object, **_named: object) -> float:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(yardstick, "_time_copy", out_of_memory)

    times = measure_yardstick(CPU, precision=Precision.FP32)

    assert all(map(math.isnan, times))
    assert gather_yardsticks(times, device=CPU) == ()


@pytest.mark.usefixtures("_alone")
def test_gathered_times_keep_their_names() -> None:
    assert gather_yardsticks([1.0, 2.0, math.nan], device=CPU) == (Yardstick(matmul_sec=1.0, copy_sec=2.0),)
    assert gather_yardsticks([1.0, 2.0, 3.0], device=CPU) == (
        Yardstick(matmul_sec=1.0, copy_sec=2.0, all_reduce_sec=3.0),
    )
