"""ini perf_budget: on a slow machine, launches after the first run fewer steps."""

from __future__ import annotations

import json

import pytest

from tests.integration.conftest import CASE, NOISE, Project, has_text, usage_error

INI = "[pytest]\nperf_runs = 5\nperf_budget = {}\n" + NOISE


def steps_of_launches(project: Project) -> list[int]:
    """Return the measured steps of each launch of the last session."""
    session = max(project.root.glob(".nemoperf/runs/*"))
    plans = sorted(session.glob(f"{CASE}/run-*/plan.json"))
    return [json.loads(plan.read_text())["steps"] for plan in plans]


def test_a_case_that_takes_longer_than_its_budget_runs_fewer_steps_and_launches(project: Project) -> None:
    project.pytester.makeini(INI.format("0.001"))

    result = project.run()

    result.assert_outcomes(passed=1)
    assert steps_of_launches(project) == [10, 6, 6]
    assert has_text(result, "further launches run 6 measured steps, not 10")


@pytest.mark.parametrize(
    ("budget", "args"),
    [
        pytest.param("60", (), id="enough"),
        pytest.param("0", (), id="none"),
        pytest.param("0.001", ("--perf-runs=5",), id="launches are given"),
    ],
)
def test_otherwise_the_recipes_counts_hold(project: Project, budget: str, args: tuple[str, ...]) -> None:
    project.pytester.makeini(INI.format(budget))

    project.run(*args).assert_outcomes(passed=1)

    assert steps_of_launches(project) == [10] * 5


def test_an_update_keeps_the_full_counts(project: Project) -> None:
    project.pytester.makeini(INI.format("0.001"))

    project.run("--update-baselines").assert_outcomes(passed=1)

    assert steps_of_launches(project) == [10] * 5


def test_launches_of_different_lengths_are_judged_with_those_of_a_faster_day(project: Project) -> None:
    project.run("--perf-runs=5")
    project.pytester.makeini(INI.format("0.001"))

    same = project.run()
    project.set_step_time(0.15)
    slower = project.run()

    same.stdout.fnmatch_lines([f"*PASSED*{CASE}*"])
    slower.stdout.fnmatch_lines([f"*REGRESSED*{CASE}*"])


def test_another_loss_at_the_recipes_last_step_is_seen_under_a_budget(project: Project) -> None:
    project.pytester.makeini(INI.format("0.001"))
    project.run()
    project.edit("steps.py", {'"loss": 6.5': '"loss": 3.25'})

    result = project.run()

    result.assert_outcomes(failed=1)
    assert has_text(result, "loss 3.25 is not the baseline's 6.5 at step 12")


def test_launches_of_different_lengths_are_judged_again(project: Project) -> None:
    project.pytester.makeini(INI.format("0.001"))
    project.run()
    session = max(project.root.glob(".nemoperf/runs/*"))

    result = project.run(f"--perf-replay={session}")

    result.assert_outcomes(passed=1)
    assert len(project.case()["measurement"]["runs"]) == 3


def test_a_budget_that_is_no_time_is_refused(project: Project) -> None:
    project.pytester.makeini(INI.format("soon"))

    assert "ini perf_budget=soon must be positive seconds" in usage_error(project.run())
