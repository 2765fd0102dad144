"""``perf_python``: the interpreter of commands, apart from pytest's."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import NOISE, Project, has_text, usage_error

_WITH_PYTHON = "sys.executable"


@pytest.fixture
def python(project: Project) -> Path:
    """Interpreter of an environment of its own, which notes its uses."""
    path = project.root / "trainer/bin/python"
    path.parent.mkdir(parents=True)
    uses = project.root / "uses.txt"
    path.write_text(f'#!/bin/sh\necho used >> {uses}\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    project.edit("test_speed.py", {_WITH_PYTHON: '"python"'})
    return path


def use(project: Project, text: str) -> None:
    (project.root / "tox.ini").write_text(
        f"[pytest]\nperf_runs = 1\nperf_budget = 0\n{NOISE}perf_python =\n    {text}\n"
    )


@pytest.mark.parametrize("text", ["trainer/bin/python", "command = trainer/bin/python"], ids=["any", "framework"])
def test_python_in_a_command_is_the_interpreter_of_the_ini_key(project: Project, python: Path, text: str) -> None:
    use(project, text)

    project.run().assert_outcomes(passed=1)

    assert (project.root / "uses.txt").exists()


def test_a_recipe_names_its_own_interpreter(project: Project, python: Path) -> None:
    use(project, "missing/python")
    project.edit("test_speed.py", {'framework="command",': 'framework="command", python="trainer/bin/python",'})

    project.run().assert_outcomes(passed=1)

    assert (project.root / "uses.txt").exists()


def test_the_versions_are_those_of_the_interpreter(
    project: Project, python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = project.root / "packages/trl-9.9.dist-info/METADATA"
    info.parent.mkdir(parents=True)
    info.write_text("Metadata-Version: 2.1\nName: trl\nVersion: 9.9\n")
    inherited = os.environ.get("PYTHONPATH", "")
    python.write_text(f'#!/bin/sh\nPYTHONPATH={info.parent.parent}:{inherited} exec {sys.executable} "$@"\n')
    use(project, "trainer/bin/python")

    project.run("--update-baselines").assert_outcomes(passed=1)

    assert project.stored()["environment"]["trl"] == "9.9"


def test_an_interpreter_that_is_not_there_is_named(project: Project, python: Path) -> None:
    use(project, "missing/python")

    result = project.run()

    result.assert_outcomes(failed=1)
    assert has_text(result, "missing/python is no program that can be executed; give the path of an interpreter")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trl =", "'trl =' must be FRAMEWORK=PATH, or a PATH for all commands"),
        ("torch = python3", "'torch = python3': the native engine runs in pytest's interpreter; drop it"),
        ("trl = a\n    trl = b", "two interpreters for trl: a and b; keep one"),
    ],
    ids=["no path", "native engine", "twice"],
)
def test_a_wrong_line_is_told(project: Project, text: str, message: str) -> None:
    use(project, text)

    assert f"ini perf_python: {message}" in usage_error(project.run())


def test_a_framework_that_is_not_known_is_told(project: Project, python: Path) -> None:
    use(project, "comand = trainer/bin/python")

    result = project.run()

    result.assert_outcomes(failed=1)
    assert has_text(result, "ini perf_python: unknown framework 'comand'; did you mean command?")
