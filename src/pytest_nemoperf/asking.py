"""What the sources of tests ask for: read, not run."""

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

_ASKING = frozenset({"check", "run", "measure"})
_JUDGING = "compare"
_MAX_DEPTH = 3
_MARKER = "perf"
_FIXTURES = frozenset({"perf", "benchmark"})
_NAMES = re.compile(rf"\b({'|'.join(sorted(_FIXTURES))})\b")
_ADDS_MARKERS = "add_marker"
_ENVIRONMENTS = ("pyvenv.cfg", "conda-meta")


def asks_once(function: Callable[..., Any], *, name: str = "perf", depth: int = _MAX_DEPTH) -> bool:
    """Tell whether a function asks for a case just once: by one call, and no loop round it.

    A helper that gets the fixture is read as well. What can't be told counts as asking more often.

    Args:
        function: A test, or a helper.
        name: Its parameter that is the fixture.
        depth: Helpers of helpers that are read at most.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError, TypeError):
        return False
    nodes = list(ast.walk(tree))
    if any(isinstance(node, (ast.For, ast.While, ast.comprehension)) for node in nodes):
        return False
    attributes = {id(node.value): node.attr for node in nodes if isinstance(node, ast.Attribute)}
    uses = [node for node in nodes if isinstance(node, ast.Name) and node.id == name]
    uses = [use for use in uses if attributes.get(id(use)) != _JUDGING]
    if len(uses) != 1:
        return False
    use = uses[0]
    if id(use) in attributes:
        return attributes[id(use)] in _ASKING
    calls = (node for node in nodes if isinstance(node, ast.Call))
    return depth > 0 and any(_helper_asks_once(call, use=use, function=function, depth=depth - 1) for call in calls)


def _helper_asks_once(call: ast.Call, *, use: ast.Name, function: Callable[..., Any], depth: int) -> bool:
    """Tell whether a call hands the fixture to a function that asks once."""
    helper = getattr(function, "__globals__", {}).get(getattr(call.func, "id", None))
    if not isinstance(helper, FunctionType):
        return False
    if use in call.args:
        names = list(inspect.signature(helper).parameters)
        position = call.args.index(use)
        return position < len(names) and asks_once(helper, name=names[position], depth=depth)
    return any(
        each.value is use and each.arg and asks_once(helper, name=each.arg, depth=depth) for each in call.keywords
    )


def perf_files(
    root: Path, *, names: Sequence[str], left_out: Sequence[str], follows_links: bool = True
) -> Iterator[Path]:
    """Yield the test files below a folder that may hold perf tests, whether or not a session collects them.

    Args:
        root: The folder.
        names: Patterns of test files, as in pytest's ``python_files``.
        left_out: Patterns of folders that pytest does not enter, as in its ``norecursedirs``.
        follows_links: Enter folders behind links too, as pytest does; they may lead to large and slow places.
    """
    entered = {root.resolve()}
    for folder, folders, files in os.walk(root, followlinks=follows_links):
        inside = {name: Path(folder, name) for name in folders}
        folders[:] = [name for name, path in inside.items() if _is_entered(path, left_out=left_out, entered=entered)]
        paths = [Path(folder, name) for name in sorted(files)]
        tests = [path for path in paths if path.suffix == ".py" and any(_matches(path, name) for name in names)]
        are_marked = bool(tests) and _are_marked_from_outside(Path(folder), root=root)
        yield from (path for path in tests if are_marked or _may_hold_perf_tests(path))


def _is_entered(path: Path, *, left_out: Sequence[str], entered: set[Path]) -> bool:
    """Tell whether pytest looks into a folder, as it does by default; of links that lead in a circle, only once."""
    if any(_matches(path, pattern) for pattern in left_out) or any((path / name).exists() for name in _ENVIRONMENTS):
        return False
    is_new = path.resolve() not in entered
    entered.add(path.resolve())
    return is_new


def _matches(path: Path, pattern: str) -> bool:
    """Match as pytest does: a pattern with a folder in it against the end of the path, another against the name."""
    return fnmatchcase(str(path), f"*/{pattern.lstrip('/')}") if "/" in pattern else fnmatchcase(path.name, pattern)


def _are_marked_from_outside(folder: Path, *, root: Path) -> bool:
    """Tell whether a conftest.py may give tests in a folder a marker that their source does not show."""
    folders = (each for each in (folder, *folder.parents) if each.is_relative_to(root))
    texts = (_text(each / "conftest.py") for each in folders)
    return any(text is None or _ADDS_MARKERS in text for text in texts)


def names_perf(path: Path) -> bool:
    """Tell whether a file names the marker, or has a test that takes the fixture of that name."""
    nodes = _nodes(path)
    return nodes is not None and any(_is_marker(node) or _takes(node, fixtures={_MARKER}) for node in nodes)


def _may_hold_perf_tests(path: Path) -> bool:
    """Tell whether a file names the marker, or has a test that takes a fixture of perf tests; unreadable ones may."""
    nodes = _nodes(path)
    return nodes is None or any(_is_marker(node) or _takes(node, fixtures=_FIXTURES) for node in nodes)


def _nodes(path: Path) -> list[ast.AST] | None:
    """Return the syntax tree of a file that has the words perf tests have; None if it can't be read."""
    text = _text(path)
    if text is None:
        return None
    if not _NAMES.search(text):
        return []
    try:
        return list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError):
        return None


def _is_marker(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == _MARKER and ast.unparse(node.value).endswith("mark")


def _takes(node: ast.AST, *, fixtures: Set[str]) -> bool:
    """Tell whether a node is a test that takes one of these fixtures."""
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or not node.name.startswith("test"):
        return False
    arguments = node.args
    return not fixtures.isdisjoint(each.arg for each in (*arguments.args, *arguments.kwonlyargs))


def _text(path: Path) -> str | None:
    """Return what is in a file; None if it can't be read, the empty text if there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeError):
        return None
