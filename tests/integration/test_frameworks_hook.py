from __future__ import annotations

from tests.integration.conftest import Project

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
