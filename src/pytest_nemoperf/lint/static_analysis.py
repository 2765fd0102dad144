"""Static analysis of tests: cases a test asks for, files that hold perf tests."""

from __future__ import annotations

import ast
import inspect
import os
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence, Set
from fnmatch import fnmatchcase
from pathlib import Path
from types import FunctionType
from typing import Any

_CASE_METHODS = frozenset({"check", "run", "measure"})
_JUDGE_METHOD = "compare"
_MAX_DEPTH = 3
_MARKER = "perf"
_FIXTURES = frozenset({"perf", "benchmark"})
_NAMES = re.compile(rf"\b({'|'.join(sorted(_FIXTURES))})\b")
_ADDS_MARKERS = "add_marker"
_ENVIRONMENTS = ("pyvenv.cfg", "conda-meta")


def asks_once(function: Callable[..., Any], *, name: str = "perf", depth: int = _MAX_DEPTH) -> bool:
    """Return whether a function asks for exactly one case: by one call outside of loops.

    A helper that gets the fixture is read too. False if the source can't be read or understood.

    Args:
        function: A test, or a helper.
        name: Its parameter that is the fixture.
        depth: Nested helpers that are read at most.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError, TypeError):
        return False
    attributes: dict[ast.expr, str] = {}
    calls: list[ast.Call] = []
    uses: list[ast.Name] = []
    for node in ast.walk(tree):
        match node:
            case ast.For() | ast.While() | ast.comprehension():
                return False
            case ast.Attribute():
                attributes[node.value] = node.attr
            case ast.Call():
                calls.append(node)
            case ast.Name() if node.id == name:
                uses.append(node)
            case _:
                pass
    uses = [use for use in uses if attributes.get(use) != _JUDGE_METHOD]
    if len(uses) != 1:
        return False
    use = uses[0]
    if use in attributes:
        return attributes[use] in _CASE_METHODS
    if depth > 0:
        for call in calls:
            if _helper_asks_once(call, use=use, function=function, depth=depth - 1):
                return True
    return False


def _helper_asks_once(call: ast.Call, *, use: ast.Name, function: Callable[..., Any], depth: int) -> bool:
    """Return whether a call passes the fixture to a function that asks once."""
    helper = getattr(function, "__globals__", {}).get(getattr(call.func, "id", None))
    if not isinstance(helper, FunctionType):
        return False
    if use in call.args:
        names = list(inspect.signature(helper).parameters)
        position = call.args.index(use)
        return position < len(names) and asks_once(helper, name=names[position], depth=depth)
    for keyword in call.keywords:
        if keyword.value is use and keyword.arg:
            return asks_once(helper, name=keyword.arg, depth=depth)
    return False


def perf_files(
    root: Path, *, names: Sequence[str], left_out: Sequence[str], follows_links: bool = True
) -> Iterator[Path]:
    """Yield the test files below a folder that may hold perf tests, whether or not a session collects them.

    Args:
        root: The folder.
        names: Patterns of test files, as in pytest's ``python_files``.
        left_out: Patterns of folders that pytest does not enter, as in its ``norecursedirs``.
        follows_links: Enter linked folders too, as pytest does; they may be large and slow.
    """
    entered = {root.resolve()}
    for folder, folders, files in os.walk(root, followlinks=follows_links):
        kept = []
        for name in folders:
            if _enters(Path(folder, name), left_out=left_out, entered=entered):
                kept.append(name)
        folders[:] = kept
        tests = []
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix == ".py" and _matches_any(path, names):
                tests.append(path)
        are_marked = bool(tests) and _are_marked_from_outside(Path(folder), root=root)
        for path in tests:
            if are_marked or _may_hold_perf_tests(path):
                yield path


def _enters(path: Path, *, left_out: Sequence[str], entered: set[Path]) -> bool:
    """Return whether pytest enters a folder by default; a folder that was entered before is not entered again."""
    if _matches_any(path, left_out) or any((path / name).exists() for name in _ENVIRONMENTS):
        return False
    is_new = path.resolve() not in entered
    entered.add(path.resolve())
    return is_new


def _matches_any(path: Path, patterns: Sequence[str]) -> bool:
    """Match as pytest does: a pattern with a slash against the end of the path, another against the name."""
    for pattern in patterns:
        if "/" in pattern:
            is_match = fnmatchcase(str(path), f"*/{pattern.lstrip('/')}")
        else:
            is_match = fnmatchcase(path.name, pattern)
        if is_match:
            return True
    return False


def _are_marked_from_outside(folder: Path, *, root: Path) -> bool:
    """Return whether a conftest.py may give tests in a folder a marker that their source does not show."""
    for each in (folder, *folder.parents):
        if each.is_relative_to(root):
            text = _text(each / "conftest.py")
            if text is None or _ADDS_MARKERS in text:
                return True
    return False


def names_perf(path: Path) -> bool:
    """Return whether a file names the marker ``perf``, or has a test that takes the fixture ``perf``."""
    return _finds_perf(path, fixtures={_MARKER}) is True


def _may_hold_perf_tests(path: Path) -> bool:
    """Return whether a file names the marker, or has a test that takes a perf fixture; True if it can't be read."""
    return _finds_perf(path, fixtures=_FIXTURES) is not False


def _finds_perf(path: Path, *, fixtures: Set[str]) -> bool | None:
    """Return whether a file names the marker or has a test that takes one of the fixtures; None if it can't be read."""
    text = _text(path)
    if text is None:
        return None
    if not _NAMES.search(text):
        return False
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return None
    return any(_is_marker(node) or _takes(node, fixtures=fixtures) for node in ast.walk(tree))


def _is_marker(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == _MARKER and ast.unparse(node.value).endswith("mark")


def _takes(node: ast.AST, *, fixtures: Set[str]) -> bool:
    """Return whether a node is a test that takes one of these fixtures."""
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or not node.name.startswith("test"):
        return False
    arguments = (*node.args.args, *node.args.kwonlyargs)
    return any(argument.arg in fixtures for argument in arguments)


def _text(path: Path) -> str | None:
    """Return the text of a file, empty if there is no such file; None if it can't be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeError):
        return None
