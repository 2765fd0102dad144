"""Recipes of each framework, read as they are, beside the values that a person reads in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import NemoPerfError, RecipeError
from pytest_nemoperf.frameworks.builtin import builtin_frameworks
from pytest_nemoperf.frameworks.complete import CompletedRecipe, complete_recipe
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.recipes.recipe import SCRIPT_MAY_RUN, Plan, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from tests.public_files import blob_hash
from tests.recipes_elsewhere.sources import FRAMEWORKS, source_of

pytestmark = pytest.mark.elsewhere

H100 = find_system("h100")
DEGREES = ("gpus", "tp", "pp", "vp", "cp", "ep", "etp", "dp_replicate", "dp_shard", "shard_optimizer", "cp_comm")
GENERATION = ("gpus", "tp", "pp", "is_colocated")
MIN_RECIPES = 12


def entries() -> Iterator[Any]:
    for framework in FRAMEWORKS:
        for entry in source_of(framework).recipes:
            name = entry.get("function") or "/".join(Path(entry["path"]).parts[-2:])
            yield pytest.param(framework, entry, id=f"{framework}: {name}")


def completed(framework: str, entry: Mapping[str, Any], *, checkout: Path, **given: Any) -> CompletedRecipe:
    """Return the recipe of an entry."""
    path = str(checkout / entry["path"])
    if "function" in entry:
        path += f":{entry['function']}"
    gpus = {"h100": entry["gpus"]} if "gpus" in entry else {}
    options = {SCRIPT_MAY_RUN: True} if path.endswith(".sh") else {}
    recipe = Recipe(framework=framework, framework_config=path, framework_options=options, gpus=gpus, **given)
    return complete_recipe(recipe, framework=builtin_frameworks()[framework], system=H100)


def differences(plan: Plan, expected: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a plan has otherwise than a person reads."""
    found: dict[str, Any] = {}
    wanted: dict[str, Any] = {}
    for name, value in expected.items():
        wanted[name] = value
        if name == "layout":
            found[name] = _degrees(plan.layout, like=value)
        elif name == "model":
            found[name] = plan.model.name
        elif name == "mtp":
            found[name] = plan.model.mtp_num_layers
        elif name in ("architecture", "moe", "rl", "algorithm"):
            found[name] = _attributes(plan, name, like=value)
        else:
            found[name] = getattr(plan, name)
    for name, value in wanted.items():
        if found[name] != value:
            yield f"{name}: read {found[name]}, expected {value}"


def _degrees(layout: Layout, *, like: Mapping[str, Any]) -> dict[str, Any]:
    """Return a layout's degrees that are not the default, and others that are asked for."""
    default = Layout(gpus=1)
    degrees = {}
    for name in (*DEGREES, *like):
        if name in like or getattr(layout, name) != getattr(default, name):
            degrees[name] = getattr(layout, name)
    if layout.generation is not None:
        asked = like.get("generation", {})
        degrees["generation"] = {
            name: getattr(layout.generation, name)
            for name in GENERATION
            if name in asked or name == "gpus" or (name == "pp" and layout.generation.pp > 1)
        }
    return degrees


def _attributes(plan: Plan, name: str, *, like: Mapping[str, Any]) -> dict[str, Any]:
    assert plan.rl is not None or name in ("architecture", "moe")
    owner: Any = {"architecture": plan.model, "moe": plan.model.moe, "rl": plan.rl}.get(name)
    if name == "algorithm" and plan.rl is not None:
        owner = plan.rl.algorithm
    values = {key: getattr(owner, key) for key in like}
    if "algorithm" in values:
        values["algorithm"] = values["algorithm"].name
    return values


@pytest.mark.parametrize(("framework", "entry"), list(entries()))
def test_a_public_recipe_is_read_as_a_person_reads_it(
    framework: str, entry: Mapping[str, Any], checkout_of: Callable[[str], Path]
) -> None:
    checkout = checkout_of(framework)
    assert blob_hash((checkout / entry["path"]).read_bytes()) == entry["blob"]

    if "error" in entry:
        with pytest.raises(NemoPerfError) as caught:
            resolve(completed(framework, entry, checkout=checkout).recipe, system=H100)
        assert entry["error"] in str(caught.value)
        return
    given = entry.get("given", {})
    if given:
        with pytest.raises(RecipeError, match=rf"does not tell .*: give {', '.join(f'{name}=' for name in given)} in"):
            completed(framework, entry, checkout=checkout)
    result = completed(framework, entry, checkout=checkout, **given)

    plan = resolve(result.recipe, system=H100)
    assert not list(differences(plan, entry["expected"]))
    assert result.digest
    assert replace(plan, framework_config_digest=result.digest).framework_config_digest


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_manifest_has_a_dozen_recipes_and_more(framework: str) -> None:
    assert len(source_of(framework).recipes) > MIN_RECIPES
