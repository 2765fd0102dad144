"""Architectures from Hugging Face ``config.json`` files, for the families the catalog holds.

Every key is understood, known not to change the architecture, or an error: otherwise another model than the file's
would be counted, planned and trained unnoticed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytest_nemoperf.errors import RecipeError, shown
from pytest_nemoperf.models.architecture import ModelConfig, build_model
from pytest_nemoperf.models.huggingface.config import ConfigReader
from pytest_nemoperf.models.huggingface.dense import DENSE
from pytest_nemoperf.models.huggingface.mixtures import MIXTURES


def is_config_path(name: str) -> bool:
    """Whether a model's name is a path to a config: it has a path separator, or the file exists."""
    return "/" in name or "\\" in name or is_there(name)


def is_there(name: str) -> bool:
    """Whether there is a file or a directory of that name."""
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # longer than any name, or with a NUL character
        return False


def read_config(path: str | Path) -> ModelConfig:
    """Return the architecture of a ``config.json``, or of the directory that holds one.

    The model's name, in lower case, is the file's if that is not ``config.json``, else the last part of its
    ``_name_or_path``, else family and a digest of the architecture; never the folder's, which differs between
    checkouts. Of a multimodal model it is the language part.

    Raises:
        RecipeError: If the file can't be read, its family is not known, or it has a key or a value that changes the
            architecture and is not understood.
    """
    file = Path(path)
    if "~" in file.parts[:1]:
        raise RecipeError(f"{shown(str(path))} begins with ~, which only a shell replaces; write the whole path")
    with suppress(OSError, ValueError):  # read_json says what is wrong with it
        if file.is_dir():
            file = file / "config.json"
    from pytest_nemoperf.json_codec import read_json  # noqa: PLC0415 (or every test that imports a Recipe loads msgspec)

    data = read_json(file, error=RecipeError)
    if not isinstance(data, dict):
        raise RecipeError(f"{file}: holds a {type(data).__name__} instead of an object")
    return _model(data, name=_name(file, data=data), subject=str(file))


def config_model(data: Mapping[str, Any], *, subject: str) -> ModelConfig:
    """Return the architecture of a config's content; see read_config.

    Args:
        data: Content of a ``config.json``.
        subject: Beginning of messages.
    """
    return _model(data, name="", subject=subject)


def _name(file: Path, *, data: Mapping[str, Any]) -> str:
    """Return the model's name from the file's name or content; empty if neither has one."""
    if file.stem.lower() != "config":
        return _slug(file.stem)
    origin = data.get("_name_or_path")
    if not isinstance(origin, str):
        return ""
    return _slug(re.split(r"[/\\]", origin.rstrip("/\\"))[-1])


def _slug(name: str) -> str:
    """Return a name in the spelling of model names, which are parts of file names."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")


def _model(data: Mapping[str, Any], *, name: str, subject: str) -> ModelConfig:
    model_type = data.get("model_type")
    if isinstance(data.get("text_config"), dict):
        text = {**data["text_config"]}
        if model_type is not None:
            text.setdefault("model_type", f"{model_type}_text")
        if data.get("tie_word_embeddings") is not None:
            text.setdefault("tie_word_embeddings", data["tie_word_embeddings"])
        return _model(text, name=name, subject=f"{subject}: text_config")
    families = {**DENSE, **MIXTURES}
    if model_type is None:
        raise RecipeError(f"{subject}: model_type is missing; it names the family, e.g. llama")
    if not isinstance(model_type, str) or model_type not in families:
        raise RecipeError(
            f"{subject}: model_type {shown(model_type)} is not understood; known: {', '.join(sorted(families))}; "
            "describe another architecture by a ModelConfig"
        )
    config = ConfigReader(data, subject=subject)
    values = _values(families[model_type], config)
    try:
        model = build_model(name or _slug(f"{model_type}-{config.digest()}"), values)
    except RecipeError as exc:
        raise RecipeError(f"{subject}: {exc}") from None
    config.finish()
    return model


def _values(read: Callable[[ConfigReader], dict[str, Any]], config: ConfigReader) -> dict[str, Any]:
    try:
        return read(config)
    except RecipeError:
        raise
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as exc:
        raise RecipeError(f"{config.subject}: a value has the wrong type: {exc}") from None
