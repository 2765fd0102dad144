"""A recipe as another framework runs it: the same model, batch and layout."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from pytest_nemoperf.errors import RecipeError, UnsupportedError
from pytest_nemoperf.recipes.recipe import Precision, Recipe

_COMMAND: Final = "command"
"""Framework that runs any program."""

_FRAMEWORK: Final = re.compile(rf"(-\d+n\d+g)-.+?(-({'|'.join(Precision)})-)")
"""Framework in a case id: between nodes and GPUs, and precision."""


def in_framework(recipe: Recipe, name: str) -> Recipe:
    """Return a recipe for another framework, without the settings of the recipe's own one.

    These are the interpreter, for ini ``perf_python`` names one for each framework, and ``framework_options``.

    Args:
        recipe: As written.
        name: Framework.

    Raises:
        UnsupportedError: If the recipe is a program or a recipe file of its own framework, or has a setting that the
            other one refuses.
    """
    if name == recipe.framework:
        return recipe
    if recipe.framework_config:
        raise UnsupportedError(
            f"framework_config={recipe.framework_config} is a recipe file of {recipe.framework}, which {name} does not "
            "read; a recipe with model, layouts and batch runs in both"
        )
    if recipe.framework == _COMMAND:
        raise UnsupportedError(
            f"the recipe's command trains in a way of its own, which {name} does not know; a recipe without command "
            "runs in any framework"
        )
    if name == _COMMAND:
        raise UnsupportedError(
            f"framework={_COMMAND!r} runs a program, and the recipe has none; give it command=(...), or leave "
            f"{_COMMAND} out"
        )
    try:
        return replace(recipe, framework=name, framework_options={}, python="")
    except RecipeError as error:
        raise UnsupportedError(str(error)) from None


def with_framework(case: str, framework: str) -> str:
    """Return a case id with another framework."""
    return _FRAMEWORK.sub(rf"\1-{framework}\2", case, count=1)


def without_framework(case: str) -> str:
    """Return a case id without its framework: one name for the cases of a recipe in several.

    For example ``pretrain-llama3-8b-1n8g-bf16-fsdp8-seq8192-gbs128-mbs1``; an id that is not a recipe's as it is.
    ``case_id`` refuses names that make it ambiguous.
    """
    return _FRAMEWORK.sub(r"\1\2", case, count=1)
