"""The one JSON codec of all contracts: dataclasses to text and back."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from pytest_nemoperf.errors import NemoPerfError, RecordError

_LINE_LENGTH = 160  # the metrics of a run fit

T = TypeVar("T")


def to_json(value: object) -> str:
    """Return a contract dataclass as JSON for people and diffs: keys sorted, on a line what fits on one."""
    return _pretty(msgspec.to_builtins(value), indent=0) + "\n"


def _pretty(value: Any, *, indent: int, prefix: str = "") -> str:
    line = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    if not value or not isinstance(value, (dict, list, tuple)) or indent + len(prefix) + len(line) <= _LINE_LENGTH:
        return prefix + line
    inner, pad = indent + 2, " " * (indent + 2)
    if isinstance(value, dict):
        keyed = sorted(value.items())
        entries = [_pretty(entry, indent=inner, prefix=f"{json.dumps(key)}: ") for key, entry in keyed]
    else:
        entries = [_pretty(entry, indent=inner) for entry in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    body = ",\n".join(pad + entry for entry in entries)
    return f"{prefix}{opening}\n{body}\n{' ' * indent}{closing}"


def to_json_line(value: object) -> str:
    """Return a contract dataclass as one line of JSON, newline included; a loss may be NaN, as Python writes it."""
    return json.dumps(msgspec.to_builtins(value)) + "\n"


def to_data(value: object) -> Any:
    """Return a contract dataclass as plain dicts, lists, strings and numbers: equal to what is read back."""
    return _without_tuples(msgspec.to_builtins(value))


def _without_tuples(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_tuples(value) for key, value in node.items()}
    return [_without_tuples(value) for value in node] if isinstance(node, (list, tuple)) else node


def from_data(kind: type[T], data: object, *, subject: str, error: type[NemoPerfError] = RecordError) -> T:
    """Build a contract dataclass from plain data; unknown keys are ignored (the schema names them).

    Args:
        kind: The dataclass.
        data: Decoded JSON.
        subject: What the data is, for the message, e.g. a path.
        error: Raised type.

    Raises:
        NemoPerfError: Of the given type, with the JSON path at fault.
    """
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as exc:
        raise error(f"{subject}: {exc}") from None


def from_json(kind: type[T], text: str | bytes, *, subject: str, error: type[NemoPerfError] = RecordError) -> T:
    """Build a contract dataclass from JSON text; see from_data."""
    try:
        data = json.loads(text)
    except ValueError as exc:
        raise error(f"{subject}: not JSON: {exc}") from None
    return from_data(kind, data, subject=subject, error=error)
