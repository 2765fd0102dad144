from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.errors import UnsupportedError
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.recipes.other_framework import in_framework, with_framework, without_framework
from pytest_nemoperf.recipes.recipe import Precision
from tests.builders import make_plan, make_recipe


def test_another_framework_gets_the_recipe_without_the_settings_of_its_own_one() -> None:
    recipe = make_recipe(framework="megatron", framework_options={"overlap": True}, python="/opt/megatron/bin/python")

    other = in_framework(recipe, "torch")

    assert other == replace(recipe, framework="torch", framework_options={}, python="")


def test_a_recipe_is_not_changed_in_its_own_framework() -> None:
    recipe = make_recipe(framework="megatron", framework_options={"overlap": True}, python="/opt/megatron/bin/python")

    assert in_framework(recipe, "megatron") is recipe


@pytest.mark.parametrize(
    ("changes", "framework", "reason"),
    [
        (
            {"framework": "automodel", "framework_config": "llama.yaml"},
            "torch",
            "framework_config=llama.yaml is a recipe file of automodel, which torch does not read",
        ),
        ({"framework": "command", "command": ("train",)}, "torch", "command trains in a way of its own, which torch"),
        ({}, "command", "framework='command' runs a program, and the recipe has none"),
        ({"framework": "mine", "env": {"RANK": "0"}}, "torch", "RANK='0' clashes with the launcher"),
    ],
    ids=["recipe file", "program", "no program", "setting that the other one refuses"],
)
def test_what_belongs_to_one_framework_alone_is_refused_in_words(
    changes: dict[str, Any], framework: str, reason: str
) -> None:
    recipe = make_recipe(**changes)

    with pytest.raises(UnsupportedError, match=reason):
        in_framework(recipe, framework)


names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,12}", fullmatch=True)
frameworks = names.filter(lambda name: set(Precision).isdisjoint(name.split("-")))


@given(frameworks, frameworks, st.sampled_from(list(Precision)), names.filter(lambda name: "n" not in name))
def test_cases_of_a_recipe_differ_by_their_framework_alone(
    one: str, other: str, precision: Precision, variant: str
) -> None:
    cases = []
    for framework in (one, other):
        plan = make_plan(
            framework=framework, precision=precision, variant=f"x{variant}", layouts={"cpu": Layout(gpus=1)}
        )
        cases.append(plan.case)

    assert without_framework(cases[0]) == without_framework(cases[1])
    assert with_framework(cases[0], other) == cases[1]


@pytest.mark.parametrize("case", ["loop-mine", "bench-test_x.test_y-bf16"])
def test_a_case_without_a_recipe_has_no_framework_in_its_id(case: str) -> None:
    assert without_framework(case) == case
