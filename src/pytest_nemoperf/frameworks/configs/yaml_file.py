"""YAML recipe files of frameworks: loaded, inherited, resolved, and read by dotted names."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import operator
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.frameworks.configs.config_values import shown_config
from pytest_nemoperf.frameworks.configs.option_names import check_known
from pytest_nemoperf.frameworks.configs.yaml_bounds import MAX_CHARACTERS, check_events, check_interpolations

_OPERATIONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "mul": operator.mul,
    "div": operator.truediv,
    "max": max,
}
"""Functions that NeMo RL's files call in ``${mul:a,b}`` and the like."""
_MAX_NUMBER: Final = 2**63
_KINDS: Mapping[type, str] = {list: "a list", str: "a text", int: "a number", float: "a number"}
_REPLACES = "_override_"
"""Marks a section of NeMo RL's files that replaces its parent's instead of being merged into it."""
_MAX_PARENTS = 50


class YamlConfig:
    """Plain data of a recipe file, read by dotted names such as ``policy.model_name``; null counts as absent.

    Args:
        data: Mappings, lists and scalars.
        subject: Beginning of messages.
    """

    def __init__(self, data: Mapping[str, Any], *, subject: str) -> None:
        self.data = data
        self.subject = subject

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a name; the default if it or a section on its way is absent or null."""
        node: Any = self.data
        for key in name.split("."):
            if not isinstance(node, Mapping) or node.get(key) is None:
                return default
            node = node[key]
        return node

    def section(self, name: str) -> YamlConfig:
        """Return a section; an empty one if it is absent."""
        node = self.get(name, {})
        if not isinstance(node, Mapping):
            raise RecipeError(f"{self.subject}: {name}={node!r} must be a section")
        return YamlConfig(node, subject=f"{self.subject}: {name}")

    def sections(self, name: str) -> list[Mapping[str, Any]]:
        """Return the sections of a list, or a single one; other items of a list are left out.

        Raises:
            RecipeError: If the value is neither.
        """
        node = self.get(name, [])
        if isinstance(node, Mapping):
            return [node]
        if not isinstance(node, list):
            raise RecipeError(f"{self.subject}: {name}={node!r} must be a section, or a list of them")
        return [each for each in node if isinstance(each, Mapping)]

    def count(self, name: str, default: int | None = None) -> int | None:
        """Return a whole number >= 1.

        Raises:
            RecipeError: If the value is anything else.
        """
        value = self.get(name)
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or value < 1:
            raise RecipeError(f"{self.subject}: {name}={value!r} must be a whole number >= 1")
        return value

    def number(self, name: str, default: float) -> float:
        """Return a number.

        Raises:
            RecipeError: If the value is none.
        """
        value = self.get(name, default)
        if isinstance(value, str):
            try:
                return float(value)  # YAML 1.1 takes 1e-6 for a text
            except ValueError:
                pass
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise RecipeError(f"{self.subject}: {name}={value!r} must be a number")
        return value

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return true or false.

        Raises:
            RecipeError: If the value is anything else.
        """
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise RecipeError(f"{self.subject}: {name}={value!r} must be true or false")
        return value

    def text(self, name: str) -> str:
        """Return a text; empty if it is absent.

        Raises:
            RecipeError: If the value is no text.
        """
        value = self.get(name, "")
        if not isinstance(value, str):
            raise RecipeError(f"{self.subject}: {name}={value!r} must be a text")
        return value


