from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.measure.steady_state import (
    Drift,
    drift_noise_pct,
    find_drift,
    is_same_drift,
    num_outliers,
    num_still_warming,
)

STEADY = (1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0, 1.01, 0.99, 1.0)


@pytest.mark.parametrize(
    ("times", "hint"),
    [
        pytest.param([4.0, 3.5, 3.0, 1.0, 1.0, 1.0], "raise warmup_steps", id="still-warming-up"),
        pytest.param([1.0, 1.0, 1.0, 2.0, 2.0, 2.1], "look for throttling", id="slowing-down"),
        pytest.param([1.0 + 0.01 * step for step in range(20)], "look for throttling", id="a-little-slower-each-step"),
        pytest.param([1.2 - 0.01 * step for step in range(20)], "raise warmup_steps", id="a-little-faster-each-step"),
        pytest.param([1.0 + 1e-5 * step for step in range(20_000)], "look for throttling", id="many-steps"),
    ],
)
def test_steps_that_have_not_settled_are_a_problem(times: list[float], hint: str) -> None:
    drift = find_drift(times)

    assert drift is not None
    assert hint in drift.text
    assert (drift.pct < 0) is (hint == "raise warmup_steps")


@pytest.mark.parametrize(
    "times",
    [
        pytest.param([1.0, 1.0, 9.0, 1.0, 1.0, 1.0], id="one-outlier"),
        pytest.param([1.0, 1.3, 1.1, 1.2, 1.0, 1.4], id="noise"),
        pytest.param([1.0, 1.0, 1.0, 1.1, 1.1, 1.1], id="small-step"),
        pytest.param([1.0, 5.0], id="too-few"),
        pytest.param([1.0 + 0.004 * step for step in range(20)], id="a-trend-that-is-too-small-to-matter"),
        pytest.param([1.0 + 0.3 * math.sin(step) for step in range(40)], id="up-and-down"),
        pytest.param([1.0] * 20, id="identical"),
        pytest.param([], id="none"),
    ],
)
def test_outliers_and_noise_have_settled(times: list[float]) -> None:
    assert find_drift(times) is None


def test_a_problem_says_how_far_and_what_is_allowed() -> None:
    drift = find_drift([1.0 + 0.01 * step for step in range(20)])

    assert drift is not None
    assert "median 1.045 s in the first half, 1.145 s in the second (+17% from the first to the last" in drift.text
    assert "allowed 10%" in drift.text


@pytest.mark.parametrize(
    ("times", "dropped"),
    [
        pytest.param((3.0, 2.0, *STEADY), 2, id="two-slow-ones"),
        pytest.param(STEADY, 0, id="none"),
        pytest.param((*STEADY[:2], 3.0, *STEADY[2:]), 0, id="a-stall-later-is-no-warm-up"),
        pytest.param((0.5, *STEADY), 0, id="a-fast-one"),
        pytest.param((*(2.0 for _ in STEADY), *STEADY), 10, id="half-of-them"),
        pytest.param((*(2.0 for _ in STEADY), *STEADY[:4]), 7, id="never-more-than-half"),
        pytest.param((3.0, 1.0, 1.0), 0, id="too-few-to-tell"),
        pytest.param((), 0, id="nothing"),
    ],
)
def test_steps_that_still_warm_up_are_counted(times: tuple[float, ...], dropped: int) -> None:
    assert num_still_warming(times) == dropped


def test_warm_up_that_goes_on_into_the_second_half_is_a_problem() -> None:
    times = (*(2.0 for _ in STEADY), *STEADY[:4])

    drift = find_drift(times[num_still_warming(times) :])

    assert drift is not None
    assert "raise warmup_steps" in drift.text


@given(st.lists(st.floats(min_value=1e-3, max_value=1e3), max_size=30), st.sampled_from((1e-6, 2.0, 1e9)))
def test_settling_knows_no_units(times: list[float], unit: float) -> None:
    scaled = [time * unit for time in times]

    assert num_still_warming(times) <= len(times) // 2
    assert (find_drift(scaled) is None) is (find_drift(times) is None)


@pytest.mark.parametrize(
    ("times", "count"),
    [
        pytest.param(STEADY, 0, id="none"),
        pytest.param((*STEADY, 2.0, 9.0), 2, id="two-stalls"),
        pytest.param((*STEADY, 0.1), 0, id="fast-is-no-stall"),
        pytest.param((1.0, 1.0, 1.0, 1.05), 0, id="within-a-tenth"),
    ],
)
def test_slow_steps_are_counted(times: tuple[float, ...], count: int) -> None:
    assert num_outliers(times) == count


@pytest.mark.parametrize(
    ("drifts_pct", "is_same"),
    [
        pytest.param([12.0, 15.0, 30.0], True, id="slower-each-time"),
        pytest.param([-12.0, -15.0], True, id="faster-each-time"),
        pytest.param([12.0, -15.0, 30.0], False, id="one-way-and-the-other"),
        pytest.param([12.0, None, 30.0], False, id="settled-once"),
        pytest.param([12.0], True, id="one-try"),
        pytest.param([], False, id="none"),
    ],
)
def test_a_workload_drifts_where_every_try_goes_the_same_way(drifts_pct: list[float | None], is_same: object) -> None:
    drifts = [None if pct is None else Drift(pct=pct, text="") for pct in drifts_pct]

    assert is_same_drift(drifts) is is_same


def test_the_noise_of_drifts_is_half_of_them_and_settled_runs_lower_it() -> None:
    assert drift_noise_pct([]) == 0.0
    assert drift_noise_pct([None, None]) == 0.0
    assert drift_noise_pct([20.0]) == drift_noise_pct([-20.0]) == 10.0
    assert 0.0 < drift_noise_pct([20.0, None, None, None]) < 10.0
