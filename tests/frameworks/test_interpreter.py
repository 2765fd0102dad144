from __future__ import annotations

import json
import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

from pytest_nemoperf.errors import LaunchError, PlanError
from pytest_nemoperf.frameworks.command import CommandFramework
from pytest_nemoperf.frameworks.interpreter import (
    check_interpreter,
    find_interpreter,
    versions_in,
    with_interpreter,
)
from pytest_nemoperf.frameworks.protocol import RankCommand
from tests.builders import make_plan
from tests.frameworks.fake_packages import write_interpreter


def make_program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def make_environment(folder: Path) -> Path:
    """Return the python of a virtual environment: a link to this one, with a torchrun beside it."""
    python = folder / "bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(Path(sys.executable).resolve())
    (folder / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    make_program(folder / "bin/torchrun", f"#!{python}\n")
    return python


def command(*argv: str, **env: str) -> RankCommand:
    return RankCommand(argv=argv, num_processes=1, env=env)


@pytest.mark.parametrize("word", ["python", "python3"])
def test_python_means_the_interpreter_of_the_recipe(word: str, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "venv")

    changed = with_interpreter(command(word, "train.py", MINE="1"), python=str(python))

    assert changed.argv == (str(python), "train.py")
    assert changed.env["PATH"].split(os.pathsep)[0] == str(python.parent)
    assert changed.env["VIRTUAL_ENV"] == str(tmp_path / "venv")
    assert changed.env["MINE"] == "1"


def test_programs_beside_the_interpreter_come_first(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "venv")

    changed = with_interpreter(command("torchrun", "train.py"), python=str(python))

    assert changed.argv == ("torchrun", "train.py")
    assert find_interpreter(changed) == str(python)


def test_without_an_interpreter_a_command_stays_as_it_is() -> None:
    plain = command("python", "train.py")

    assert with_interpreter(plain, python="") == plain


def test_an_interpreter_outside_a_virtual_environment_sets_no_environment(tmp_path: Path) -> None:
    python = make_program(tmp_path / "bin/python3.12", "#!/bin/sh\n")

    assert "VIRTUAL_ENV" not in with_interpreter(command("python"), python=str(python)).env


@pytest.mark.parametrize("first_line", ["#!/usr/bin/env python3", "#!{python}", "#!{python} -E"])
def test_the_interpreter_of_a_script_is_that_of_its_first_line(first_line: str, tmp_path: Path) -> None:
    python = make_program(tmp_path / "python3", "#!/bin/sh\n")
    make_program(tmp_path / "accelerate", first_line.format(python=python) + "\n")

    assert find_interpreter(command("accelerate", PATH=str(tmp_path))) == str(python)


@pytest.mark.parametrize("text", ["#!/bin/sh\n", "\x7fELF", "", "#!\n"], ids=["shell", "binary", "empty", "no name"])
def test_other_programs_have_no_interpreter_that_can_be_told(text: str, tmp_path: Path) -> None:
    make_program(tmp_path / "run", text)

    assert find_interpreter(command("run", PATH=str(tmp_path))) == ""
    assert find_interpreter(command("missing", PATH=str(tmp_path))) == ""


def test_versions_of_another_interpreter_are_asked_of_it(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "venv")
    info = tmp_path / "packages/torch-9.9.dist-info/METADATA"
    info.parent.mkdir(parents=True)
    info.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.9\n")

    versions = versions_in(
        str(python), env={"PYTHONPATH": str(tmp_path / "packages"), "APPTAINER_CONTAINER": "nemo.sif"}
    )

    assert versions["torch"] == "9.9"
    assert versions["python"].startswith("3.")
    assert "APPTAINER_CONTAINER=nemo.sif" in versions["container"]
    assert metadata.version("torch") != "9.9"


def test_a_distribution_without_a_version_is_not_installed(tmp_path: Path) -> None:
    python = write_interpreter(tmp_path, distributions={})
    left = tmp_path / "site" / "triton-3.6.0.dist-info"
    left.mkdir()
    (left / "METADATA").write_text("Metadata-Version: 2.1\nName: triton\n", encoding="utf-8")

    assert "triton" not in versions_in(python, env={})


def test_a_script_that_stands_for_an_interpreter_may_print_something_first(tmp_path: Path) -> None:
    python = make_program(tmp_path / "in_container", f'#!/bin/sh\necho Welcome\nexec {sys.executable} "$@"\n')
    plan = make_plan(framework="command", command=("python", "train.py"), python=str(python))

    CommandFramework().command(plan, run_dir=tmp_path)

    assert json.loads((tmp_path / "environment.json").read_text())["python"] == platform.python_version()


def test_the_own_interpreter_is_not_asked() -> None:
    assert versions_in(sys.executable, env={}) == {}
    assert versions_in("", env={}) == {}


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("#!/bin/sh\necho no such module >&2\nexit 1\n", "can't be asked for its versions: no such module; give a Pyt"),
        ("#!/bin/sh\nexit 3\n", "can't be asked for its versions: exit code 3"),
        ("#!/bin/sh\necho hello\n", "can't be asked for its versions: it runs no Python; give an interpreter"),
    ],
    ids=["error", "exit code", "no answer"],
)
def test_a_program_that_is_no_python_is_named(script: str, message: str, tmp_path: Path) -> None:
    python = make_program(tmp_path / "python", script)

    with pytest.raises(LaunchError, match=re.escape(message)):
        versions_in(str(python), env={})


def test_a_relative_interpreter_counts_from_the_root_and_stays_a_link(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "venv")

    assert check_interpreter("venv/bin/python", root=tmp_path) == str(python)


@pytest.mark.parametrize("name", ["venv", "missing/python"])
def test_an_interpreter_that_can_not_be_executed_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "venv").mkdir()

    with pytest.raises(
        PlanError, match=rf"python='{name}': {tmp_path}/{name} is no program that can be executed; give"
    ):
        check_interpreter(name, root=tmp_path)


def test_the_versions_of_a_command_are_stored_with_its_run(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "venv")
    plan = make_plan(framework="command", command=("python", "train.py"), python=str(python))

    CommandFramework().command(plan, run_dir=tmp_path)

    stored = json.loads((tmp_path / "environment.json").read_text())
    assert stored["python"] == platform.python_version()
