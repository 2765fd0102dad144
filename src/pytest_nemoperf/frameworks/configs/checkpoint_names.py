"""Architectures that recipe files name: checkpoints of the hub, local directories, depths of multi-token prediction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model, model_catalog
from pytest_nemoperf.models.huggingface.names import hub_models


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """Architecture behind a name in a recipe file.

    Attributes:
        model: Catalog name, path of a directory with a ``config.json``, or a ModelConfig; empty if the name is not
            known.
        unread: Reason that it is not; empty if it is.
    """

    model: str | ModelConfig = ""
    unread: str = ""

    def with_prediction_depth(self, depth: int, *, is_shared: bool = False) -> NamedModel:
        """Return the architecture with that depth of multi-token prediction.

        Args:
            depth: Extra blocks; 0 for none.
            is_shared: All depths use the weights of one.
        """
        model = self.model
        if not model:
            return self
        if isinstance(model, str):
            model = find_model(model)
        if model.mtp_num_layers == depth and (depth == 0 or model.is_mtp_shared == is_shared):
            return self
        return NamedModel(model=replace(model, mtp_num_layers=depth, is_mtp_shared=is_shared and depth > 0))


def named_model(name: str, *, key: str) -> NamedModel:
    """Return the architecture of a checkpoint's name: a local directory with a ``config.json``, or a known hub name.

    Args:
        name: As in the file.
        key: Its place in the file, for the reason.
    """
    if not name:
        return NamedModel(unread=f"{key} is not set")
    try:
        if (Path(name) / "config.json").is_file():
            return NamedModel(model=name)
    except OSError as error:
        return NamedModel(unread=f"{key}={name} can't be looked up as a directory: {error.strerror}")
    known = hub_models().get(name)
    if known is None:
        return NamedModel(unread=f"{key}={name} is neither a known architecture nor a directory with a config.json")
    if known.name in model_catalog():
        return NamedModel(model=known.name)
    return NamedModel(model=known)
