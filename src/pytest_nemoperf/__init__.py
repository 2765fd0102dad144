"""pytest-nemoperf: performance-regression tests for LLM training and RL.

A perf test needs these names; the ``perf`` fixture does the rest::

    from pytest_nemoperf import Layout, Recipe
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
    from pytest_nemoperf.logs.log_format import LogFormat
    from pytest_nemoperf.models.architecture import ModelConfig
    from pytest_nemoperf.models.catalog import find_model
    from pytest_nemoperf.plugin.fixture import Perf
    from pytest_nemoperf.published.suite import published_recipes
    from pytest_nemoperf.recipes.algorithms import Algorithm, find_algorithm
    from pytest_nemoperf.recipes.recipe import Precision, Recipe
    from pytest_nemoperf.recipes.rl import RL

__all__ = [
    "RL",
    "Algorithm",
    "GenerationLayout",
    "Layout",
    "LogFormat",
    "ModelConfig",
    "Perf",
    "Precision",
    "Recipe",
    "find_algorithm",
    "find_model",
    "published_recipes",
]

_HOME = {
    "Algorithm": "recipes.algorithms",
    "GenerationLayout": "layouts.layout",
    "Layout": "layouts.layout",
    "LogFormat": "logs.log_format",
    "ModelConfig": "models.architecture",
    "Perf": "plugin.fixture",
    "Precision": "recipes.recipe",
    "Recipe": "recipes.recipe",
    "RL": "recipes.rl",
    "find_algorithm": "recipes.algorithms",
    "find_model": "models.catalog",
    "published_recipes": "published.suite",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that pytest's start-up does not pay for it."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
