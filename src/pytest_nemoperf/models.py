"""The catalog of models: architectures as data, with their sources."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from pytest_nemoperf.architecture import MLA, GatedDeltaNet, Mamba, ModelConfig, MoE, RopeScaling
from pytest_nemoperf.errors import RecipeError, did_you_mean
from pytest_nemoperf.twins import TWIN_SUFFIX, twin_of

_PARTS = {
    "gated_delta_net": GatedDeltaNet,
    "mamba": Mamba,
    "mla": MLA,
    "moe": MoE,
    "rope_scaling": RopeScaling,
}


@cache
def model_catalog() -> Mapping[str, ModelConfig]:
    """Return every catalog model by name; the figures and their sources are in ``catalog/models.json``."""
    text = resources.files("pytest_nemoperf").joinpath("catalog", "models.json").read_text(encoding="utf-8")
    entries = json.loads(text)["models"]
    return MappingProxyType({name: _model(name, entry) for name, entry in entries.items()})


def find_model(name: str) -> ModelConfig:
    """Return the catalog model of that name, or the scaled-down twin of one for ``<name>-twin``.

    Raises:
        RecipeError: If the catalog has no such model.
    """
    catalog = model_catalog()
    if name.endswith(TWIN_SUFFIX):
        return twin_of(find_model(name.removesuffix(TWIN_SUFFIX)))
    if name not in catalog:
        raise RecipeError(f"unknown model {name!r}; {did_you_mean(name, catalog)}; or pass a ModelConfig")
    return catalog[name]


def _model(name: str, entry: Mapping[str, Any]) -> ModelConfig:
    known = {field.name for field in fields(ModelConfig)}
    values = {key: value for key, value in entry.items() if key in known}
    parts = {key: part(**values[key]) for key, part in _PARTS.items() if values.get(key) is not None}
    return ModelConfig(name=name, **(values | parts))
