"""JSON Schemas of the public file formats: generated from the dataclasses and shipped; files that keep to them.

``python -m pytest_nemoperf.schema --write`` regenerates the shipped files after a dataclass has changed.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from pytest_nemoperf.errors import NemoPerfError, did_you_mean
from pytest_nemoperf.json_codec import from_data, read_json, to_data

# Names, not classes: the modules of some of these validate their files and so import this one.
KINDS: Mapping[str, str] = MappingProxyType(
    {
        "baseline": "pytest_nemoperf.baselines.baseline:Baseline",
        "case": "pytest_nemoperf.runs.replay:CaseRecord",
        "dry_run": "pytest_nemoperf.results.dry_run:DryRun",
        "health": "pytest_nemoperf.records.health:HealthReport",
        "plan": "pytest_nemoperf.recipes.recipe:Plan",
        "price": "pytest_nemoperf.pricing.price:Price",
        "profile": "pytest_nemoperf.records.profile:Profile",
        "published": "pytest_nemoperf.published.row:PublishedRows",
        "recipe": "pytest_nemoperf.recipes.recipe:Recipe",
        "release": "pytest_nemoperf.results.row:Release",
        "results": "pytest_nemoperf.results.cases:SessionResults",
        "step": "pytest_nemoperf.records.step:StepRecord",
    }
)
"""Module and dataclass of each kind of file."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ATTRIBUTE = re.compile(r"^ {4}(\w+): ")

T = TypeVar("T")


def schema_of(name: str) -> dict[str, Any]:
    """Return the JSON Schema of a kind of file, generated from its dataclass.

    Unknown keys are refused, since a misspelt key would otherwise silently take its default.

    Raises:
        KeyError: If there is no such kind.
    """
    module, _, attribute = KINDS[name].partition(":")
    generated = msgspec.json.schema(getattr(importlib.import_module(module), attribute))
    for definition in generated["$defs"].values():
        _describe(definition)
        if "properties" in definition:
            definition["additionalProperties"] = False
            _drop_empty_defaults(definition["properties"])
    root = generated["$defs"][generated["$ref"].rpartition("/")[2]]
    version = root["properties"].get("schema_version", {}).get("default", 1)
    with_head = {"$schema": _DIALECT, "$id": f"urn:pytest-nemoperf:{name}:{version}", **generated}
    return to_data(with_head)  # type: ignore[no-any-return]  # a dict in is a dict out; defaults were tuples


def _drop_empty_defaults(properties: Mapping[str, Any]) -> None:
    """Drop defaults that are empty mappings: only msgspec 0.23 and later write them."""
    for item in properties.values():
        if item.get("default") == {}:
            del item["default"]


def read_contract(
    kind: type[T],
    path: Path,
    *,
    error: type[NemoPerfError],
    unreadable_hint: str = "",
    corrupt_hint: str = "",
) -> T:
    """Read a JSON file and build its dataclass; see read_json and from_valid_data.

    Args:
        kind: The dataclass.
        path: The file.
        error: Raised type.
        unreadable_hint: See read_json.
        corrupt_hint: See read_json.

    Raises:
        NemoPerfError: Of the given type, with the file's path and the JSON path at fault.
    """
    data = read_json(path, error=error, unreadable_hint=unreadable_hint, corrupt_hint=corrupt_hint, is_finite=True)
    return from_valid_data(kind, data, subject=str(path), error=error)


def from_valid_data(kind: type[T], data: object, *, subject: str, error: type[NemoPerfError]) -> T:
    """Build a dataclass from decoded JSON; unknown keys are refused, as by the shipped schema.

    msgspec made the schemas of the same types, so what it builds the dataclass from keeps to the schema but for keys.

    Args:
        kind: The dataclass.
        data: Decoded JSON.
        subject: Name of the data in messages, e.g. a path.
        error: Raised type.

    Raises:
        NemoPerfError: Of the given type, with the JSON path at fault and the rule it breaks.
    """
    try:
        built = from_data(kind, data, subject=subject, error=error)
    except error:  # maybe for want of a key that is misspelt
        schema = _generated(kind)  # type: ignore[arg-type]  # mypy takes no type[T] for hashable
        for path, key, known in _keys_beside_schema(schema, data=data, path="$", definitions=schema.get("$defs", {})):
            raise error(f"{subject}: {path}.{key}: unknown key; {did_you_mean(key, known)}") from None
        raise
    for path, key, known in _unknown_keys(built, data=data, path="$"):
        raise error(f"{subject}: {path}.{key}: unknown key; {did_you_mean(key, known)}")
    return built


