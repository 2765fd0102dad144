from __future__ import annotations

import pytest

from pytest_nemoperf.steadiness import settling_problems


@pytest.mark.parametrize(
    ("times", "hint"),
    [
        pytest.param([4.0, 3.5, 3.0, 1.0, 1.0, 1.0], "raise warmup_steps", id="still-warming-up"),
        pytest.param([1.0, 1.0, 1.0, 2.0, 2.0, 2.1], "look for throttling", id="slowing-down"),
    ],
)
def test_steps_that_have_not_settled_are_a_problem(times: list[float], hint: str) -> None:
    assert hint in settling_problems(times)[0]


@pytest.mark.parametrize(
    "times",
    [
        pytest.param([1.0, 1.0, 9.0, 1.0, 1.0, 1.0], id="one-outlier"),
        pytest.param([1.0, 1.3, 1.1, 1.2, 1.0, 1.4], id="noise"),
        pytest.param([1.0, 1.0, 1.0, 1.1, 1.1, 1.1], id="small-step"),
        pytest.param([1.0, 5.0], id="too-few"),
    ],
)
def test_outliers_and_noise_have_settled(times: list[float]) -> None:
    assert settling_problems(times) == []
