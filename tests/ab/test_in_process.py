"""Rounds of two measurements of the test process: ratios, their error, and rounds that don't count."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.ab.comparison import judge_rounds, speed_metric
from pytest_nemoperf.ab.in_process import round_of
from pytest_nemoperf.ab.ratios import measured_error
from pytest_nemoperf.measure.measurement import Measurement, Run
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.metrics import PEAK_MEMORY_GIB, TIME_PER_CALL_SEC, TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.verdict.policy import default_tolerances
from tests.ab.test_comparison import LABELS, POLICY


def run_of(value: float, *, metric: str = TOKENS_PER_SEC_PER_GPU.name, **changes: Any) -> Run:
    return replace(Run(metrics={metric: value}, num_steps=25, step_time_mad_pct=2.0), **changes)


def measurement_of(run: Run, **changes: Any) -> Measurement:
    measured = Measurement(case="loop-mine", system="cpu", workload={"workload": "loop"}, runs=(run,))
    return replace(measured, **changes)


@pytest.mark.parametrize(
    ("metric", "old", "new"),
    [(TOKENS_PER_SEC_PER_GPU, 200.0, 100.0), (TIME_PER_CALL_SEC, 1.0, 2.0), (PEAK_MEMORY_GIB, 1.0, 2.0)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_ratio_is_positive_where_new_is_worse(metric: Any, old: float, new: float) -> None:
    before, after = run_of(old, metric=metric.name), run_of(new, metric=metric.name)

    worse = round_of(measurement_of(before), measurement_of(after), first="old")
    better = round_of(measurement_of(after), measurement_of(before), first="new")

    assert worse.ratios == {metric.name: pytest.approx(math.log(2))}
    assert better.ratios == {metric.name: pytest.approx(-math.log(2))}
    assert (worse.first, better.first) == ("old", "new")


def test_the_time_per_call_tells_the_speed_of_a_round_that_has_one() -> None:
    calls = measurement_of(run_of(1.0, metric=TIME_PER_CALL_SEC.name))
    loop = measurement_of(run_of(1.0))

    assert speed_metric(round_of(calls, calls, first="old")) is TIME_PER_CALL_SEC
    assert speed_metric(round_of(loop, loop, first="old")) is TOKENS_PER_SEC_PER_GPU


def test_the_error_is_that_of_two_medians_of_normal_values() -> None:
    run = run_of(100.0)

    error = measured_error(run, run)

    sigma = 0.02 * 1.4826
    assert error == pytest.approx(math.sqrt(2.0) * math.sqrt(math.pi / 2.0) * sigma / math.sqrt(25))


def test_steps_of_different_lengths_say_nothing_of_the_error() -> None:
    measured = measurement_of(run_of(100.0), workload={"workload": "loop", "has_varying_lengths": True})

    assert round_of(measured, measured, first="old").error is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"problems": ("loss is not finite",)}, "new: loss is not finite"),
        ({"runs": ()}, "new: no run was measured"),
        ({"runs": (run_of(1.0, drift_pct=40.0),)}, "new: the machine was restless: its speed changed by +40%"),
    ],
    ids=["problem", "no run", "drift"],
)
def test_a_round_does_not_count_if_a_side_can_not_be_judged(changes: dict[str, Any], reason: str) -> None:
    sound = measurement_of(run_of(100.0))

    round_ = round_of(sound, replace(sound, **changes), first="old")

    assert round_.left_out.startswith(reason)
    assert round_.ratios == {}


@pytest.mark.parametrize(
    ("seconds", "kind"),
    [(2.0, VerdictKind.REGRESSED), (1.0, VerdictKind.PASSED), (0.5, VerdictKind.IMPROVED)],
    ids=["slower", "equal", "faster"],
)
def test_rounds_of_timed_calls_are_judged(seconds: float, kind: VerdictKind) -> None:
    name = TIME_PER_CALL_SEC.name
    old = measurement_of(run_of(1.0, metric=name))
    new = measurement_of(run_of(seconds, metric=name))
    rounds = [round_of(old, new, first=first) for first in ("old", "new") * 5]
    policy = replace(POLICY, tolerances=default_tolerances(find_system("cpu")))

    verdict = judge_rounds(
        replace(old, runs=old.runs * 10),
        replace(new, runs=new.runs * 10),
        rounds=rounds,
        policy=policy,
        max_rounds=10,
        labels=LABELS,
        is_by_turns=False,
    )

    assert verdict.kind is kind
    (comparison,) = verdict.comparisons
    assert comparison.metric == name
    assert comparison.now / comparison.baseline == pytest.approx(seconds)
