"""JSON Schemas of the public file formats: generated from the dataclasses, shipped, and used to validate files.

``python -m pytest_nemoperf.schema --write`` regenerates the shipped files after a dataclass has changed.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from pytest_nemoperf.errors import NemoPerfError, did_you_mean
from pytest_nemoperf.json_codec import from_data, read_json, to_data

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

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
_MAX_RULE_LENGTH = 300

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
    name: str,
    error: type[NemoPerfError],
    unreadable_hint: str = "",
    corrupt_hint: str = "",
) -> T:
    """Read a JSON file, check it against the shipped schema of its kind, and build its dataclass.

    Args:
        kind: The dataclass.
        path: The file.
        name: Kind of file, a key of KINDS.
        error: Raised type.
        unreadable_hint: See read_json.
        corrupt_hint: See read_json.

    Raises:
        NemoPerfError: Of the given type, with the file's path and the JSON path at fault.
    """
    data = read_json(path, error=error, unreadable_hint=unreadable_hint, corrupt_hint=corrupt_hint)
    return from_valid_data(kind, data, name=name, subject=str(path), error=error)


def from_valid_data(kind: type[T], data: object, *, name: str, subject: str, error: type[NemoPerfError]) -> T:
    """Check decoded JSON against the shipped schema of its kind, and build its dataclass; see validate.

    Data that msgspec builds the dataclass from, and that has no key beside its fields, keeps to the schema, which
    msgspec made of the same types: that takes a tenth of the validator's time. The validator explains all other data.
    """
    with suppress(msgspec.ValidationError):
        built = msgspec.convert(data, kind)
        if _has_known_keys_only(built, data=data):
            return built
    validate(data, name=name, subject=subject, error=error)
    return from_data(kind, data, subject=subject, error=error)


def _has_known_keys_only(built: Any, *, data: Any) -> bool:
    """Return whether every mapping that became a dataclass has keys of its fields only."""
    if built is data:  # plain data that may have any keys
        return True
    if isinstance(built, (list, tuple)):
        return all(_has_known_keys_only(each, data=of) for each, of in zip(built, data, strict=True))
    names = _field_names(built.__class__)
    if names is not None:
        if not data.keys() <= names:
            return False
        return all(_has_known_keys_only(getattr(built, key), data=value) for key, value in data.items())
    if isinstance(built, Mapping):
        return all(_has_known_keys_only(value, data=data[key]) for key, value in built.items())
    return isinstance(data, (str, int, float))  # an enum's value, or an int that became a float


@cache
def _field_names(kind: type) -> frozenset[str] | None:
    """Return the names of a dataclass's fields; None for another type."""
    if not is_dataclass(kind):
        return None
    return frozenset(field.name for field in fields(kind))


def validate(data: object, *, name: str, subject: str, error: type[NemoPerfError]) -> None:
    """Check decoded JSON against the shipped schema of its kind.

    Args:
        data: Decoded JSON.
        name: Kind of file, a key of KINDS.
        subject: Name of the data in messages, e.g. a path.
        error: Raised type.

    Raises:
        NemoPerfError: Of the given type, with the JSON path at fault and the rule it breaks.
    """
    from jsonschema.exceptions import best_match  # noqa: PLC0415 (only sessions that read files pay for it)

    fault = best_match(_validator(name).iter_errors(data))
    if fault is not None:
        raise error(f"{subject}: {_explain(fault)}")


@cache
def _validator(name: str) -> Draft202012Validator:
    from jsonschema import Draft202012Validator  # noqa: PLC0415 (see validate)

    text = resources.files("pytest_nemoperf").joinpath("schemas", _file_name(name)).read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(text))


def _explain(fault: ValidationError) -> str:
    fault = _innermost(fault)
    if fault.validator == "additionalProperties" and isinstance(fault.schema, Mapping):
        known = fault.schema["properties"]
        instance: Any = fault.instance
        for key in instance:
            if key not in known:
                return f"{fault.json_path}.{key}: unknown key; {did_you_mean(key, known)}"
    rule = fault.message
    if len(rule) > _MAX_RULE_LENGTH:
        rule = f"{rule[: _MAX_RULE_LENGTH // 2]} ... {rule[-_MAX_RULE_LENGTH // 2 :]}"
    return f"{fault.json_path}: {rule}"


def _innermost(fault: ValidationError) -> ValidationError:
    """Return the fault inside the nearest type, for a value that fits none of several types."""
    for inner in fault.context or ():
        if inner.validator != "type" or inner.relative_path:
            return _innermost(inner)
    return fault


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
