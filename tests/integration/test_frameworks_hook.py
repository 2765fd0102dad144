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


def use_framework(project: Project, *, name: str, unsupported: str | None = None) -> None:
    (project.root / "conftest.py").write_text(CONFTEST.format(name=name, unsupported=unsupported))


def test_a_framework_of_ones_own_is_asked(project: Project) -> None:
    use_framework(project, name="mine", unsupported="it needs a licence")
    source = project.root / "test_speed.py"
    source.write_text(
        source.read_text()
        .replace('framework="command", command=', 'framework="mine", variant=')
        .replace('(sys.executable, str(pathlib.Path(__file__).with_name("steps.py")))', '"x"')
    )

    result = project.run("-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*it needs a licence*"])


def test_a_name_that_is_taken_is_refused(project: Project) -> None:
    use_framework(project, name="torch")

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*framework 'torch' is registered twice*"])


def test_an_unknown_framework_is_named(project: Project) -> None:
    source = project.root / "test_speed.py"
    source.write_text(
        source.read_text()
        .replace('framework="command", command=', 'framework="torhc", variant=')
        .replace('(sys.executable, str(pathlib.Path(__file__).with_name("steps.py")))', '"x"')
    )

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*unknown framework 'torhc'; did you mean torch*"])
