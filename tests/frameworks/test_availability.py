from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_nemoperf.frameworks.availability import FrameworkStatus, framework_status
from pytest_nemoperf.frameworks.command import CommandFramework
from pytest_nemoperf.frameworks.requirements import Requirement, installed_versions
from tests.frameworks.fake_packages import write_interpreter

REQUIREMENT = Requirement(
    distribution="trl", module="titanic", install="pip install titanic", tested=("1.2.0", "1.4.0")
)
IMPORTABLE = {"titanic": ""}


class Titanic(CommandFramework):
    """Framework in another interpreter."""

    requirement = REQUIREMENT

    @property
    def name(self) -> str:
        return "titanic"


def status_of(python: str, *, limit_sec: float = 60.0, requirement: Requirement = REQUIREMENT) -> FrameworkStatus:
    framework = Titanic()
    framework.requirement = requirement
    return framework_status(framework, origin="built in", python=python, limit_sec=limit_sec)


def test_what_can_be_imported_can_run(tmp_path: Path) -> None:
    python = write_interpreter(tmp_path, distributions={"trl": "1.3.0"}, modules=IMPORTABLE)

    status = status_of(python)

    assert (status.is_runnable, status.version, status.python) == (True, "1.3.0", python)
    assert (status.reason, status.warning) == ("", "")
    assert status.import_sec is not None


def test_a_framework_that_needs_no_package_runs_anywhere() -> None:
    status = framework_status(CommandFramework(), origin="built in", python="", limit_sec=1.0)

    assert (status.is_runnable, status.python, status.import_sec) == (True, sys.executable, None)


def test_what_is_not_installed_is_not_imported(tmp_path: Path) -> None:
    status = status_of(write_interpreter(tmp_path, distributions={}))

    assert not status.is_runnable
    assert status.import_sec is None
    assert "needs trl, which is not installed" in status.reason
    assert "install it with: pip install titanic" in status.reason


@pytest.mark.parametrize(
    ("source", "reason", "remedy"),
    [
        pytest.param("import trition", "No module named 'trition'", "-m pip install trition", id="a module is missing"),
        pytest.param("raise RuntimeError('empty')", "RuntimeError: empty", "pip install titanic", id="it raises"),
        pytest.param(
            "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
            "killed by signal 9",
            "pip install titanic",
            id="it is killed",
        ),
        pytest.param("import sys\nsys.exit(3)", "exit code 3", "pip install titanic", id="it exits"),
    ],
)
def test_a_half_installed_framework_is_found_by_its_import(
    source: str, reason: str, remedy: str, tmp_path: Path
) -> None:
    python = write_interpreter(tmp_path, distributions={"trl": "1.3.0"}, modules={"titanic": source})

    status = status_of(python)

    assert not status.is_runnable
    assert f"half installed: import titanic in {python} ends with" in status.reason
    assert reason in status.reason
    assert status.reason.endswith(remedy)


def test_a_framework_whose_files_are_gone_is_uninstalled_first(tmp_path: Path) -> None:
    python = write_interpreter(tmp_path, distributions={"trl": "1.3.0"})

    status = status_of(python)

    assert status.reason.endswith(f"mend it with: {python} -m pip uninstall trl, then: pip install titanic")


def test_what_an_interrupted_installation_leaves_here_has_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "invented-1.0.dist-info"
    left.mkdir()
    (left / "METADATA").write_text("Metadata-Version: 2.1\nName: invented\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert "invented" not in installed_versions("", also=("invented",))


def test_an_import_that_hangs_is_ended(tmp_path: Path) -> None:
    python = write_interpreter(
        tmp_path, distributions={"trl": "1.3.0"}, modules={"titanic": "import time\ntime.sleep(600)"}
    )

    status = status_of(python, limit_sec=0.5)

    assert not status.is_runnable
    assert "takes more than 0.5 s; try it by hand, or give --timeout more" in status.reason


def test_a_version_that_is_not_tested_is_a_warning_and_no_reason(tmp_path: Path) -> None:
    status = status_of(write_interpreter(tmp_path, distributions={"trl": "1.5.0"}, modules=IMPORTABLE))

    assert status.is_runnable
    assert "trl 1.5.0 is newer than 1.4.0, the newest that framework='titanic' is tested with" in status.warning


def test_an_interpreter_that_does_not_answer_is_the_reason(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
    program.chmod(0o755)

    assert "can't be asked for its versions" in status_of(str(program)).reason


@pytest.mark.parametrize(
    ("distributions", "problem"),
    [
        pytest.param({"triton": "3.9.0"}, "has triton 3.9.0; mend it with", id="triton is too new"),
        pytest.param({}, "has no triton; mend it with", id="triton is missing"),
        pytest.param(
            {"triton": "3.6.0", "transformer-engine": "2.20.2"},
            "transformer-engine 2.20.2 is the meta package alone, whose import fails",
            id="transformer-engine is empty",
        ),
        pytest.param({"triton": "3.6.0", "transformer-engine": "2.20.2+abc"}, "", id="a container's own build"),
        pytest.param(
            {"triton": "3.6.0", "transformer-engine": "2.20.2", "transformer-engine-torch": "2.20.2"}, "", id="whole"
        ),
    ],
)
def test_packages_beside_the_framework_are_named_with_the_command(
    distributions: dict[str, str], problem: str, tmp_path: Path
) -> None:
    python = write_interpreter(tmp_path, distributions={"trl": "1.3.0", **distributions}, modules=IMPORTABLE)
    requirement = replace(REQUIREMENT, beside={"triton": "==3.6.0"}, uses_transformer_engine=True)

    status = status_of(python, requirement=requirement)

    assert status.is_runnable is not bool(problem)
    assert problem in status.reason
