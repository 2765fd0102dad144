from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError, RecordError
from pytest_nemoperf.measure.expected_records import ExpectedRecords
from pytest_nemoperf.runs import clock
from pytest_nemoperf.runs.loop import LoopStep, MeasuredLoop
from pytest_nemoperf.runs.passes import Passes

EXPECTED = ExpectedRecords(num_gpus=1, warmup_steps=2, steps=4, tokens_per_step=100)
FAST = 0.002
SLOW = 0.006
SLOWING_DOWN = (FAST,) * 4 + (SLOW,) * 2


class Clock:
    """Stand-in for the module ``clock``: waiting takes its time, reading the clock a microsecond."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wait(self, seconds: float) -> None:
        self.seconds += seconds

    def now(self) -> float:
        self.seconds += 1e-6
        return self.seconds


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the clock, and ignore other load and tracers, such as those of coverage."""
    own = Clock()
    for name in ("now", "wait"):
        monkeypatch.setattr(f"pytest_nemoperf.runs.clock.{name}", getattr(own, name))
    monkeypatch.setattr("pytest_nemoperf.runs.passes.active_tracers", lambda: ())
    for limit in ("MAX_FOREIGN_SHARE", "MAX_STEAL_SHARE"):
        monkeypatch.setattr(f"pytest_nemoperf.records.health.{limit}", 2.0)


def make_passes(*, min_sec: float = 0.0, said: list[str] | None = None) -> Passes:
    sentences: list[str] = [] if said is None else said
    return Passes("loop-test", num_gpus=0, report=sentences.append, min_sec=min_sec)


def make_loop(*, min_sec: float = 0.0, said: list[str] | None = None, **options: Any) -> MeasuredLoop:
    passes = make_passes(min_sec=min_sec, said=said)
    values = {"expected": EXPECTED, "synchronize": None, "inject_pct": 0.0, **options}
    return MeasuredLoop(passes=passes, **values)


def run(loop: MeasuredLoop, *, seconds: Iterable[float], losses: Iterable[float] = itertools.repeat(6.5)) -> list[int]:
    """Wait for the given seconds in each step, and return the indices of the steps."""
    indices = []
    for step, duration, loss in zip(loop, seconds, losses, strict=False):
        clock.wait(duration)
        step.record(loss=loss)
        indices.append(step.index)
    return indices


def test_every_step_is_timed_between_two_synchronisations() -> None:
    calls: list[str] = []
    loop = make_loop(synchronize=lambda: calls.append("sync"))

    for step in loop:
        calls.append("work")
        clock.wait(FAST)
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


def test_a_loop_has_settled_where_its_passes_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_nemoperf.runs.passes.find_drift", lambda _: None)
    loop = make_loop()

    run(loop, seconds=SLOWING_DOWN)
    (measured,), problems = loop.result()

    assert (measured.drift_pct, problems) == (None, ())


@pytest.mark.parametrize(("num_steps", "num_runs"), [(2, 0), (3, 1)], ids=["warm-up only", "a measured step"])
def test_a_loop_left_early_is_missing_steps(num_steps: int, num_runs: int) -> None:
    loop = make_loop()

    run(loop, seconds=(FAST,) * num_steps)
    runs, (problem,) = loop.result()

    assert len(runs) == num_runs
    assert problem == f"run 1: {num_steps} of 6 steps were recorded (2 warm-up and 4 measured were asked for)"


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


VARYING = replace(EXPECTED, has_exact_tokens=False)


def test_a_step_may_record_one_thing_after_the_other() -> None:
    step = LoopStep(0)

    step.record(loss=1.5)
    step.record(tokens=7)

    assert (step.loss, step.grad_norm, step.tokens) == (1.5, None, 7)


def test_a_loop_whose_lengths_vary_counts_the_tokens_its_steps_record() -> None:
    loop = make_loop(expected=VARYING)

    for step in loop:
        clock.wait(FAST)
        step.record(tokens=10 + 10 * step.index)
    (measured,), problems = loop.result()

    assert problems == ()
    assert measured.metrics["mean_tokens_per_step"] == 45.0


def test_a_step_that_says_nothing_of_its_tokens_ends_a_loop_whose_lengths_vary() -> None:
    steps = iter(make_loop(expected=VARYING))
    next(steps).record(tokens=5)
    next(steps)

    with pytest.raises(RecordError, match=r"step 1 says nothing of its tokens; .* call step\.record\(tokens=\.\.\.\)"):
        next(steps)


