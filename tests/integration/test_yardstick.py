"""--perf-yardstick: a fixed workload that is timed before and after each run."""

from __future__ import annotations

import importlib.util
import json

import pytest

from pytest_nemoperf.records.yardstick import YARDSTICK_VARIABLE
from pytest_nemoperf.runs.yardstick import YardstickLaunches
from tests.integration.conftest import NATIVE, Project, usage_error


@pytest.fixture
def no_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the ranks around each command."""
    monkeypatch.setattr(YardstickLaunches, "measure", lambda *_arguments, **_named: ())


def plans(project: Project) -> list[dict[str, object]]:
    """Return the plans of the last session's launches."""
    session = max(project.root.glob(".nemoperf/runs/*"))
    return [json.loads(path.read_text()) for path in sorted(session.glob("*/run-*/plan.json"))]


@pytest.mark.ranks
def test_runs_have_the_yardstick_of_each_rank_and_a_baseline_keeps_it(project: Project) -> None:
    project.pytester.makepyfile(test_speed=NATIVE.format(axis="dp_shard", env="{}"))

    project.run("--perf-yardstick=on").assert_outcomes(passed=2)

    yardsticks = {}
    for path in project.root.glob(".nemoperf/baselines/*/cpu/*.json"):
        (run,) = json.loads(path.read_text())["runs"]
        yardsticks[len(run["yardsticks"])] = run["yardsticks"]
    assert set(yardsticks) == {1, 2}
    assert yardsticks[1][0]["all_reduce_sec"] is None
    assert all(each["all_reduce_sec"] > 0 for each in yardsticks[2])


# The environment that the project's fixture sets turns the yardstick off.
@pytest.mark.usefixtures("no_launches")
@pytest.mark.parametrize(
    ("ini", "args", "variable"),
    [
        pytest.param("", ["--perf-yardstick=on"], {YARDSTICK_VARIABLE: "on"}, id="option on"),
        pytest.param("on", [], {YARDSTICK_VARIABLE: "on"}, id="ini on"),
        pytest.param("on", ["--perf-yardstick=off"], {}, id="the option overrides the ini key"),
        pytest.param("", [], {}, id="the variable of the environment"),
    ],
)
def test_ranks_are_told_where_the_session_and_their_environment_differ(
    project: Project, ini: str, args: list[str], variable: dict[str, str]
) -> None:
    project.pytester.makeini(f"[pytest]\nperf_runs = 1\nperf_budget = 0\nperf_yardstick = {ini}\n")

    project.run(*args).assert_outcomes(passed=1)

    (plan,) = plans(project)
    assert plan["env"] == variable


def test_a_yardstick_is_on_by_default_and_off_is_handed_to_the_ranks(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(YARDSTICK_VARIABLE)

    project.run("--perf-yardstick=off").assert_outcomes(passed=1)

    (plan,) = plans(project)
    assert plan["env"] == {YARDSTICK_VARIABLE: "off"}


@pytest.mark.usefixtures("no_launches")
def test_the_variable_makes_no_other_workload(project: Project) -> None:
    project.run("--update-baselines", "--perf-yardstick=on").assert_outcomes(passed=1)

    project.run("--perf-yardstick=off", "--perf-fail-on=not_comparable").assert_outcomes(passed=1)

    assert project.case()["verdict"]["kind"] == "PASSED"


@pytest.mark.parametrize(
    ("ini", "args", "message"),
    [
        pytest.param("", ["--perf-yardstick=maybe"], "--perf-yardstick=maybe must be on or off", id="option"),
        pytest.param("2", [], "ini perf_yardstick=2 must be on or off", id="ini"),
    ],
)
def test_another_word_is_an_error(project: Project, ini: str, args: list[str], message: str) -> None:
    project.pytester.makeini(f"[pytest]\nperf_yardstick = {ini}\n")

    assert message in usage_error(project.run(*args))


def test_another_word_in_the_environment_is_an_error(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(YARDSTICK_VARIABLE, "0")

    assert f"{YARDSTICK_VARIABLE}=0 must be on or off" in usage_error(project.run())


@pytest.mark.ranks
def test_a_command_has_ranks_of_ours_around_it_and_a_replay_finds_their_times(project: Project) -> None:
    project.run("--perf-yardstick=on").assert_outcomes(passed=1)

    (measured,) = project.case()["measurement"]["runs"]
    (yardstick,) = measured["yardsticks"]
    assert yardstick["matmul_sec"] > 0
    assert yardstick["copy_sec"] > 0
    session = max(project.root.glob(".nemoperf/runs/*"))
    project.run(f"--perf-replay={session}").assert_outcomes(passed=1)
    (judged_again,) = project.case()["measurement"]["runs"]
    assert judged_again["yardsticks"] == measured["yardsticks"]


def test_without_torch_a_command_runs_without_a_yardstick_and_that_is_said_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else find_spec(name))

    result = project.run("--perf-yardstick=on", "--perf-runs=2")

    result.assert_outcomes(passed=1)
    assert result.stdout.str().count("torch is not installed") == 1
    assert all(run["yardsticks"] == [] for run in project.case()["measurement"]["runs"])
