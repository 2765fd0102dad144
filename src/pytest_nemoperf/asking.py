"""How often the source of a test asks for a case: read, not run."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from types import FunctionType
from typing import Any

_ASKING = frozenset({"check", "run", "measure"})
_JUDGING = "compare"
_MAX_DEPTH = 3


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
