"""The guides of CONTRIBUTING.md: each touches at most two files beside tests and docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PACKAGE = "src/pytest_nemoperf"
MAX_FILES = 2
PROMISED = ("framework", "launcher", "metric", "recipe", "model", "system")
FURTHER = ("FLOPs convention", "log format", "release of published rows")
SOURCES = [path.relative_to(ROOT / PACKAGE).as_posix() for path in (ROOT / PACKAGE).rglob("*.*")]
LINK = re.compile(r"\[[^]]*\]\([^)]*\)")
CODE = re.compile(r"`([^`\s]+\.(?:py|json))`")


def guides_in(text: str) -> dict[str, str]:
    """Return the guides by the thing they add."""
    guides = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE):
        title, _, body = section.partition("\n")
        if title.startswith("Add a "):
            guides[title.removeprefix("Add a ")] = body
    return guides


def touched_files(guide: str) -> set[str]:
    """Return the source files that a guide says to add or to edit."""
    return {path for path in CODE.findall(LINK.sub("", guide)) if path.startswith("src/")}


def guide_problems(guide: str) -> list[str]:
    """Return the faults of a guide: too many files, files that are not there, and source files named in passing."""
    touched = touched_files(guide)
    problems = []
    if len(touched) > MAX_FILES:
        problems.append(f"{len(touched)} files: {', '.join(sorted(touched))}")
    for path in sorted(touched):
        place = ROOT / path
        if not (place.parent.is_dir() if "<name>" in path else place.is_file()):
            problems.append(f"there is no {path}")
    for name in CODE.findall(LINK.sub("", guide)):
        is_hidden = any(source == name or source.endswith(f"/{name}") for source in SOURCES)
        if is_hidden:
            problems.append(f"{name} is neither a link nor named from the root")
    return problems


@pytest.mark.parametrize("thing", [*PROMISED, *FURTHER])
def test_a_guide_touches_at_most_two_source_files(thing: str) -> None:
    assert guide_problems(guides_in(TEXT)[thing]) == []


def test_every_guide_is_counted() -> None:
    assert set(guides_in(TEXT)) == {*PROMISED, *FURTHER}


@pytest.mark.parametrize(
    ("added", "problem"),
    [
        pytest.param(f"Edit `{PACKAGE}/report/cells.py`.", "3 files", id="a third file"),
        pytest.param(
            f"Edit `{PACKAGE}/frameworks/gone.py`.", f"there is no {PACKAGE}/frameworks/gone.py", id="lost file"
        ),
        pytest.param("Edit `report/cells.py`.", "report/cells.py is neither a link", id="named in passing"),
        pytest.param("Edit `cells.py` too.", "cells.py is neither a link", id="by its name alone"),
    ],
)
def test_a_guide_that_touches_more_is_found(added: str, problem: str) -> None:
    guide = guides_in(TEXT)["framework"] + added

    assert any(each.startswith(problem) for each in guide_problems(guide))