def test_lengths_that_vary_are_no_drift_of_the_loop() -> None:
    said: list[str] = []
    loop = make_loop(expected=VARYING, said=said)

    for step in loop:
        tokens = 10 if step.index < 4 else 100
        clock.wait(tokens * FAST / 10)
        step.record(tokens=tokens)

    assert loop.result()[1] == ()
    assert said == []


def test_work_that_is_not_done_in_the_steps_is_a_problem() -> None:
    loop = make_loop()

    for _ in list(loop):
        clock.wait(FAST)

    assert loop.result()[1][0].startswith("a step takes ")
    assert "the time of an empty loop body (under 5 us): do the work inside of the loop" in loop.result()[1][0]


def test_a_block_that_goes_on_for_longer_than_its_steps_took_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_nemoperf.runs.loop._MAX_OUTSIDE_SEC", 0.0)
    loop = make_loop()
    run(loop, seconds=itertools.repeat(FAST))
    clock.wait(20 * FAST)

    loop.end()

    (problem,) = loop.result()[1]
    assert problem.startswith("after the loop its block went on for ")
    assert "longer than all steps together (" in problem


def test_what_follows_a_loop_for_a_shorter_time_than_its_steps_took_is_no_problem() -> None:
    loop = make_loop()
    clock.wait(20 * FAST)
    run(loop, seconds=itertools.repeat(FAST))

    loop.end()

    assert loop.result()[1] == ()


def test_a_clock_that_the_test_replaces_is_not_that_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = make_loop()
    for name in ("perf_counter", "monotonic", "clock_gettime"):
        monkeypatch.setattr(time, name, lambda *_: 1.0)

    run(loop, seconds=itertools.repeat(FAST))

    assert loop.result()[0][0].metrics["step_time_sec"] >= FAST


@pytest.mark.parametrize("tokens", [0, -1, 1.5, float("nan"), True, "5"], ids=repr)
def test_tokens_of_a_step_are_a_whole_number_above_0(tokens: Any) -> None:
    with pytest.raises(RecordError, match=r"step 3: tokens=.* must be a whole number >= 1"):
        LoopStep(3).record(tokens=tokens)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"warmup_steps": 1}, "warmup_steps=1: a measured loop needs", id="warm-up"),
        pytest.param({"steps": 1}, "steps=1, .* a measured loop needs", id="steps"),
        pytest.param({"warmup_steps": -2}, "warmup_steps=-2 .* must be a whole number >= 0", id="negative warm-up"),
        pytest.param({"steps": 10.0}, "steps=10.0 .* must be a whole number >= 1", id="steps that are not whole"),
        pytest.param({"tokens_per_step": 0}, "tokens_per_step=0 .* must be a whole number above 0", id="no tokens"),
        pytest.param({"tokens_per_step": 99.5}, "tokens_per_step=99.5 .* whole number", id="half a token"),
        pytest.param({"tokens_per_step": float("nan")}, "tokens_per_step=nan .* whole number", id="nan tokens"),
        pytest.param({"tokens_per_step": True}, "tokens_per_step=True .* whole number", id="true tokens"),
        pytest.param({"num_gpus": 0.5}, "num_gpus=0.5 .* must be a whole number >= 1", id="half a GPU"),
        pytest.param({"num_gpus": "2"}, "num_gpus='2' .* must be a whole number >= 1", id="text"),
        pytest.param({"flops_per_token": float("inf")}, "flops_per_token=inf .* finite number above 0", id="endless"),
        pytest.param({"flops_per_token": -1.0}, "flops_per_token=-1.0 .* number above 0", id="negative"),
        pytest.param({"flops_per_token": "6"}, "flops_per_token='6' .* number above 0", id="FLOPs as text"),
        pytest.param(
            {"flops_convention": "mine"}, "flops_convention='mine' without flops_per_token", id="counted but not given"
        ),
        pytest.param(
            {"flops_per_token": 6.0, "has_exact_tokens": False},
            "flops_per_token=6.0 .* with has_varying_lengths=True: FLOPs per token grow",
            id="FLOPs of lengths that vary",
        ),
        pytest.param(
            {"flops_per_token": 6.0, "flops_convention": 3}, "flops_convention=3 .* must be a text", id="convention"
        ),
    ],
)
def test_a_loop_that_says_what_can_not_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make_loop(expected=replace(EXPECTED, **changes))


def test_a_loop_whose_data_ends_before_a_busy_machine_could_be_told_is_invalid() -> None:
    loop = make_loop(min_sec=0.5)

    run(loop, seconds=(FAST,) * 20)
    _, (problem,) = loop.result()

    assert "the loop ended after" in problem
    assert "give it data for longer, or raise steps" in problem
