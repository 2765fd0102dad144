"""Selection of perf tests by ``-m``, and the folders collected for it."""

from __future__ import annotations

import ast
import glob
import re
from typing import Final

import pytest

from pytest_nemoperf.options.usage import usage_error

PERF_TESTPATHS: Final = "perf_testpaths"

_PERF = "perf"
_OTHER = "other"
_WORD = re.compile(r"[\w:+\-.\[\]\\/]+")  # a name in a mark expression, for pytest
_KEPT_WORDS = frozenset({"and", "or", "not", _PERF})


def asks_for_perf(markexpr: str) -> bool:
    """Whether a mark expression names perf other than under a ``not``.

    A test marked perf and slow is measured by ``-m perf`` but not by ``-m slow``, which does not promise an idle
    machine. True for an invalid expression, which pytest refuses later.
    """
    return _names_perf(_parse(markexpr))


def asks_for_perf_alone(markexpr: str) -> bool:
    """Whether a mark expression selects only tests with the marker perf, as ``perf and not slow`` does."""
    return asks_for_perf(markexpr) and not _may_hold_without_perf(_parse(markexpr), others=True)


def collect_perf_testpaths(config: pytest.Config) -> None:
    """Replace ini ``testpaths`` by ``perf_testpaths`` if perf tests are asked for and no path is given.

    If other tests are asked for too, the folders are added. Like ``testpaths``, this holds in the root directory only.
    Must run before pytest loads the conftest files of the folders it will collect.

    Raises:
        pytest.UsageError: If one of the paths does not exist; then its tests would silently be left out.
    """
    given = config.known_args_namespace
    paths: list[str] = config.getini(PERF_TESTPATHS)
    is_at_root = config.invocation_params.dir == config.rootpath
    if not paths or given.file_or_dir or not is_at_root or not asks_for_perf(given.markexpr):
        return
    missing = [path for path in paths if not glob.glob(path, recursive=True)]  # noqa: PTH207 (as pytest does)
    if missing and not given.pyargs:
        raise usage_error(
            f"ini {PERF_TESTPATHS}: there is no {' and no '.join(missing)} in {config.rootpath}; correct it there, or "
            "give the folders of perf tests by hand"
        )
    testpaths: list[str] = config.getini("testpaths")  # the list that pytest reads again when it collects
    if asks_for_perf_alone(given.markexpr):
        testpaths[:] = paths
    elif testpaths:
        testpaths += [path for path in paths if path not in testpaths]


def _parse(markexpr: str) -> ast.expr:
    """Parse a mark expression as Python, with one name for every marker but perf."""

    def plain(match: re.Match[str]) -> str:
        return match[0] if match[0] in _KEPT_WORDS else _OTHER

    try:
        return ast.parse(_WORD.sub(plain, markexpr.strip() or _OTHER), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two of deep nesting
        return ast.Name(_PERF)


def _names_perf(node: ast.expr, *, is_negated: bool = False) -> bool:
    match node:
        case ast.BoolOp(values=values):
            return any(_names_perf(value, is_negated=is_negated) for value in values)
        case ast.UnaryOp(operand=operand):
            return _names_perf(operand, is_negated=not is_negated)
        case ast.Call(func=func):
            return _names_perf(func, is_negated=is_negated)
        case ast.Name(id=name):
            return name == _PERF and not is_negated
    return False


def _may_hold_without_perf(node: ast.expr, *, others: bool) -> bool:
    """Evaluate an expression for a test without the marker perf.

    Args:
        node: The expression.
        others: Value of every other marker; inverted under a ``not``, so that True gives the best case for the test.
    """
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            return all(_may_hold_without_perf(value, others=others) for value in values)
        case ast.BoolOp(values=values):
            return any(_may_hold_without_perf(value, others=others) for value in values)
        case ast.UnaryOp(operand=operand):
            return not _may_hold_without_perf(operand, others=not others)
        case ast.Call(func=func):
            return _may_hold_without_perf(func, others=others)
        case ast.Name(id=name):
            return name != _PERF and others
    return others
