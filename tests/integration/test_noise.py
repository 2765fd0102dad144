"""ini perf_noise: the noise that a project knows of its machines, instead of the system's."""

from __future__ import annotations

import pytest

from pytest_nemoperf.recipes.systems import find_system
from tests.integration.conftest import CASE, Project, has_text, usage_error


def ini_of(*lines: str) -> str:
    noise = "".join(f"    {line}\n" for line in lines)
    return f"[pytest]\nperf_runs = 5\nperf_budget = 0\nperf_noise =\n{noise}"


def test_without_it_the_systems_noise_is_reckoned_with(project: Project) -> None:
    project.pytester.makeini("[pytest]\nperf_runs = 1\nperf_budget = 0\n")
    project.run()

    project.run()

    (speed, *_) = project.case()["verdict"]["comparisons"]
    cpu = find_system("cpu")
    assert speed["expected_noise_pct"] == cpu.noise.run_pct
    assert speed["session_noise_pct"] == pytest.approx(cpu.noise.session_pct)


def test_the_noise_of_days_decides_what_a_stored_baseline_can_tell(project: Project) -> None:
    project.pytester.makeini(ini_of("run=1%", "session=0.1%"))
    project.run("--update-baselines")
    project.set_step_time(0.125)

    quiet = project.run()
    project.pytester.makeini(ini_of("run=1%", "session=15%"))
    restless = project.run()

    quiet.stdout.fnmatch_lines([f"REGRESSED {CASE}*"])
    restless.stdout.fnmatch_lines([f"INCONCLUSIVE {CASE}*"])
    assert has_text(restless, "so how far days differ is not known but taken from the class: 15%")


def test_the_runs_of_a_session_keep_it(project: Project) -> None:
    project.pytester.makeini(ini_of("run=1.5%", "session=2.5", "round=0.5%", "memory=3"))
    project.run("--update-baselines")

    project.run()

    (speed, _, memory, *_) = project.case()["verdict"]["comparisons"]
    assert (speed["expected_noise_pct"], memory["expected_noise_pct"]) == (1.5, 3.0)
    assert speed["session_noise_pct"] == pytest.approx(2.5)
    assert memory["session_noise_pct"] == 0.0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("days=1%", "ini perf_noise='days=1%' is not KIND=PCT; known: memory, round, run, session"),
        ("1%", "ini perf_noise='1%' is not KIND=PCT; known: memory, round, run, session"),
        ("run=little", "ini perf_noise='run=little' is not KIND=PCT; write e.g. session=1.5%"),
        ("run=-1", "ini perf_noise='run=-1': a noise must be at least 0% and below 100%"),
        ("run=100%", "ini perf_noise='run=100%': a noise must be at least 0% and below 100%"),
    ],
)
def test_noise_that_is_none_is_refused(project: Project, line: str, message: str) -> None:
    project.pytester.makeini(ini_of(line))

    assert message in usage_error(project.run())
