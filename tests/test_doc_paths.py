"""Paths in the documentation lead to files of the repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pytest_nemoperf

PACKAGE = Path(pytest_nemoperf.__file__).parent
ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
SOURCE = re.compile(r"`([a-z_]+(?:/[a-z_]+)+\.py)`")


def lost_paths(text: str, *, folder: Path) -> list[str]:
    """Return the links of a page that lead nowhere, and the source files that are in neither of three places.

    Args:
        text: The page.
        folder: Its folder; source files may also be named from the root of the repository or the package's folder.
    """
    lost = []
    for target in LINK.findall(text):
        if "://" not in target and not (folder / target).exists():
            lost.append(target)
    for path in SOURCE.findall(text):
        if not any((place / path).exists() for place in (folder, ROOT, PACKAGE)):
            lost.append(path)
    return lost


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_source_paths_of_a_page_exist(page: Path) -> None:
    assert lost_paths(page.read_text(encoding="utf-8"), folder=page.parent) == []


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("see [this](docs/gone.md#part)", ["docs/gone.md"]),
        ("see `native/rank.py`", ["native/rank.py"]),
        ("see [this](docs/ab.md), `verdict/judge.py` and `benchmarks/rl.py`", []),
        ("see [that](https://example.com/gone.md) and `train.py`", []),
    ],
)
def test_a_path_that_leads_nowhere_is_found(text: str, lost: list[str]) -> None:
    assert lost_paths(text, folder=ROOT) == lost
