from __future__ import annotations

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.expected import Expected
from pytest_nemoperf.loop import MeasuredLoop
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


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        pytest.param(Expected(num_gpus=1, warmup_steps=0, steps=4, tokens_per_step=1), "warmup_steps=0", id="warmup"),
        pytest.param(Expected(num_gpus=1, warmup_steps=2, steps=1, tokens_per_step=1), "steps=1", id="steps"),
        pytest.param(
            Expected(num_gpus=1, warmup_steps=2, steps=4, tokens_per_step=0), "tokens_per_step=0", id="tokens"
        ),
    ],
)
def test_a_loop_too_short_to_judge_is_refused(expected: Expected, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        MeasuredLoop(expected, synchronize=None, inject_pct=0.0)
