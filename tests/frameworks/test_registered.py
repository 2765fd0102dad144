from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_nemoperf.frameworks.builtin import builtin_frameworks
from pytest_nemoperf.frameworks.command import CommandFramework
from pytest_nemoperf.frameworks.registered import BUILT_IN, GROUP, registered_frameworks
from tests.frameworks.fake_packages import write_distribution

SOURCE = """
from pytest_nemoperf.frameworks.command import CommandFramework

def named(given):
    class Named(CommandFramework):
        name = given
    return Named()

class Alpha(CommandFramework):
    name = "alpha"

def several():
    return [named("beta"), named("gamma")]

def builtin():
    return named("torch")

def nothing():
    return object()

def raising():
    raise OSError("no licence server")

def leaving():
    raise SystemExit("no licence")
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that installs a package with entry points."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "their_frameworks.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "their_frameworks", raising=False)

    def write(name: str, *values: str) -> None:
        lines = [f"[{GROUP}]", *(f"{value.rpartition(':')[2]} = {value}" for value in values)]
        write_distribution(tmp_path, name=name, version="1.0", entry_points="\n".join(lines) + "\n")

    return write


def test_a_class_or_a_function_gives_frameworks(install: Install) -> None:
    install("theirs", "their_frameworks:Alpha", "their_frameworks:several")

    found = registered_frameworks()

    assert list(found.frameworks) == [*builtin_frameworks(), "alpha", "beta", "gamma"]
    assert found.origins["beta"] == "theirs 1.0"
    assert found.origins["torch"] == BUILT_IN
    assert found.problems == ()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("their_frameworks:raising", "OSError: no licence server"),
        ("their_frameworks:leaving", "SystemExit: no licence"),
        ("their_frameworks:gone", "AttributeError"),
        ("not_there:Alpha", "ModuleNotFoundError: No module named 'not_there'"),
        ("their_frameworks:nothing", "has no name, unsupported, command, read_output, which a Framework has"),
    ],
)
def test_a_broken_entry_point_is_named_and_leaves_the_others(install: Install, value: str, reason: str) -> None:
    install("broken", value)
    install("theirs", "their_frameworks:Alpha")

    found = registered_frameworks()

    assert "alpha" in found.frameworks
    (problem,) = found.problems
    assert f"{value} of broken 1.0 gives no framework" in problem
    assert reason in problem


def test_a_name_that_is_taken_stays_with_its_owner(install: Install) -> None:
    install("first", "their_frameworks:Alpha")
    install("second", "their_frameworks:Alpha", "their_frameworks:builtin")

    found = registered_frameworks()

    assert found.origins["alpha"] == "first 1.0"
    assert type(found.frameworks["torch"]) is type(builtin_frameworks()["torch"])
    assert "of second 1.0 names a framework 'alpha', as does first 1.0, which stays" in found.problems[0]
    assert "of second 1.0 names a framework 'torch', as does this plugin, which stays" in found.problems[1]


def test_names_of_a_hook_come_first(install: Install) -> None:
    install("theirs", "their_frameworks:Alpha")
    mine = CommandFramework()

    found = registered_frameworks({"alpha": mine})

    assert found.frameworks["alpha"] is mine
    assert "as does a hook of this session" in found.problems[0]
