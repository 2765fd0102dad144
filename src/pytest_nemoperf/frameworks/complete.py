"""Recipes completed by a framework's own recipe file, named in ``framework_config``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

from pytest_nemoperf.errors import RecipeError, count_text
from pytest_nemoperf.frameworks.configs.config_values import ConfigReader, ConfigValues, shown_config
from pytest_nemoperf.frameworks.protocol import Framework, OptionTaker
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.recipes.overrides import complete_layout
from pytest_nemoperf.recipes.recipe import Recipe
from pytest_nemoperf.recipes.rl import RL
from pytest_nemoperf.recipes.rules import NATIVE
from pytest_nemoperf.recipes.systems import System

_REQUIRED = ("model", "seq_len", "global_batch_size")
_NO_VALUES = ("", 0, None)
"""Defaults of a Recipe that are no value of a plan."""
_DEFAULTS = {item.name: item.default for item in fields(Recipe)}


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletedRecipe:
    """A recipe with everything a plan needs.

    Attributes:
        recipe: The recipe; the one that was given if it names no file.
        digest: Hash of the file's content without steps and logging; empty without a file.
    """

    recipe: Recipe
    digest: str = ""


def complete_recipe(recipe: Recipe, *, framework: Framework | None, system: System) -> CompletedRecipe:
    """Return a recipe with the values that it leaves open taken from its ``framework_config``.

    A value that the recipe leaves at its default is the file's. Layouts are made for the systems of ``gpus``, or for
    this one with the ranks that the file names.

    Args:
        recipe: As written.
        framework: Its framework; None if it is not known here.
        system: System of the session.

    Raises:
        RecipeError: If recipe and file contradict each other, the degrees don't divide the ranks, or neither says what
            a plan needs; the message names every missing value.
    """
    if not recipe.framework_config:
        if recipe.framework_options and recipe.framework == NATIVE:
            raise RecipeError(
                f"framework_options={dict(recipe.framework_options)} with framework={NATIVE!r}, the native engine, "
                "whose settings are fields of the recipe; leave them out, or name the framework that knows them"
            )
        if recipe.framework_options and framework is not None and not isinstance(framework, ConfigReader | OptionTaker):
            raise RecipeError(
                f"framework_options={dict(recipe.framework_options)} with framework={recipe.framework!r}, which takes "
                "none; leave them out, or put them into the command of a recipe that has one"
            )
        return CompletedRecipe(recipe=recipe)
    path = Path(recipe.framework_config)
    subject = shown_config(path)
    if framework is None:
        raise RecipeError(
            f"{subject} with framework={recipe.framework!r}, which is not known here; a pytest session knows those "
            "that its plugins register"
        )
    if not isinstance(framework, ConfigReader):
        raise RecipeError(
            f"{subject} with framework={recipe.framework!r}, which reads no recipe files; name the framework that the "
            "file is for: nemo_rl, automodel, megatron_bridge or megatron_lm"
        )
    values = framework.read_config(path, options=recipe.framework_options, env=recipe.env)
    taken = _taken_values(recipe, values=values, subject=subject)
    rl = _taken_rl(recipe, values=values, subject=subject)
    missing = _missing(recipe, values=values, taken=taken)
    if missing:
        raise RecipeError(_missing_text(missing, subject=subject))
    layouts = _layouts(recipe, values=values, system=system, subject=subject)
    completed = replace(recipe, **taken, rl=rl, layouts=layouts, gpus={})
    return CompletedRecipe(recipe=completed, digest=values.digest)


def _taken_values(recipe: Recipe, *, values: ConfigValues, subject: str) -> dict[str, Any]:
    """Return the file's values by name of a Recipe's attribute, unless the recipe has them."""
    theirs = dict(values.values)
    if values.model:
        theirs["model"] = values.model
    taken = {}
    for name, value in theirs.items():
        ours = getattr(recipe, name)
        if ours == _DEFAULTS[name]:
            taken[name] = value
        elif name == "model":
            _check_same_model(recipe, theirs=value, subject=subject)
        elif ours != value:
            raise RecipeError(
                f"{subject} says {name}={_plain(value)}, and the recipe {name}={_plain(ours)}; the file runs as it is: "
                f"leave {name} out of the recipe, or change it by framework_options"
            )
    return taken


def _check_same_model(recipe: Recipe, *, theirs: Any, subject: str) -> None:
    ours = recipe.model_config
    other = replace(recipe, model=theirs, model_name="").model_config
    if replace(ours, name=other.name) != other:
        raise RecipeError(
            f"{subject} trains {other.name}, and the recipe says model={ours.name}, which is another architecture; "
            "leave model out of the recipe"
        )


def _taken_rl(recipe: Recipe, *, values: ConfigValues, subject: str) -> RL | None:
    if recipe.rl is None:
        return values.rl
    if values.rl is None:
        if "rl" in values.unread:
            return recipe.rl
        raise RecipeError(f"{subject} has no reinforcement learning, and the recipe has rl=RL(...); leave rl out")
    for item in fields(RL):
        ours = getattr(recipe.rl, item.name)
        theirs = getattr(values.rl, item.name)
        if ours not in (theirs, item.default):
            raise RecipeError(
                f"{subject} says {item.name}={_plain(theirs)}, and the recipe's rl {item.name}={_plain(ours)}; leave "
                "rl out of the recipe"
            )
    return values.rl


def _missing(recipe: Recipe, *, values: ConfigValues, taken: Mapping[str, Any]) -> dict[str, str]:
    """Return the values that neither recipe nor file says, each with the reason."""
    missing = {}
    for name in _REQUIRED:
        if not getattr(recipe, name) and name not in taken:
            missing[name] = values.unread.get(name, "")
    for name, reason in values.unread.items():
        if name in missing or name == "layouts":
            continue
        if getattr(recipe, name) == _DEFAULTS[name]:
            missing[name] = reason
    if not recipe.layouts:
        if "layouts" in values.unread:
            missing["layouts"] = values.unread["layouts"]
        elif not recipe.gpus and values.gpus is None:
            missing["gpus"] = values.unread.get("gpus", "the launch says it, e.g. gpus={'h100': 8}")
    return missing


def _missing_text(missing: Mapping[str, str], *, subject: str) -> str:
    told = []
    for name, reason in missing.items():
        told.append(f"{name} ({reason})" if reason else name)
    given = ", ".join(f"{name}=" for name in missing)
    defaults = []
    for name in missing:
        if _DEFAULTS[name] not in (MISSING, *_NO_VALUES):
            defaults.append(f"{name}={_plain(_DEFAULTS[name])}")
    note = ""
    if defaults:
        note = f"; {', '.join(defaults)} would count as left out: set what means it by framework_options instead"
    return f"{subject} does not tell {' and '.join(told)}: give {given} in the recipe{note}"


def _layouts(recipe: Recipe, *, values: ConfigValues, system: System, subject: str) -> dict[str, Layout]:
    if "layouts" in values.unread:
        return dict(recipe.layouts)
    layouts = {}
    for name, given in recipe.layouts.items():
        layout = _layout(values, gpus=given.gpus, subject=subject)
        if layout != given:
            raise RecipeError(
                f"{subject} makes the layout {layout.label} of {count_text(given.gpus, 'rank')}, and the recipe's for "
                f"{name} is {given.label}; leave layouts out and give gpus={{{name!r}: {given.total_gpus}}}"
            )
        layouts[name] = layout
    gpus = dict(recipe.gpus)
    if not gpus and not layouts and values.gpus is not None:
        gpus = {system.name: _total_gpus(values)}
    for name, count in gpus.items():
        if values.gpus is not None and count != _total_gpus(values):
            raise RecipeError(
                f"{subject} runs on {count_text(_total_gpus(values), 'rank')}, and the recipe says "
                f"gpus={{{name!r}: {count}}}; leave gpus out, or change the file's by framework_options"
            )
        apart = _gpus_apart(values)
        if count <= apart:
            raise RecipeError(
                f"{subject} generates on {count_text(apart, 'rank')} apart, which leaves none of {count} to training; "
                "give gpus more than these, or change the file's ranks by framework_options"
            )
        layouts[name] = _layout(values, gpus=count - apart, subject=subject)
    return layouts


def _layout(values: ConfigValues, *, gpus: int, subject: str) -> Layout:
    degrees: dict[str, Any] = {"gpus": gpus}
    for name, degree in values.degrees.items():
        if degree != 0 or isinstance(degree, bool):
            degrees[name] = degree
    is_shared = degrees.pop("shard_optimizer", False)
    generation: dict[str, Any] = dict(values.generation)
    try:
        if generation:
            generation.setdefault("gpus", gpus)
            degrees["generation"] = GenerationLayout(**generation)
        layout = complete_layout(degrees)
    except RecipeError as error:
        raise RecipeError(f"{subject} on gpus={gpus}: {error}") from None
    # A file has it for any number of ranks, also for those that hold no weights twice.
    if is_shared and layout.has_optimizer_copies:
        return replace(layout, shard_optimizer=True)
    return layout


def _gpus_apart(values: ConfigValues) -> int:
    """Return the ranks that generate and do not train."""
    if values.generation.get("is_colocated", True):
        return 0
    return int(values.generation["gpus"])


def _total_gpus(values: ConfigValues) -> int:
    return (values.gpus or 0) + _gpus_apart(values)


def _plain(value: Any) -> str:
    return str(getattr(value, "value", value))
