"""Algorithms of reinforcement learning as data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.recipes.algorithms import ALGORITHMS, find_algorithm


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"name": "grpo-a"}, r"algorithm name 'grpo-a' begins case ids; use lower-case", id="name"),
        pytest.param({"name": "pretrain"}, r"'pretrain' .* none of bench, loop, pretrain", id="name of others"),
        pytest.param({"name": None}, r"algorithm name None begins case ids", id="no name"),
        pytest.param({"advantage": "best"}, r"advantage='best' must be 'group' or 'gae'", id="advantage"),
        pytest.param({"loss_mean": "batch"}, r"loss_mean='batch' must be 'token' or 'sequence'", id="mean"),
        pytest.param({"clip_low": -0.1}, r"clip_low=-0.1 must be a number >= 0", id="negative"),
        pytest.param({"kl_coef": float("nan")}, r"kl_coef=nan must be a finite number", id="not a number"),
        pytest.param({"discount": 1.5}, r"discount=1.5 must be a number within 0 and 1", id="discount"),
        pytest.param({"importance_cap": 0.0}, r"importance_cap=0.0 must be a number above 0 or None", id="cap"),
        pytest.param({"max_rounds": 0}, r"max_rounds=0 must be a whole number >= 1", id="rounds"),
        pytest.param({"is_leave_one_out": "no"}, r"is_leave_one_out='no' must be True or False", id="flag"),
    ],
)
def test_an_algorithm_that_breaks_a_rule_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        replace(ALGORITHMS["grpo"], **changes)


@pytest.mark.parametrize("name", ["grpoo", None])
def test_an_unknown_algorithm_names_the_known_ones(name: Any) -> None:
    with pytest.raises(RecipeError, match=r"unknown algorithm .*grpo"):
        find_algorithm(name)


def test_a_value_model_goes_with_gae_and_a_reference_with_kl() -> None:
    assert ALGORITHMS["ppo"].has_value_model
    assert not ALGORITHMS["grpo"].has_value_model
    assert ALGORITHMS["grpo"].has_reference
    assert not ALGORITHMS["dapo"].has_reference
