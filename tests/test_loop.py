from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError, RecordError
from pytest_nemoperf.expected import Expected
from pytest_nemoperf.loop import LoopStep, MeasuredLoop
from pytest_nemoperf.measure import measure_runs

EXPECTED = Expected(num_gpus=1, warmup_steps=2, steps=4, tokens_per_step=100)


def test_every_step_is_timed_between_two_synchronisations() -> None:
    calls: list[str] = []
    loop = MeasuredLoop(EXPECTED, synchronize=lambda: calls.append("sync"), inject_pct=0.0)

    for step in loop:
        calls.append("work")
        step.record(loss=1.5)

    assert calls == ["sync", "work", "sync"] * 6
    assert [record.step for record in loop.records] == list(range(6))
    assert {record.loss for record in loop.records} == {1.5}


def test_a_loop_left_early_is_missing_steps() -> None:
    loop = MeasuredLoop(EXPECTED, synchronize=None, inject_pct=0.0)

    for step in loop:
        if step.index == 3:
            break

    assert measure_runs(EXPECTED, outputs=[loop.records])[1] == (
        "run 1: 3 of 6 steps were recorded (2 warm-up and 4 measured were asked for)",
    )


VARYING = replace(EXPECTED, has_exact_tokens=False)


def test_a_step_may_record_one_thing_after_the_other() -> None:
    step = LoopStep(0)

    step.record(loss=1.5)
    step.record(tokens=7)

    assert (step.loss, step.grad_norm, step.tokens) == (1.5, None, 7)


def test_a_step_of_a_loop_whose_lengths_vary_has_the_tokens_it_records() -> None:
    loop = MeasuredLoop(VARYING, synchronize=None, inject_pct=0.0)

    for step in loop:
        step.record(tokens=10 + step.index)

    assert [record.tokens for record in loop.records] == [10, 11, 12, 13, 14, 15]


def test_a_step_that_says_nothing_of_its_tokens_ends_a_loop_whose_lengths_vary() -> None:
    loop = MeasuredLoop(VARYING, synchronize=None, inject_pct=0.0)

    steps = iter(loop)
    next(steps).record(tokens=5)
    next(steps)

    with pytest.raises(RecordError, match=r"step 1 says nothing of its tokens; .* call step\.record\(tokens=\.\.\.\)"):
        next(steps)


@pytest.mark.parametrize("tokens", [0, -1, 1.5, float("nan"), True, "5"], ids=repr)
def test_tokens_of_a_step_are_a_whole_number_above_0(tokens: Any) -> None:
    with pytest.raises(RecordError, match=r"step 3: tokens=.* must be a whole number >= 1"):
        LoopStep(3).record(tokens=tokens)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"warmup_steps": 1}, "warmup_steps=1: a measured loop needs", id="warm-up"),
        pytest.param({"steps": 1}, "steps=1, .* a measured loop needs", id="steps"),
        pytest.param({"warmup_steps": -2}, "warmup_steps=-2 .* must be a whole number >= 1", id="negative warm-up"),
        pytest.param({"steps": 10.0}, "steps=10.0 .* must be a whole number >= 1", id="steps that are not whole"),
        pytest.param({"tokens_per_step": 0}, "tokens_per_step=0 .* must be a whole number >= 1", id="no tokens"),
        pytest.param({"tokens_per_step": 99.5}, "tokens_per_step=99.5 .* whole number", id="half a token"),
        pytest.param({"tokens_per_step": float("nan")}, "tokens_per_step=nan .* whole number", id="nan tokens"),
        pytest.param({"tokens_per_step": True}, "tokens_per_step=True .* whole number", id="true tokens"),
        pytest.param({"num_gpus": 0.5}, "num_gpus=0.5 .* must be a whole number >= 1", id="half a GPU"),
        pytest.param({"num_gpus": "2"}, "num_gpus='2' .* must be a whole number >= 1", id="text"),
        pytest.param({"flops_per_token": float("inf")}, "flops_per_token=inf .* finite number above 0", id="endless"),
        pytest.param({"flops_per_token": -1.0}, "flops_per_token=-1.0 .* finite number above 0", id="negative"),
        pytest.param({"flops_per_token": "6"}, "flops_per_token='6' .* finite number above 0", id="FLOPs as text"),
        pytest.param(
            {"flops_convention": "mine"}, "flops_convention='mine' without flops_per_token", id="counted but not given"
        ),
        pytest.param(
            {"flops_per_token": 6.0, "has_exact_tokens": False},
            "flops_per_token=6.0 .* with has_varying_lengths=True: FLOPs per token grow",
            id="FLOPs of lengths that vary",
        ),
        pytest.param(
            {"flops_per_token": 6.0, "flops_convention": 3}, "flops_convention=3 .* must be a name", id="convention"
        ),
    ],
)
def test_a_loop_that_says_what_can_not_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        MeasuredLoop(replace(EXPECTED, **changes), synchronize=None, inject_pct=0.0)