def load_yaml(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file that is a mapping.

    Raises:
        RecipeError: If it can't be read, breaks a bound or is no mapping, or no YAML reader is installed.
    """
    yaml = _module("yaml")
    subject = shown_config(path)
    text = read_text(path)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        check_events(yaml.parse(text, Loader=loader), subject=subject)
        data = yaml.load(text, Loader=loader)
    except RecipeError:
        raise
    except (
        yaml.YAMLError,
        ValueError,
        LookupError,
        TypeError,
    ) as error:  # the others of dates and numbers there are not
        raise RecipeError(f"{subject} is no YAML: {_in_one_line(error)}") from None
    if not isinstance(data, dict):
        kind = "nothing" if data is None else _KINDS.get(type(data), "a value")
        raise RecipeError(f"{subject} holds {kind} instead of sections of settings; name a recipe file")
    return data


def set_option(data: dict[str, Any], name: str, value: Any) -> None:
    """Set a value by its dotted name in place; sections on the way are made.

    Raises:
        RecipeError: If the name leads into a list, which NeMo Automodel would replace by a section.
    """
    node = data
    *sections, last = name.lstrip("+-").split(".")
    for at, key in enumerate(sections):
        if isinstance(node.get(key), list):
            place = ".".join(sections[: at + 1])
            raise RecipeError(
                f"framework_options: {name} is inside the list {place}, which can only be set as a whole; give {place} "
                "with all of its items"
            )
        if not isinstance(node.get(key), dict):
            node[key] = {}
        node = node[key]
    node[last] = value


def load_inherited(path: Path, *, options: Mapping[str, Any], env: Mapping[str, str]) -> tuple[YamlConfig, Any]:
    """Return a NeMo RL file with its parents merged, options set and interpolations resolved; and as it is written.

    Interpolations that can't be resolved here stay as they are written, such as ``${oc.env:HF_HOME}`` of a variable
    that is not set.

    Args:
        path: The file; ``defaults`` in it names its parents, relative to itself.
        options: Values by dotted name; ``+`` before a name that the file lacks.
        env: Variables on top of this process's own.

    Raises:
        RecipeError: If a file can't be read, or an option does not fit.
    """
    omegaconf = _module("omegaconf")
    subject = shown_config(path)
    _register_functions(omegaconf.OmegaConf)
    try:
        merged = _with_parents(path, chain=(), files=[])
        check_interpolations(merged, subject=subject)
        config = omegaconf.OmegaConf.create(merged)
        raw = omegaconf.OmegaConf.to_container(config, resolve=False)
        if options:
            with _variables(env):
                check_known(options, data=_resolved(omegaconf, config), subject=subject)
        for name, value in options.items():
            omegaconf.OmegaConf.update(config, name.lstrip("+"), value, force_add=True)
        with _variables(env):
            data = _resolved(omegaconf, config)
    except omegaconf.errors.OmegaConfBaseException as error:
        raise RecipeError(f"{subject}: {_in_one_line(error)}") from None
    return YamlConfig(data, subject=subject), raw


def _register_functions(registry: Any) -> None:
    register = registry.register_new_resolver  # deprecated since 2.4, which gave the name below its meaning
    if "replace" in inspect.signature(registry.register_resolver).parameters:
        register = registry.register_resolver
    for name, operation in _OPERATIONS.items():
        if not registry.has_resolver(name):
            register(name, partial(_calculated, operation))


def _calculated(operation: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    """Return the result of an operation on two numbers; a product with a text would repeat it.

    Raises:
        TypeError: If one is no number.
        ValueError: If the result is larger than any setting.
    """
    for value in (a, b):
        if not isinstance(value, (int, float)):
            raise TypeError(f"{value!r} is no number")
    result = operation(a, b)
    if abs(result) > _MAX_NUMBER:
        raise ValueError(f"{result!r} is larger than any setting")
    return result


def _with_parents(path: Path, *, chain: tuple[Path, ...], files: list[Path]) -> dict[str, Any]:
    """Return a file merged with its parents, each appended to files."""
    place = path.resolve()
    files.append(place)
    if len(files) > _MAX_PARENTS:
        raise RecipeError(f"{shown_config(files[0])} has more than {_MAX_PARENTS} parents; mend defaults")
    if place in chain:
        raise RecipeError(
            f"{shown_config(path)} is among its own parents ({' -> '.join(map(str, chain))}); mend defaults"
        )
    own = load_yaml(path)
    parents = own.pop("defaults", None) or []
    if isinstance(parents, str):
        parents = [parents]
    if not isinstance(parents, list):
        raise RecipeError(f"{shown_config(path)}: defaults={parents!r} must be the name of a file, or a list of them")
    merged: dict[str, Any] = {}
    for parent in parents:
        merged = _merged(merged, _with_parents(path.parent / str(parent), chain=(*chain, place), files=files))
    return _merged(merged, own)


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return two mappings as one, sections merged and the second's values first."""
    merged = dict(base)
    for key, value in own.items():
        if isinstance(value, Mapping):
            section = {name: each for name, each in value.items() if name != _REPLACES}
            before = merged.get(key)
            if isinstance(before, Mapping) and not value.get(_REPLACES):
                section = _merged(before, value)
            merged[key] = section
        else:
            merged[key] = value
    return merged


def _resolved(omegaconf: Any, node: Any) -> Any:
    """Return a config as plain data; interpolations that can't be resolved stay as they are written."""
    if isinstance(node, omegaconf.DictConfig):
        data = {}
        for key in node:
            data[str(key)] = _resolved_item(omegaconf, node, key)
        return data
    if isinstance(node, omegaconf.ListConfig):
        return [_resolved_item(omegaconf, node, at) for at in range(len(node))]
    return node


def _resolved_item(omegaconf: Any, node: Any, key: Any) -> Any:
    try:
        return _resolved(omegaconf, node[key])
    except (omegaconf.errors.OmegaConfBaseException, ArithmeticError, TypeError, ValueError):
        return omegaconf.OmegaConf.to_container(node, resolve=False)[key]


@contextmanager
def _variables(env: Mapping[str, str]) -> Iterator[None]:
    """Set variables for interpolations, which read this process's own."""
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _module(name: str) -> Any:
    if importlib.util.find_spec(name) is None:
        raise RecipeError(
            f"framework_config of YAML needs {name}, which is not installed; install it with: "
            "pip install 'pytest-nemoperf[configs]'"
        )
    return importlib.import_module(name)


def read_text(path: Path) -> str:
    """Return the text of a recipe file.

    Raises:
        RecipeError: If it can't be read, or is longer than any.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except OSError as error:
        raise RecipeError(
            f"{shown_config(path)} can't be read from {Path.cwd()}: {error.strerror}; give its path from there, or "
            "all of it"
        ) from None
    except UnicodeDecodeError:
        raise RecipeError(f"{shown_config(path)} is no text in UTF-8; name the recipe file") from None
    if len(text) > MAX_CHARACTERS:
        raise RecipeError(f"{shown_config(path)} has more than {MAX_CHARACTERS:,} characters; name the recipe file")
    return text


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())
