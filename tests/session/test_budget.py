from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.session.budget import CaseBudget
from tests.builders import make_plan


def plan_of(*, steps: int = 20, warmup_steps: int = 5) -> Plan:
    return replace(make_plan(), steps=steps, warmup_steps=warmup_steps)


def budget_after(*launches: float, seconds: float | None = 8.0, num_runs: int = 4, steps: int = 20) -> CaseBudget:
    budget = CaseBudget(plan_of(steps=steps), seconds=seconds, num_runs=num_runs)
    for launch in launches:
        budget.spend(launch)
    return budget


def test_the_first_launch_runs_the_recipes_steps() -> None:
    assert budget_after(seconds=0.001).plan(1) == plan_of()


@pytest.mark.parametrize(
    ("launches", "steps"),
    [
        pytest.param((2.0,), 20, id="all fit"),
        pytest.param((2.5,), 13, id="three quarters of a launch fit each"),
        pytest.param((8.0,), 10, id="at least half"),
        pytest.param((2.5, 5.0), 10, id="a dropped try counts"),
    ],
)
def test_later_launches_run_the_steps_that_fit(launches: tuple[float, ...], steps: int) -> None:
    number = 2  # further launches of the first run count too

    assert budget_after(*launches).plan(number) == plan_of(steps=steps)


def test_launches_of_few_steps_keep_enough_for_a_median() -> None:
    assert budget_after(100.0, steps=8).plan(2).steps == 6
    assert budget_after(100.0, steps=5).plan(2).steps == 5


@pytest.mark.parametrize(
    ("launches", "num_runs", "expected"),
    [
        pytest.param((1.0, 1.0, 1.0), 3, False, id="time is left"),
        pytest.param((4.0, 2.0, 2.0), 3, True, id="used"),
        pytest.param((9.0, 5.0), 2, False, id="too few"),
        pytest.param((1.0, 1.0, 1.0, 1.0), 4, True, id="all that are asked for"),
    ],
)
def test_a_baseline_takes_fewer_launches_once_the_budget_is_used(
    launches: tuple[float, ...], num_runs: int, expected: object
) -> None:
    assert budget_after(*launches).is_enough(num_runs) is expected


def test_without_a_budget_the_counts_hold() -> None:
    budget = budget_after(100.0, 100.0, 100.0, seconds=None)

    assert budget.plan(4) == plan_of()
    assert not budget.is_enough(3)


@given(
    st.lists(st.floats(0.001, 100.0), min_size=1, max_size=8),
    st.integers(4, 50),
    st.floats(0.1, 100.0),
)
def test_a_launch_never_runs_more_steps_than_the_recipe_nor_less_than_half(
    launches: list[float], steps: int, seconds: float
) -> None:
    budget = budget_after(*launches, seconds=seconds, steps=steps)

    assert steps // 2 <= budget.plan(len(launches) + 1).steps <= steps
