from __future__ import annotations

from tests.integration.conftest import Project, has_text, usage_error

LOGGED = """
from pytest_nemoperf.frameworks.command import CommandFramework

class Logged(CommandFramework):
    name = "logged"
    log_formats = ("automodel",)

    def unsupported(self, plan):
        return None

    def log_format(self, plan):
        return "automodel"

    def log_file(self, plan):
        return ""

def pytest_nemoperf_frameworks(config):
    return [Logged()]
"""


def test_an_injected_delay_regresses_and_is_loud_everywhere(project: Project) -> None:
    project.run()

    result = project.run("--perf-inject=60%")

    assert result.ret == 1
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["to run it again", "*pytest * --perf-inject=60% test_speed.py*"])
    assert result.stdout.str().count("INJECTED") >= 3
    assert project.case()["plan"]["inject_pct"] == 60
    assert "INJECTED" in (project.latest / "results.md").read_text()


def test_an_injected_run_is_not_even_recorded_locally(project: Project) -> None:
    result = project.run("--perf-inject=20%")

    result.assert_outcomes(passed=1)
    assert not list(project.root.rglob("baselines/**/*.json"))


def test_injection_cannot_be_combined_with_an_update(project: Project) -> None:
    result = project.run("--perf-inject=20%", "--update-baselines")

    assert "--perf-inject with --update-baselines: an injected run is never stored" in usage_error(result)


def test_a_framework_that_is_measured_by_its_log_takes_no_delay(project: Project) -> None:
    project.pytester.makeconftest(LOGGED)
    command = 'command=(sys.executable, str(pathlib.Path(__file__).with_name("steps.py"))),'
    project.edit("test_speed.py", {'framework="command"': 'framework="logged"', command: ""})

    result = project.run("--perf-inject=20%", "-rs")

    result.assert_outcomes(skipped=1)
    assert has_text(result, "--perf-inject delays steps from inside, and this case is measured by its log")


def test_a_framework_whose_runs_delay_themselves_takes_one(project: Project) -> None:
    project.pytester.makeconftest(LOGGED.replace('name = "logged"', 'name = "logged"\n    delays_steps = True'))
    command = 'command=(sys.executable, str(pathlib.Path(__file__).with_name("steps.py"))),'
    project.edit("test_speed.py", {'framework="command"': 'framework="logged"', command: ""})

    result = project.run("--perf-inject=20%", "-rs")

    assert "skipped" not in result.parseoutcomes()
    assert not has_text(result, "this case is measured by its log")
