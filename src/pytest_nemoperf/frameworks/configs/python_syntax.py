"""Syntax trees of Python source: parsed once, and the names that their statements bind. Pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

_MAX_PARSED: Final = 1000


@lru_cache(maxsize=_MAX_PARSED)
def parsed(text: str) -> ast.Module:
    """Return the tree of a module; parsing is most of the time of a recipe, and recipes share most of their files."""
    return ast.parse(text)


def assigned_targets(node: ast.AST) -> list[ast.expr]:
    """Return the names, attributes and items that a statement or an expression itself assigns or deletes."""
    match node:
        case ast.Assign(targets=targets) | ast.Delete(targets=targets):
            return targets
        case ast.AnnAssign() | ast.AugAssign() | ast.For() | ast.NamedExpr():
            return [node.target]
        case ast.With():
            return [item.optional_vars for item in node.items if item.optional_vars is not None]
        case _:
            return []


def top_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements at the top of a module, those inside ``if`` and ``try`` too."""
    for node in body:
        if isinstance(node, ast.If):
            yield from top_statements([*node.orelse, *node.body])
        elif isinstance(node, ast.Try):
            yield from top_statements(node.body)
        else:
            yield node


def defined_names(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement at the top of a module binds."""
    match node:
        case ast.FunctionDef() | ast.ClassDef():
            yield node.name
        case ast.Import() | ast.ImportFrom():
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0]
        case ast.Assign():
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name
        case _:
            pass
