"""Check of data against the shipped JSON Schemas, by a validator that knows nothing of the dataclasses."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

from jsonschema import Draft202012Validator


def schema_faults(data: object, *, name: str) -> list[str]:
    """Return what breaks the shipped schema of a kind of file; empty for data that keeps to it."""
    return [f"{fault.json_path}: {fault.message}" for fault in _validator(name).iter_errors(data)]


@cache
def _validator(name: str) -> Draft202012Validator:
    path = resources.files("pytest_nemoperf").joinpath("schemas", f"{name}.schema.json")
    return Draft202012Validator(json.loads(path.read_text(encoding="utf-8")))