def _unknown_keys(built: Any, *, data: Any, path: str) -> Iterator[tuple[str, str, frozenset[str]]]:
    """Yield each key of a mapping that became a dataclass and has no such field: its path, the key, and the fields."""
    if isinstance(data, list):
        for index, (each, of) in enumerate(zip(built, data, strict=True)):
            yield from _unknown_keys(each, data=of, path=f"{path}[{index}]")
    elif isinstance(data, dict) and is_dataclass(built):
        names, nested = _field_names(built.__class__)
        if not data.keys() <= names:
            for key in data:
                if key not in names:
                    yield path, key, names
        for key in nested:
            if key in data:
                yield from _unknown_keys(getattr(built, key), data=data[key], path=f"{path}.{key}")
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from _unknown_keys(built[key], data=value, path=f"{path}.{key}")


def _keys_beside_schema(
    schema: Mapping[str, Any], *, data: Any, path: str, definitions: Mapping[str, Any]
) -> Iterator[tuple[str, str, Iterable[str]]]:
    """Yield unknown keys as _unknown_keys does, by the generated schema: no dataclass can be built from the data."""
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if isinstance(data, dict):
        for option in schema.get("anyOf", []):
            yield from _keys_beside_schema(option, data=data, path=path, definitions=definitions)
        known = schema.get("properties")
        for key, value in data.items():
            inner = schema.get("additionalProperties")
            if known is not None and key not in known:
                yield path, key, known
                continue
            if known is not None:
                inner = known[key]
            if isinstance(inner, dict):
                yield from _keys_beside_schema(inner, data=value, path=f"{path}.{key}", definitions=definitions)
    elif isinstance(data, list) and isinstance(schema.get("items"), dict):
        for index, value in enumerate(data):
            place = f"{path}[{index}]"
            yield from _keys_beside_schema(schema["items"], data=value, path=place, definitions=definitions)


@cache
def _generated(kind: type) -> Mapping[str, Any]:
    """Return msgspec's schema of a dataclass; making that of a session's results takes 50 ms."""
    return msgspec.json.schema(kind)


@cache
def _field_names(kind: type) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the names of a dataclass's fields, and of those that may hold dataclasses."""
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    return frozenset(names), tuple(name for name in names if _holds_dataclass(hints[name]))


def _holds_dataclass(hint: Any) -> bool:
    return is_dataclass(hint) or any(map(_holds_dataclass, get_args(hint)))


def _describe(definition: dict[str, Any]) -> None:
    """Describe a definition by its docstring's first line, and each property by its line under ``Attributes:``."""
    # cleandoc: Python 3.13 strips the indentation of docstrings, earlier ones don't
    docstring = inspect.cleandoc(definition.get("description", ""))
    if docstring:
        definition["description"] = docstring.partition("\n")[0]
    for name, text in _attributes(docstring):
        if name in definition.get("properties", {}):
            definition["properties"][name]["description"] = text


def _attributes(docstring: str) -> Iterator[tuple[str, str]]:
    section = docstring.partition("\nAttributes:\n")[2].partition("\n\n")[0]
    lines: list[str] = []
    for line in section.splitlines():
        if _ATTRIBUTE.match(line) or not lines:
            lines.append(line.strip())
        else:
            lines[-1] += " " + line.strip()
    for line in lines:
        name, _, text = line.partition(": ")
        yield name, text


def _file_name(name: str) -> str:
    return f"{name}.schema.json"


def main(arguments: list[str]) -> int:
    """Compare the shipped schemas with the dataclasses, or with ``--write`` regenerate them; 1 if any is stale."""
    folder = Path(__file__).parent / "schemas"
    stale = []
    for name in KINDS:
        text = json.dumps(schema_of(name), indent=2, sort_keys=True) + "\n"
        path = folder / _file_name(name)
        if arguments == ["--write"]:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path)
    for path in stale:
        sys.stderr.write(f"{path} is not what the dataclasses say; run python -m pytest_nemoperf.schema --write\n")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
