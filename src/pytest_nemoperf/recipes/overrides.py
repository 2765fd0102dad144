"""A layout from a few degrees, and a recipe under another layout or batch: ``tp=2,pp=4,mbs=2``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from pytest_nemoperf.bounds import whole_number
from pytest_nemoperf.errors import RecipeError, did_you_mean, shorten
from pytest_nemoperf.layouts.layout import LAYOUT_CHOICES, LAYOUT_FLAGS, TRAINING_KEYS, Layout
from pytest_nemoperf.recipes.recipe import Precision, Recipe, Recompute
from pytest_nemoperf.recipes.systems import System

CHANGED_SUFFIX: Final = "+set"
"""Last part of the id of a case that ran under changes; no recipe's own id can end like this."""

_RECIPE_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "seq_len": "seq_len",
        "gbs": "global_batch_size",
        "mbs": "micro_batch_size",
        "precision": "precision",
        "recompute": "recompute",
        "compiled": "is_compiled",
        "balanced": "is_router_balanced",
    }
)
_FLAGS = LAYOUT_FLAGS | {"compiled", "balanced"}
_CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {**LAYOUT_CHOICES, "precision": tuple(Precision), "recompute": tuple(Recompute)}
)
_BOOLS = {"true": True, "false": False}


def parse_changes(texts: Sequence[str], *, subject: str) -> dict[str, Any]:
    """Parse texts of the form ``KEY=VALUE[,KEY=VALUE...]`` into values by key.

    Raises:
        RecipeError: If a key is unknown or given twice, or a value is not of its kind.
    """
    changes: dict[str, Any] = {}
    known = (*TRAINING_KEYS, *_RECIPE_KEYS)
    for text in texts:
        for item in text.split(","):
            key, _, value = item.partition("=")
            key = key.strip()
            value = value.strip()
            if not value:
                raise RecipeError(f"{subject}: {item!r} is not KEY=VALUE; write e.g. tp=2,mbs=4")
            if key not in known:
                raise RecipeError(f"{subject}: unknown key {key!r}; {did_you_mean(key, known)}")
            if key in changes:
                raise RecipeError(f"{subject}: {key} is given twice; give each key once")
            changes[key] = _parse_value(key, value, subject=subject)
    return changes


def changes_text(changes: Mapping[str, Any]) -> str:
    """Return the text that parse_changes parses to these changes."""
    return ",".join(f"{key}={str(value).lower()}" for key, value in changes.items())


def change_recipe(recipe: Recipe, *, system: System, changes: Mapping[str, Any]) -> Recipe:
    """Return a recipe with other degrees of the system's layout, or another batch, length or number format.

    GPUs stay as they are unless they are set; the data-parallel ranks follow, see complete_layout. A recipe without
    a layout for the system is returned as it is.

    Args:
        recipe: As written.
        system: System whose layout is changed.
        changes: From parse_changes.

    Raises:
        RecipeError: If the degrees don't fit together, or a value breaks a rule of recipes.
    """
    if system.name not in recipe.layouts:
        return recipe
    degrees = {}
    values = {}
    for key, value in changes.items():
        if key in TRAINING_KEYS:
            degrees[key] = value
        else:
            values[_RECIPE_KEYS[key]] = value
    layout = complete_layout(degrees, base=recipe.layouts[system.name])
    unstated = tuple(name for name in recipe.unstated if name not in changes)  # what is set is stated
    return replace(recipe, layouts={**recipe.layouts, system.name: layout}, unstated=unstated, **values)


def complete_layout(degrees: Mapping[str, Any], *, base: Layout | None = None) -> Layout:
    """Return a layout with these degrees, its data-parallel degree derived from the remaining ranks.

    The derived axis is ``dp_shard`` unless it is given; if it is, if the optimizer's states are to be shared out among
    whole weights, or if the base is plain DDP, ``dp_replicate`` unless that is given. If both are given nothing is
    derived. A base's ``shard_optimizer`` is dropped if no states can be shared out any more.

    Args:
        degrees: Values by name of a Layout's attribute.
        base: Layout to start from; None starts from the defaults and needs ``gpus`` among the degrees.

    Raises:
        RecipeError: If the degrees don't divide the ranks; the message shows the arithmetic.
    """
    values: dict[str, Any] = {}
    if base is not None:
        for name in (*TRAINING_KEYS, "generation"):
            values[name] = getattr(base, name)
    values.update(degrees)
    generation = values.get("generation")
    if generation is not None and generation.is_colocated:
        values["generation"] = replace(generation, gpus=values["gpus"])
    if "gpus" not in values:
        raise RecipeError("a layout lacks 'gpus'; give the number of ranks")
    if base is not None and not degrees:
        return Layout(**values)
    free = _free_axis(degrees, base=base)
    if free is not None:
        fixed = "dp_replicate" if free == "dp_shard" else "dp_shard"
        taken = {name: values.get(name, 1) for name in ("tp", "pp", "cp", fixed)}
        values[free] = _remaining_ranks(values["gpus"], taken=taken, axis=free)
    if "shard_optimizer" in degrees:
        return Layout(**values)
    is_shared = values.pop("shard_optimizer", False)
    layout = Layout(**values)
    if is_shared and layout.has_optimizer_copies:
        return replace(layout, shard_optimizer=True)
    return layout


def _free_axis(degrees: Mapping[str, Any], *, base: Layout | None) -> str | None:
    """Return the data-parallel axis to derive; None if both are given."""
    axes = ["dp_shard", "dp_replicate"]
    is_ddp = base is not None and base.dp_shard == 1 and base.dp_replicate > 1
    if is_ddp or degrees.get("shard_optimizer"):
        axes.reverse()
    for axis in axes:
        if axis not in degrees:
            return axis
    return None


def _remaining_ranks(gpus: int, *, taken: Mapping[str, int], axis: str) -> int:
    """Return the ranks of an axis; 1 if a degree is no positive number, which Layout refuses."""
    product = 1
    for degree in (gpus, *taken.values()):
        if type(degree) is not int or degree < 1:
            return 1
    for degree in taken.values():
        product *= degree
    if gpus % product:
        raise RecipeError(
            f"gpus={gpus} is not a multiple of {'*'.join(taken)} ({'*'.join(map(str, taken.values()))}={product}), "
            f"and {axis} takes the {gpus}/{product} = {gpus / product:g} ranks that are left; change gpus or a degree"
        )
    return gpus // product


def _parse_value(key: str, value: str, *, subject: str) -> int | bool | str:
    if key in _FLAGS:
        if value not in _BOOLS:
            raise RecipeError(f"{subject}: {key}={value} must be true or false")
        return _BOOLS[value]
    if key in _CHOICES:
        if value not in _CHOICES[key]:
            raise RecipeError(f"{subject}: unknown {key} {value!r}; {did_you_mean(value, _CHOICES[key])}")
        return value
    number = whole_number(value)
    if not number:
        raise RecipeError(f"{subject}: {key}={shorten(value)} must be a whole number >= 1")
    return number
