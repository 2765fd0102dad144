"""Short names of cases for the terminal: the test and its parameters, or model and layout; none twice in a session."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from pytest_nemoperf.recipes.case_id import model_and_layout
from pytest_nemoperf.report.cells import shorten_middle
from pytest_nemoperf.visible import plain_text

_OF_ANY_CASE: Final = frozenset({"case", "perf", "performance", "recipe", "speed", "step", "throughput", "train"})
"""Names of tests, without ``test_``, that do not tell one case from another."""
_NUMBERED_OBJECT: Final = re.compile(r"(case|config|kwargs|layout|model|param|plan|recipe|rl)\d+")
"""Parameters that pytest numbers because they are objects without an id."""
_ELLIPSIS: Final = "..."
_MIN_LEFT_OUT: Final = 8
"""Characters that names must begin with in common, for an ellipsis to stand for them."""


def short_name(case: str, *, nodeid: str = "", width: int | None = None) -> str:
    """Return the short name of a case alone, as on a line of its own.

    For example ``llama[tp2-pp2]`` of ``perf_tests/test_pretrain.py::test_llama[tp2-pp2]``, and ``llama3-8b fsdp4tp2``
    where no test is known or its name does not tell the case.

    Args:
        case: Case id.
        nodeid: Test that measures it; empty for none.
        width: Characters at most; None for any number.
    """
    name = _test_name(nodeid) or _model_name(case)
    return name if width is None else shorten_middle(name, width=width)


def short_names(cases: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the short name of each case of a session, by case id; no two are the same.

    Cases of one test have the names of model and layout. Names that would be equal get their test's file in front, or
    behind them the parts of the case id in which they differ.

    Args:
        cases: Pairs of a case id and its test's node id, which is empty for none.
    """
    nodeids: dict[str, str] = {}
    for case, nodeid in cases:
        nodeids.setdefault(case, nodeid)
    all_nodeids = list(nodeids.values())
    names = {}
    for case, nodeid in nodeids.items():
        names[case] = short_name(case, nodeid=nodeid if all_nodeids.count(nodeid) == 1 else "")
    for group in _equal_names(names):
        files = [_file_name(nodeids[case]) for case in group]
        if "" not in files and len(set(files)) == len(files):
            for case, file in zip(group, files, strict=True):
                names[case] = f"{file}::{names[case]}"
    for group in _equal_names(names):
        for case, difference in zip(group, _differences(group), strict=True):
            names[case] = f"{names[case]} {difference}".rstrip()
    for group in _equal_names(names):
        for case in group:
            names[case] = _printable(case)
    return _numbered(names, width=None)


def names_within(names: Mapping[str, str], *, width: int) -> dict[str, str]:
    """Return the names of short_names in at most width characters, again no two the same.

    Too long a name loses its middle. Where this makes names equal, what they begin with in common is left out instead,
    and as the last resort they are numbered.

    Args:
        names: Short names by case id.
        width: Characters at most.
    """
    cut = {case: shorten_middle(name, width=width) for case, name in names.items()}
    for group in _equal_names(cut):
        common = _common_start([names[case] for case in group])
        if len(common) >= _MIN_LEFT_OUT:
            for case in group:
                cut[case] = shorten_middle(_ELLIPSIS + names[case][len(common) :], width=width)
    return _numbered(cut, width=width)


def _test_name(nodeid: str) -> str:
    """Return the test and its parameters without path and ``test_``; empty if they do not tell the case."""
    path, bracket, parameters = _printable(nodeid).partition("[")
    function = path.rpartition("::")[2].removeprefix("test_")
    words = parameters.removesuffix("]").split("-")
    if all(_NUMBERED_OBJECT.fullmatch(word) for word in words if word):
        parameters = bracket = ""
        if function in _OF_ANY_CASE or words != [""]:
            return ""
    return function + bracket + parameters


def _printable(text: str) -> str:
    """Return text in one line of ASCII, so that a character is a column; others as pytest writes them in parameters."""
    return plain_text(text).encode("ascii", "backslashreplace").decode()


def _file_name(nodeid: str) -> str:
    """Return the file of a test without its folders, ``test_`` and ``.py``; empty without a test."""
    file = _printable(nodeid).partition("::")[0].rpartition("/")[2]
    return file.removesuffix(".py").removeprefix("test_")


def _model_name(case: str) -> str:
    named = model_and_layout(case)
    return _printable(case if named is None else " ".join(named))


def _differences(cases: Sequence[str]) -> list[str]:
    """Return of each case id the parts that not all of them have."""
    shared = set(cases[0].split("-")).intersection(*(case.split("-") for case in cases))
    differences = []
    for case in cases:
        parts = [part for part in case.split("-") if part not in shared]
        differences.append(_printable("-".join(parts)))
    return differences


def _common_start(names: Sequence[str]) -> str:
    first, last = min(names), max(names)
    for number, character in enumerate(first):
        if last[number] != character:
            return first[:number]
    return first


def _equal_names(names: Mapping[str, str]) -> list[list[str]]:
    """Return the groups of two cases or more that have the same name."""
    by_name: dict[str, list[str]] = {}
    for case, name in names.items():
        by_name.setdefault(name, []).append(case)
    return [group for group in by_name.values() if len(group) > 1]


def _numbered(names: Mapping[str, str], *, width: int | None) -> dict[str, str]:
    """Return the names, those that others have too with a number: ``name~2``."""
    taken = set()
    numbered = {}
    for case, name in names.items():
        number = 1
        unique = name
        while unique in taken:
            number += 1
            mark = f"~{number}"
            unique = name + mark if width is None else shorten_middle(name, width=max(width - len(mark), 0)) + mark
        taken.add(unique)
        numbered[case] = unique
    return numbered
