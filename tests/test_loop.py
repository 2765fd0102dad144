from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.expected import Expected
from pytest_nemoperf.loop import MeasuredLoop
from pytest_nemoperf.passes import Passes

EXPECTED = Expected(num_gpus=1, warmup_steps=2, steps=4, tokens_per_step=100)
FAST, SLOW = 0.002, 0.006
SLOWING_DOWN = (FAST,) * 4 + (SLOW,) * 2


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at nothing that runs beside the tests, their coverage included."""
    monkeypatch.setattr("pytest_nemoperf.passes.active_tracers", lambda: ())
    for limit in ("MAX_FOREIGN_SHARE", "MAX_STEAL_SHARE"):
        monkeypatch.setattr(f"pytest_nemoperf.health.{limit}", 2.0)


def make_passes(*, min_sec: float = 0.0, said: list[str] | None = None) -> Passes:
    sentences: list[str] = [] if said is None else said
    return Passes("loop-test", num_gpus=0, say=sentences.append, min_sec=min_sec)


def make_loop(*, min_sec: float = 0.0, said: list[str] | None = None, **options: Any) -> MeasuredLoop:
    passes = make_passes(min_sec=min_sec, said=said)
    return MeasuredLoop(EXPECTED, passes=passes, **{"synchronize": None, "inject_pct": 0.0, **options})


def run(loop: MeasuredLoop, *, seconds: Iterable[float], losses: Iterable[float] = itertools.repeat(6.5)) -> list[int]:
    """Sleep so long in each step, and return the indices of the steps."""
    indices = []
    for step, duration, loss in zip(loop, seconds, losses, strict=False):
        time.sleep(duration)
        step.record(loss=loss)
        indices.append(step.index)
    return indices


def test_every_step_is_timed_between_two_synchronisations() -> None:
    calls: list[str] = []
    loop = make_loop(synchronize=lambda: calls.append("sync"))

    for step in loop:
        calls.append("work")
        step.record(loss=1.5)
    (measured,), problems = loop.result()

    assert calls == ["sync", "work", "sync"] * (len(calls) // 3)
    assert measured.loss == 1.5
    assert problems == ()


def test_a_loop_that_is_long_enough_and_settled_is_gone_through_once() -> None:
    loop = make_loop()

    indices = run(loop, seconds=itertools.repeat(FAST))

    assert indices == list(range(6))
    assert loop.result()[0][0].num_steps == 4


def test_a_loop_that_is_too_short_goes_on_from_index_0_and_counts_as_one_run() -> None:
    loop = make_loop(min_sec=0.05)

    indices = run(loop, seconds=itertools.repeat(FAST), losses=itertools.count())
    (measured,), problems = loop.result()

    num_units = len(indices) // 6
    assert num_units > 1
    assert indices == list(range(6)) * num_units
    assert measured.num_steps + measured.num_warmup_dropped == 4 * num_units
    assert problems == ()


def test_losses_compare_at_the_last_step_of_the_first_time() -> None:
    loop = make_loop(min_sec=0.05)

    run(loop, seconds=itertools.repeat(FAST), losses=itertools.count())

    assert (loop.result()[0][0].last_step, loop.result()[0][0].loss) == (5, 5.0)


def test_a_pass_that_has_not_settled_is_dropped_and_measured_again() -> None:
    said: list[str] = []
    loop = make_loop(said=said)

    run(loop, seconds=[*SLOWING_DOWN, *(FAST,) * 6])
    (measured,), problems = loop.result()

    assert problems == ()
    assert measured.drift_pct is None
    assert measured.metrics["step_time_sec"] < (FAST + SLOW) / 2
    (sentence,) = said
    assert sentence.startswith("pass 1 of loop-test is dropped and measured again: the steps have not settled")


def test_a_loop_that_slows_down_in_every_pass_is_invalid() -> None:
    loop = make_loop()

    run(loop, seconds=SLOWING_DOWN * 5)
    _, (problem,) = loop.result()

    assert "look for throttling" in problem
    assert problem.endswith("so in 5 of as many tries")


def test_data_that_ends_in_a_further_pass_leaves_the_passes_before() -> None:
    loop = make_loop()

    run(loop, seconds=[*SLOWING_DOWN, *(FAST,) * 5])
    (measured,), (problem,) = loop.result()

    assert measured.num_steps == 4
    assert "the steps have not settled" in problem


def test_a_loop_left_early_is_missing_steps() -> None:
    loop = make_loop()

    run(loop, seconds=(FAST,) * 3)

    assert loop.result()[1] == ("run 1: 3 of 6 steps were recorded (2 warm-up and 4 measured were asked for)",)


def test_a_loss_that_is_not_finite_ends_the_loop_and_is_a_problem() -> None:
    loop = make_loop(min_sec=10.0)

    indices = run(loop, seconds=itertools.repeat(FAST), losses=itertools.chain([6.5] * 8, [float("nan")] * 4))
    _, problems = loop.result()

    assert len(indices) == 12
    assert "loss is not finite at step 2" in problems[0]


def test_the_steps_of_a_loop_are_gone_through_once() -> None:
    loop = make_loop()
    run(loop, seconds=itertools.repeat(FAST))

    with pytest.raises(RecipeError, match="gone through once"):
        next(iter(loop))


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
        MeasuredLoop(expected, passes=make_passes(), synchronize=None, inject_pct=0.0)
