"""Scaled times of steps that differ in length."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.measure.steady_state import num_still_warming, settling_times
from pytest_nemoperf.records.step import StepRecord

LENGTHS = [120, 800, 450, 900, 300, 700, 150, 600, 500, 400]
lengths = st.lists(st.integers(1, 10_000), min_size=1, max_size=30)


def _steps(times: Sequence[float], *, tokens: Sequence[int]) -> list[StepRecord]:
    return [
        StepRecord(step=step, step_time_sec=time, tokens=count)
        for step, (time, count) in enumerate(zip(times, tokens, strict=True))
    ]


def _times(steps: Sequence[StepRecord]) -> list[float]:
    return settling_times(steps, has_exact_tokens=False)


@given(lengths, st.floats(0.0, 10.0), st.floats(1e-6, 1e-3))
def test_steps_that_take_what_their_tokens_take_are_alike(tokens: list[int], per_step: float, per_token: float) -> None:
    times = _times(_steps([per_step + per_token * count for count in tokens], tokens=tokens))

    assert times == pytest.approx([times[0]] * len(times), rel=1e-6)


@given(st.lists(st.floats(1e-3, 10.0), min_size=1, max_size=20))
def test_steps_of_equal_length_keep_their_times(times: list[float]) -> None:
    assert _times(_steps(times, tokens=[100] * len(times))) == pytest.approx(times)


@given(lengths, st.data())
def test_every_step_keeps_a_positive_time(tokens: list[int], data: st.DataObject) -> None:
    times = data.draw(st.lists(st.floats(1e-6, 1e3), min_size=len(tokens), max_size=len(tokens)))

    assert all(time > 0 for time in _times(_steps(times, tokens=tokens)))


def test_a_short_step_is_not_slow_because_part_of_its_time_is_the_same_for_every_step() -> None:
    steps = _steps([0.2 + 1e-4 * count for count in LENGTHS], tokens=LENGTHS)

    assert num_still_warming(_times(steps)) == 0


def test_a_step_that_is_slow_for_its_tokens_is_still_warming_up() -> None:
    times = [0.2 + 1e-4 * count for count in LENGTHS]

    assert num_still_warming(_times(_steps([2 * times[0], *times[1:]], tokens=LENGTHS))) == 1


def test_a_drift_shows_through_steps_of_any_length() -> None:
    drift = [1 + 0.05 * step for step in range(len(LENGTHS))]
    steps = _steps([f * (0.2 + 1e-4 * n) for f, n in zip(drift, LENGTHS, strict=True)], tokens=LENGTHS)

    times = _times(steps)

    assert [time / times[0] for time in times] == pytest.approx(drift, rel=0.08)


def test_lengths_that_get_longer_are_no_drift() -> None:
    tokens = list(range(100, 1100, 100))

    times = _times(_steps([1e-3 * count for count in tokens], tokens=tokens))

    assert times == pytest.approx([times[0]] * len(times))
