"""Names of public checkpoints on the Hugging Face hub, and the architecture of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib import resources
from types import MappingProxyType

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import model_catalog


@cache
def hub_models() -> Mapping[str, ModelConfig]:
    """Return architectures by hub name, as ``meta-llama/Llama-3.1-8B``; sources are in ``catalog/huggingface.json``.

    An architecture is the catalog's of another name, or one that differs from it in few values and is called like the
    checkpoint.
    """
    text = resources.files("pytest_nemoperf").joinpath("catalog", "huggingface.json").read_text(encoding="utf-8")
    models = {}
    for name, entry in json.loads(text)["models"].items():
        model = model_catalog()[entry["model"]]
        if "changes" in entry:
            model = replace(model, name=name.rpartition("/")[2].lower(), **entry["changes"])
        models[name] = model
    return MappingProxyType(models)
