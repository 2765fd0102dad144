"""Sentences about decoded JSON that no dataclass can be built from: JSON path, value and rule."""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from pytest_nemoperf.errors import shorten

_PLACE: Final = re.compile(r" - at `(?:key in `)?(\$[^`]*)`+$")
_STEP: Final = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_EXPECTED: Final = re.compile(r"Expected `([^`]+)`(?: (>=|<=|>|<) (\S+))?(?:, got `(\w+)`)?$")
_LACKS: Final = re.compile(r"Object missing required field `(\w+)`$")
_WORDS: Final = re.compile(r"Invalid enum value (.*)$", re.DOTALL)
_OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_TYPES: Final[Mapping[str, str]] = {  # in words of JSON, as bounds has those of Python
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "null": "null",
    "object": "an object",
    "str": "a text",
}


def explain(message: str, *, data: object, root: str = "$") -> str:
    """Return msgspec's message about plain data as a sentence with JSON path, value and rule.

    Args:
        message: Text of a ValidationError: msgspec's own, or that of a dataclass's own check.
        data: The decoded JSON it is about.
        root: JSON path of that data.
    """
    match = _PLACE.search(message)
    place = "$"
    if match is not None:
        place = match[1]
        message = message[: match.start()]
    if lacks := _LACKS.fullmatch(message):
        return _missing_key(lacks[1], place=place, data=data, root=root)
    if words := _WORDS.fullmatch(message):
        shown = words[1].replace("'", '"')
        path, value = _first(place, data=data, root=root, is_fault=lambda value: json_text(value) == shown)
        return f"{path} is {json_text(value)}, which is none of the known words"
    expected = _EXPECTED.fullmatch(message)
    if expected is None:  # of a dataclass's own check
        path = root + place[1:].partition("[...]")[0]
        return message if path == "$" else f"{path}: {message}"
    return _wrong_value(expected, place=place, data=data, root=root)


def non_finite(node: object, *, place: str = "$") -> Iterator[tuple[str, float]]:
    """Yield the JSON path of each number that is not finite, and the number."""
    if isinstance(node, float) and not math.isfinite(node):
        yield place, node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from non_finite(value, place=f"{place}.{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from non_finite(value, place=f"{place}[{number}]")


def json_text(value: object, *, most: int = 60) -> str:
    """Return a value as JSON writes it, shortened."""
    return shorten(json.dumps(value), most=most)


def _missing_key(name: str, *, place: str, data: object, root: str) -> str:
    path, _ = _first(place, data=data, root=root, is_fault=lambda value: isinstance(value, dict) and name not in value)
    return f"{path} lacks the key {name!r}"


def _wrong_value(expected: re.Match[str], *, place: str, data: object, root: str) -> str:
    types, sign, limit, got = expected.groups()
    if sign is None:
        path, value = _first(place, data=data, root=root, is_fault=lambda value: _type_of(value) == got)
        kinds = [_TYPES.get(kind, kind) for kind in types.split(" | ")]
        hint = f"; write {value:.0f}" if type(value) is float and value.is_integer() else ""
        return f"{path} is {json_text(value)}; it must be {' or '.join(kinds)}{hint}"
    is_kept = _OPERATORS[sign]
    bound = float(limit)
    path, value = _first(
        place, data=data, root=root, is_fault=lambda value: _is_number(value) and not is_kept(float(value), bound)
    )
    if _is_number(value) and not math.isfinite(float(value)):
        return f"{path} is {json_text(value)}; it must be a finite number"
    return f"{path} is {json_text(value)}; it must be {_TYPES[types]} {sign} {bound:g}"


def _type_of(value: object) -> str:
    """Return msgspec's name of a JSON value's type."""
    names = {bool: "bool", int: "int", float: "float", str: "str", dict: "object", list: "array"}
    return names.get(type(value), "null")


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _first(place: str, *, data: object, root: str, is_fault: Callable[[Any], bool]) -> tuple[str, Any]:
    """Return the path and the value at fault of those that a place stands for; ``[...]`` is any key of a mapping."""
    found: tuple[str, Any] = (root + place[1:], None)
    for path, value in _values(_STEP.findall(place), data=data, path=root):
        found = (path, value)
        if is_fault(value):
            break
    return found


def _values(steps: list[tuple[str, str]], *, data: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not steps:
        yield path, data
        return
    name, index = steps[0]
    if name and isinstance(data, dict) and name in data:
        yield from _values(steps[1:], data=data[name], path=f"{path}.{name}")
    elif index == "..." and isinstance(data, dict):
        for key, value in data.items():
            yield from _values(steps[1:], data=value, path=f"{path}.{key}")
    elif index.isdecimal() and isinstance(data, list) and int(index) < len(data):
        yield from _values(steps[1:], data=data[int(index)], path=f"{path}[{index}]")
