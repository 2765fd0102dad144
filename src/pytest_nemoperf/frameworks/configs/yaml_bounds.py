"""Bounds of YAML recipe files, checked before they are built: aliases and interpolations can grow without end."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pytest_nemoperf.bounds import whole_number
from pytest_nemoperf.errors import RecipeError, shorten

MAX_CHARACTERS: Final = 1 << 20
"""Length of a recipe file; the longest that frameworks ship have a tenth of it."""
MAX_DEPTH: Final = 32
"""Levels of nesting; the recipes that frameworks ship have at most ten."""
_MAX_VALUES: Final = 10_000
"""Values of a file with its aliases and interpolations written out; large recipes have a thousand."""
_MAX_INTERPOLATED: Final = 400
_MAX_REFERENCES: Final = 12
"""Length of a text with interpolations, and the number of them; OmegaConf's grammar takes seconds for a long one."""
_HUGE_NUMBER: Final = re.compile(r"[-+]?(?:0x[0-9a-fA-F_]{20,}|0b[01_]{70,}|[\d_:]{40,})")
"""Whole number that YAML would build, of any length; those of recipes have 64 bits."""
_REFERENCE: Final = re.compile(r"\$\{([^${}:]+)\}")

_Path = tuple[str, ...]


@dataclass(slots=True)
class _Node:
    """A value that is being read.

    Attributes:
        anchor: Name that aliases have for it; empty for none.
        size: Values in it, itself included.
        depth: Levels in it.
        keys: Names of a mapping that were read; None for other values.
        is_key_next: Whether the next value is a name of the mapping.
    """

    anchor: str = ""
    size: int = 1
    depth: int = 1
    keys: set[str] | None = None
    is_key_next: bool = True


def check_events(events: Iterable[Any], *, subject: str) -> None:
    """Check the parsed events of a YAML file, of which nothing has been built yet.

    Args:
        events: Of ``yaml.parse``, which does not follow aliases.
        subject: Beginning of messages.

    Raises:
        RecipeError: If values lie too deep, would be too many with the aliases written out, hold themselves, or a
            mapping has a name twice.
    """
    anchored: dict[str, _Node] = {}
    stack = [_Node()]
    for event in events:
        kind = type(event).__name__
        line = event.start_mark.line + 1
        if kind in ("MappingStartEvent", "SequenceStartEvent"):
            is_mapping = kind == "MappingStartEvent"
            stack.append(_Node(anchor=event.anchor or "", keys=set() if is_mapping else None))
            if len(stack) > MAX_DEPTH:
                raise RecipeError(f"{subject}:{line}: nested more than {MAX_DEPTH} levels deep; no recipe is")
            continue
        name = None
        if kind == "ScalarEvent":
            node = _Node(anchor=event.anchor or "")
            name = event.value
            if event.style in (None, "") and _HUGE_NUMBER.fullmatch(name):
                raise RecipeError(f"{subject}:{line}: {shorten(name)} has more than 64 bits; quote it if it is a text")
        elif kind == "AliasEvent":
            found = anchored.get(event.anchor)
            if found is None:
                raise RecipeError(f"{subject}:{line}: no complete value is called *{event.anchor}; write it out")
            node = _Node(size=found.size, depth=found.depth)
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            node = stack.pop()
        else:
            continue
        if node.anchor:
            anchored[node.anchor] = node
        _put(node, into=stack[-1], name=name, place=f"{subject}:{line}")
        if len(stack) + node.depth > MAX_DEPTH:
            raise RecipeError(f"{subject}:{line}: nested more than {MAX_DEPTH} levels deep; no recipe is")
        if stack[-1].size > _MAX_VALUES:
            raise RecipeError(f"{subject}:{line}: more than {_MAX_VALUES:,} values with its aliases written out")


def _put(node: _Node, *, into: _Node, name: str | None, place: str) -> None:
    """Count a value into the one that holds it."""
    into.size += node.size
    into.depth = max(into.depth, node.depth + 1)
    if into.keys is None:
        return
    if into.is_key_next and name is not None and name != "<<":
        if name in into.keys:
            raise RecipeError(f"{place}: {name!r} is there twice in one section; drop one of them")
        into.keys.add(name)
    into.is_key_next = not into.is_key_next


def check_interpolations(data: Mapping[str, Any], *, subject: str) -> None:
    """Check that the interpolations of a file come to an end.

    Args:
        data: The file with its parents merged.
        subject: Beginning of messages.

    Raises:
        RecipeError: If one leads back to itself, or they would make too many values.
    """
    _Interpolations(data, subject=subject).count(())


class _Interpolations:
    """Counter of the values that a file has with its interpolations written out."""

    def __init__(self, data: Mapping[str, Any], *, subject: str) -> None:
        self._data = data
        self._subject = subject
        self._counts: dict[_Path, int | None] = {}

    def count(self, path: _Path, *, depth: int = 0) -> int:
        """Return the values at a place; 1 for a place that is not there."""
        if path in self._counts:
            found = self._counts[path]
            if found is None:
                raise RecipeError(f"{self._subject}: {'.'.join(path)} is interpolated into itself; write it out")
            return found
        if depth > 2 * MAX_DEPTH:
            raise RecipeError(f"{self._subject}: interpolations follow each other more than {2 * MAX_DEPTH} times")
        self._counts[path] = None
        number = 1
        for inner in self._inner(path):
            number += self.count(inner, depth=depth + 1)
            if number > _MAX_VALUES:
                raise RecipeError(
                    f"{self._subject}: more than {_MAX_VALUES:,} values with its interpolations written out"
                )
        self._counts[path] = number
        return number

    def _inner(self, path: _Path) -> Iterator[_Path]:
        node: Any = self._data
        for key in path:
            node = _item(node, key)
        if isinstance(node, Mapping):
            for key in node:
                yield (*path, str(key))
        elif isinstance(node, list):
            for at in range(len(node)):
                yield (*path, str(at))
        elif isinstance(node, str):
            if "${" in node and (len(node) > _MAX_INTERPOLATED or node.count("${") > _MAX_REFERENCES):
                raise RecipeError(
                    f"{self._subject}: {'.'.join(path)} is a text of {len(node):,} characters with "
                    f"{node.count('${')} interpolations; at most {_MAX_INTERPOLATED} with {_MAX_REFERENCES} are read"
                )
            for reference in _REFERENCE.findall(node):
                yield _referred(reference.strip(), path=path)


def _item(node: Any, key: str) -> Any:
    if isinstance(node, Mapping):
        if key in node:
            return node[key]
        return next((value for name, value in node.items() if str(name) == key), None)
    index = whole_number(key)
    if isinstance(node, list) and index is not None and index < len(node):
        return node[index]
    return None


def _referred(reference: str, *, path: _Path) -> _Path:
    """Return the place that ``a.b[0]`` names, or ``..b`` beside a place."""
    name = reference.lstrip(".")
    num_dots = len(reference) - len(name)
    parts = tuple(part for part in re.split(r"[.\[\]]+", name) if part)
    return (*path[: max(len(path) - num_dots, 0)], *parts) if num_dots else parts
