from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest

from pytest_nemoperf.frameworks.registered import GROUP
from tests.frameworks.fake_packages import write_distribution
from tests.integration.conftest import Project, usage_error

CONFTEST = """
import sys
from pytest_nemoperf.frameworks.command import CommandFramework

class Mine(CommandFramework):
    name = {name!r}

    def unsupported(self, plan):
        return {unsupported!r}

def pytest_nemoperf_frameworks(config):
    return [Mine()]
"""


VERSIONED = """
import pathlib
from dataclasses import replace
from pytest_nemoperf.frameworks.requirements import Requirement

STEPS = str(pathlib.Path(__file__).with_name("steps.py"))
Mine.requirement = Requirement(distribution="pytest", module="pytest", install="", tested=("1.0",))
Mine.command = lambda self, plan, *, run_dir: CommandFramework.command(
    self, replace(plan, command=(sys.executable, STEPS)), run_dir=run_dir
)
"""
"""Lines of a conftest: the framework runs the project's script, and is a package that is newer than tested."""


def ask_for_framework(project: Project, name: str) -> None:
    command = 'command=(sys.executable, str(pathlib.Path(__file__).with_name("steps.py"))),'
    project.edit("test_speed.py", {'framework="command"': f'framework="{name}"', command: ""})


def test_a_framework_of_ones_own_is_asked(project: Project) -> None:
    project.pytester.makeconftest(CONFTEST.format(name="mine", unsupported="it needs a licence"))
    ask_for_framework(project, "mine")

    result = project.run("-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*it needs a licence*"])


def test_a_name_that_is_taken_is_refused(project: Project) -> None:
    project.pytester.makeconftest(CONFTEST.format(name="torch", unsupported=None))

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*framework 'torch' is registered twice*"])


def test_an_unknown_framework_is_named(project: Project) -> None:
    ask_for_framework(project, "torhc")

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*unknown framework 'torhc'; did you mean torch*"])


def test_an_entry_point_gives_a_framework_without_a_conftest(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_package.py").write_text(CONFTEST.format(name="theirs", unsupported="it needs a licence"))
    monkeypatch.syspath_prepend(str(tmp_path))
    write_distribution(tmp_path, name="theirs", version="1.0", entry_points=f"[{GROUP}]\nx = their_package:Mine\n")
    ask_for_framework(project, "theirs")

    result = project.run("-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*it needs a licence*"])


def test_a_broken_entry_point_is_named_where_its_framework_is_asked_for(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    write_distribution(tmp_path, name="theirs", version="1.0", entry_points=f"[{GROUP}]\nx = not_there:Mine\n")

    project.run().assert_outcomes(passed=1)
    ask_for_framework(project, "theirs")
    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*unknown framework 'theirs'*entry point x = not_there:Mine of theirs 1.0*"])


def test_the_option_names_a_broken_entry_point_too(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    write_distribution(tmp_path, name="theirs", version="1.0", entry_points=f"[{GROUP}]\nx = not_there:Mine\n")

    message = usage_error(project.run("--perf-framework=theirs"))

    assert "--perf-framework: unknown framework 'theirs'" in message
    assert "entry point x = not_there:Mine of theirs 1.0 gives no framework" in message


def test_a_version_that_is_not_tested_is_noted_with_the_verdict(project: Project) -> None:
    project.pytester.makeconftest(CONFTEST.format(name="mine", unsupported=None) + VERSIONED)
    ask_for_framework(project, "mine")

    project.run().assert_outcomes(passed=1)
    result = project.run()

    result.assert_outcomes(passed=1)
    note = "pytest * is newer than 1.0, the newest that framework='mine' is tested with"
    words = " ".join(str(result.stdout).split())
    assert fnmatch(words, f"*1 PASSED*{note}*")
    text = (project.pytester.path / ".nemoperf" / "latest" / "results.json").read_text(encoding="utf-8")
    assert "the newest that framework='mine' is tested with" in text
