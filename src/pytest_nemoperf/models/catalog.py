"""The catalog of models: architectures as data, with their sources."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.errors import RecipeError, did_you_mean, shown
from pytest_nemoperf.models.architecture import ModelConfig, build_model
from pytest_nemoperf.models.huggingface.read import is_config_path, is_there, read_config
from pytest_nemoperf.models.twins import TWIN_SUFFIX, twin_of

_MAX_NAME: Final = 4_096
_NOTES = frozenset({"sources", "notes"})


@cache
def model_catalog() -> Mapping[str, ModelConfig]:
    """Return every catalog model by name; the figures and their sources are in ``catalog/models.json``."""
    text = resources.files("pytest_nemoperf").joinpath("catalog", "models.json").read_text(encoding="utf-8")
    entries = json.loads(text)["models"]
    models = {}
    for name, entry in entries.items():
        values = {key: value for key, value in entry.items() if key not in _NOTES}
        models[name] = build_model(name, values)
    return MappingProxyType(models)


def find_model(name: str) -> ModelConfig:
    """Return the model of a catalog name, a Hugging Face config, or a scaled-down twin of either.

    Args:
        name: Catalog name; the path of a ``config.json`` or of the directory that holds one; or ``<name>-twin``
            for the twin of either.

    Raises:
        RecipeError: If the catalog has no such model, or the config can't be understood.
    """
    catalog = model_catalog()
    if len(name) > _MAX_NAME:
        raise RecipeError(f"model={shown(name)} has {len(name):,} characters, and no path has more than {_MAX_NAME:,}")
    full = name
    num_twins = 0
    while full not in catalog and full.endswith(TWIN_SUFFIX) and not is_there(full):  # unless it is a directory's name
        full = full.removesuffix(TWIN_SUFFIX)
        num_twins += 1
    model = _full_model(full)
    for _ in range(num_twins):
        model = twin_of(model)
    return model


def _full_model(name: str) -> ModelConfig:
    """Return the model of a catalog name or a Hugging Face config."""
    catalog = model_catalog()
    if name in catalog:
        return catalog[name]
    if is_config_path(name):
        return read_config(name)
    hint = did_you_mean(name, catalog)
    if not hint.endswith("?"):
        hint += ";"
    raise RecipeError(f"unknown model {shown(name)}; {hint} a ModelConfig or the path of a config.json does as well")
