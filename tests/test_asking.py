from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_nemoperf.asking import asks_once


def once(perf: Any) -> None:
    perf.check("recipe")


def judged_apart(perf: Any) -> None:
    perf.compare(perf.run("recipe"))


def nothing(perf: Any) -> None:
    pass


def by_helper(perf: Any) -> None:
    helper("recipe", perf)


def by_keyword(perf: Any) -> None:
    helper("recipe", fixture=perf)


def helper(recipe: str, fixture: Any) -> None:
    fixture.check(recipe)


def twice(perf: Any) -> None:
    perf.check("one")
    perf.check("two")


def in_a_loop(perf: Any) -> None:
    for recipe in ("one", "two"):
        perf.check(recipe)


def in_a_comprehension(perf: Any) -> None:
    [perf.check(recipe) for recipe in ("one", "two")]


def by_a_helper_that_loops(perf: Any) -> None:
    looping_helper(perf)


def looping_helper(perf: Any) -> None:
    in_a_loop(perf)


def under_another_name(perf: Any) -> None:
    other = perf
    other.check("one")
    other.check("two")


def by_itself(perf: Any) -> None:
    by_itself(perf)


@pytest.mark.parametrize("test", [once, judged_apart, by_helper, by_keyword], ids=lambda test: test.__name__)
def test_one_call_asks_for_one_case(test: Callable[..., Any]) -> None:
    assert asks_once(test)


@pytest.mark.parametrize(
    "test",
    [twice, in_a_loop, in_a_comprehension, by_a_helper_that_loops, under_another_name, by_itself, nothing, len],
    ids=lambda test: test.__name__,
)
def test_what_may_ask_more_often_counts_as_that(test: Callable[..., Any]) -> None:
    assert not asks_once(test)
