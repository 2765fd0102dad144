"""Functions of other projects, taken out of their files: their packages need GPUs to be imported."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Collection, Mapping
from importlib.metadata import distribution
from pathlib import Path
from types import CodeType
from typing import Any
from unittest.mock import MagicMock


def installed_file(package: str, path: str) -> Path:
    """Return a file of an installed package, which is not imported."""
    return Path(str(distribution(package).locate_file(path)))


def take(path: Path, names: Collection[str], *, using: Mapping[str, Any]) -> dict[str, Any]:
    """Return functions, methods and constants of a file by name, run with these globals; others are mocks."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if _name_of(node) in names:
            found.append(_without_annotations(node))
    assert len(found) == len(set(names)), f"{path} has {len(found)} of {names}"
    future = ast.ImportFrom(module="__future__", names=[ast.alias("annotations")], level=0)
    code = compile(ast.fix_missing_locations(ast.Module(body=[future, *found], type_ignores=[])), str(path), "exec")
    namespace = dict(using)
    for name in _used_names(code):
        if name not in namespace and not hasattr(builtins, name):
            namespace[name] = MagicMock(name=name)
    exec(code, namespace)  # noqa: S102 (the code under test)
    return namespace


def _name_of(node: ast.AST) -> str:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name
    if isinstance(node, ast.Assign | ast.AnnAssign):
        return ast.unparse(node.target if isinstance(node, ast.AnnAssign) else node.targets[0])
    return ""


def _without_annotations(node: ast.AST) -> Any:
    if isinstance(node, ast.FunctionDef):
        node.decorator_list = []
    return node


def _used_names(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _used_names(constant)
    return names
