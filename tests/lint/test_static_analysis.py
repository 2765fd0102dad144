from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.lint.static_analysis import asks_once, perf_files


def once(perf: Any) -> None:
    perf.check("recipe")


def judged_apart(perf: Any) -> None:
    perf.compare(perf.run("recipe"))


def nothing(perf: Any) -> None:
    pass


def by_helper(perf: Any) -> None:
    helper("recipe", perf)


def by_keyword(perf: Any) -> None:
    helper("recipe", fixture=perf)


def beside_another_helper(perf: Any) -> None:
    nothing("recipe")
    helper("recipe", perf)


def helper(recipe: str, fixture: Any) -> None:
    fixture.check(recipe)


def twice(perf: Any) -> None:
    perf.check("one")
    perf.check("two")


def in_a_loop(perf: Any) -> None:
    for recipe in ("one", "two"):
        perf.check(recipe)


def in_a_comprehension(perf: Any) -> None:
    [perf.check(recipe) for recipe in ("one", "two")]


def by_a_helper_that_loops(perf: Any) -> None:
    looping_helper(perf)


def looping_helper(perf: Any) -> None:
    in_a_loop(perf)


def under_another_name(perf: Any) -> None:
    other = perf
    other.check("one")
    other.check("two")


def by_itself(perf: Any) -> None:
    by_itself(perf)


@pytest.mark.parametrize(
    "test", [once, judged_apart, by_helper, by_keyword, beside_another_helper], ids=lambda test: test.__name__
)
def test_one_call_asks_for_one_case(test: Callable[..., Any]) -> None:
    assert asks_once(test)


@pytest.mark.parametrize(
    "test",
    [twice, in_a_loop, in_a_comprehension, by_a_helper_that_loops, under_another_name, by_itself, nothing, len],
    ids=lambda test: test.__name__,
)
def test_what_may_ask_more_often_counts_as_that(test: Callable[..., Any]) -> None:
    assert not asks_once(test)


def found(root: Path) -> list[str]:
    paths = perf_files(root, names=["test_*.py", "checks/*.py"], left_out=[".*", "venv", "gpu/old"])
    return sorted(str(path.relative_to(root)) for path in paths)


def write(root: Path, name: str, text: str = "@pytest.mark.perf\ndef test(): pass") -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "@mark.perf\ndef test(): pass",
        "pytestmark = [pytest.mark.perf]",
        "@slow\ndef test_all(perf): pass",
        "class TestAll:\n    async def test_all(self, *, benchmark): pass",
        "def test_all(perf: pass",
    ],
    ids=["marker", "marker of the module", "fixture", "benchmark", "can't be parsed"],
)
def test_a_file_that_shows_a_perf_test_may_hold_one(tmp_path: Path, text: str) -> None:
    write(tmp_path, "gpu/test_a.py", text)

    assert found(tmp_path) == ["gpu/test_a.py"]


@pytest.mark.parametrize(
    "text",
    ["", "def test(): '@pytest.mark.perf'", "def helper(perf): pass", "config.perf = 1", "def test(perf_data): pass"],
    ids=["nothing", "in a string", "a helper", "another attribute", "another fixture"],
)
def test_a_file_that_only_speaks_of_perf_holds_none(tmp_path: Path, text: str) -> None:
    write(tmp_path, "test_a.py", text)

    assert found(tmp_path) == []


def test_files_that_pytest_would_not_collect_are_left_out(tmp_path: Path) -> None:
    for name in ("speed.py", ".tox/test_a.py", "venv/test_a.py", "gpu/old/test_a.py", "env/test_a.py"):
        write(tmp_path, name)
    write(tmp_path, "env/pyvenv.cfg", "")
    write(tmp_path, "old/test_a.py")
    write(tmp_path, "gpu/checks/speed.py")

    assert found(tmp_path) == ["gpu/checks/speed.py", "old/test_a.py"]


def test_what_a_conftest_may_mark_may_be_a_perf_test(tmp_path: Path) -> None:
    write(tmp_path, "a/conftest.py", "def pytest_itemcollected(item): item.add_marker('perf')")
    write(tmp_path, "a/deep/test_a.py", "def test(): pass")
    write(tmp_path, "b/test_b.py", "def test(): pass")

    assert found(tmp_path) == ["a/deep/test_a.py"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root, "a/test_a.py")
    write(tmp_path, "elsewhere/test_b.py")
    (root / "a" / "circle").symlink_to(root)
    (root / "link").symlink_to(tmp_path / "elsewhere")

    assert found(root) == ["a/test_a.py", "link/test_b.py"]
