from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from pytest_nemoperf.published.baselines import published_baselines, why_unpublished
from pytest_nemoperf.published.files import published_rows
from pytest_nemoperf.published.recipes import unpriced_recipe_of
from pytest_nemoperf.recipes.recipe import Recompute
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from tests.published.rows import SYSTEMS


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_rows_recipe_is_judged_by_that_row(system: str) -> None:
    missed: Counter[str] = Counter()
    for row in published_rows(system).rows:
        recipe = unpriced_recipe_of(row).recipe
        if recipe is None:
            continue
        baselines = published_baselines(resolve(recipe, system=find_system(system)))
        sources = [baseline.published.row for baseline in baselines if baseline.published is not None]
        if sources[:1] != [row.id]:
            missed[row.precision] += 1

    assert missed.keys() <= {""}  # 25.09 prints no precision: such a row is of no workload in particular


def test_another_row_that_judges_a_recipe_says_why_its_own_does_not() -> None:
    row = next(row for row in published_rows("h100").rows if row.id == "pt0284")
    recipe = unpriced_recipe_of(row).recipe
    assert recipe is not None

    baseline, *_ = published_baselines(resolve(recipe, system=find_system("h100")))

    assert baseline.published is not None
    assert baseline.published.row == "pt0281"
    assert baseline.published.notes[-1] == (
        "the recipe was made of row pt0284 (NVIDIA-NeMo/Megatron-Bridge 25.09), which does not judge it: no precision "
        "is printed, so that it promises nothing of this one"
    )


def test_without_any_row_the_reason_is_of_the_recipes_own() -> None:
    row = next(row for row in published_rows("h100").rows if row.id == "pt0043")
    recipe = unpriced_recipe_of(row).recipe
    assert recipe is not None

    reason = why_unpublished(resolve(recipe, system=find_system("h100")))

    assert reason == (
        "no published row of h100 is of this workload; the recipe was made of row pt0043 (NVIDIA-NeMo/Megatron-Bridge "
        "25.09), and there no precision is printed, so that it promises nothing of this one"
    )


def test_under_changes_it_still_is() -> None:
    row = next(row for row in published_rows("h100").rows if row.id == "pt0281")
    recipe = unpriced_recipe_of(row).recipe
    assert recipe is not None
    plan = resolve(recipe, system=find_system("h100"))

    baseline, *_ = published_baselines(replace(plan, case=f"{plan.case}+set", recompute=Recompute.FULL))

    assert baseline.published is not None
    assert baseline.published.row == "pt0281"
