from __future__ import annotations

import json

import pytest

from tests.integration.conftest import CASE, NOISE, Project, has_text, usage_error


@pytest.mark.parametrize(
    ("option", "message"),
    [
        pytest.param("--perf-runs=0", "--perf-runs=0 must be a whole number >= 1", id="no-runs"),
        pytest.param("--perf-runs=", "--perf-runs has an empty value; give it one, or drop --perf-runs", id="no-count"),
        pytest.param("--perf-ab=", "--perf-ab has an empty value", id="no-revision"),
        pytest.param("--perf-replay= ", "--perf-replay has an empty value", id="no-folder"),
        pytest.param("--perf-anchor=", "--perf-anchor has an empty value", id="no-release"),
        pytest.param("--perf-reason=", "--perf-reason has an empty value", id="no-reason"),
        pytest.param("--perf-runs=some", "--perf-runs=some must be a whole number >= 1", id="runs-word"),
        pytest.param("--perf-tolerance=-3%", "all=-3.0 must be a percentage above 0", id="negative"),
        pytest.param("--perf-tolerance=0", "all=0.0 must be a percentage above 0", id="zero"),
        pytest.param("--perf-tolerance=much", "--perf-tolerance='much' is not [METRIC=]PCT", id="tolerance-word"),
        pytest.param("--perf-tolerance=speed=3%", "'speed' is not a judged metric", id="unknown-metric"),
        pytest.param("--perf-tolerance=120%", "all=120.0 must be a percentage above 0 and below 100", id="too-much"),
        pytest.param("--perf-inject=0", "--perf-inject=0 must be a percentage above 0", id="inject-zero"),
        pytest.param("--perf-timeout=-1", "--perf-timeout=-1 must be positive seconds", id="timeout"),
        pytest.param("--perf-fail-on=slow", "unknown verdict 'slow'", id="verdict"),
        pytest.param("--system=h1000", "unknown system 'h1000'; did you mean h100", id="unknown-system"),
        pytest.param("--system=b300", "--system=b300 but this machine", id="other-system"),
    ],
)
def test_an_option_that_cannot_be_honoured_is_one_clear_error(project: Project, option: str, message: str) -> None:
    assert message in usage_error(project.run(option))
    assert not (project.root / ".nemoperf").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [("--perf-ab=", "--perf-ab has an empty value"), ("--system=b300", "--system=b300 but this machine")],
)
def test_an_option_that_cannot_be_honoured_is_refused_without_perf_tests_as_well(
    project: Project, option: str, message: str
) -> None:
    assert message in usage_error(project.pytester.runpytest_inprocess(option))


def test_a_wrong_ini_key_is_named(project: Project) -> None:
    project.pytester.makeini("[pytest]\nperf_max_runs = 0\n")

    assert "ini perf_max_runs=0 must be a whole number >= 1" in usage_error(project.run())


def test_auto_detects_the_system(project: Project) -> None:
    result = project.pytester.runpytest_inprocess("-m", "perf")

    result.stdout.fnmatch_lines(["perf: system * (detected: *"])


@pytest.mark.parametrize(("args", "num_runs"), [(["--perf-runs=3"], 3), ([], 2)], ids=["option", "ini"])
def test_runs_are_launches(project: Project, args: list[str], num_runs: int) -> None:
    project.pytester.makeini("[pytest]\nperf_runs = 2\n")

    project.run(*args)

    assert len(list(project.root.glob(f".nemoperf/runs/*/{CASE}/run-*/steps.jsonl"))) == num_runs


def test_error_rates_are_those_of_the_ini_file(project: Project) -> None:
    project.pytester.makeini("[pytest]\nperf_alpha = 0.02\nperf_beta = 0.03\n")

    project.run("--perf-dry-run")

    terms = json.loads((project.latest / "dry_run.json").read_text())["terms"]
    assert (terms["alpha"], terms["beta"]) == (0.02, 0.03)


def test_the_marker_has_its_own_number_of_runs(project: Project) -> None:
    project.edit("test_speed.py", {"mark.perf": "mark.perf(runs=2)"})

    project.run()

    assert len(list(project.root.glob(f".nemoperf/runs/*/{CASE}/run-*/steps.jsonl"))) == 2


def test_one_launch_alone_is_never_a_regression(project: Project) -> None:
    project.run("--update-baselines")
    project.set_step_time(0.3)

    one = project.run("--perf-max-runs=1")
    two = project.run("--perf-max-runs=2")

    one.assert_outcomes(passed=1)
    one.stdout.fnmatch_lines([f"INCONCLUSIVE {CASE}:*"])
    assert has_text(one, "undecided after 1 of 1 launch")
    assert has_text(one, "one launch alone is never REGRESSED; judge by up to 5 launches (--perf-max-runs=5)")
    two.assert_outcomes(failed=1)
    two.stdout.fnmatch_lines([f"REGRESSED {CASE}*"])


def test_a_number_of_runs_that_is_none_is_an_error(project: Project) -> None:
    project.edit("test_speed.py", {"mark.perf": "mark.perf(runs='two')"})

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*runs='two' must be a whole number >= 1*"])


def test_verdicts_that_fail_can_be_chosen(project: Project) -> None:
    project.run("--perf-fail-on=no_baseline").assert_outcomes(failed=1)


def test_a_regression_may_be_only_reported(project: Project) -> None:
    project.run()
    project.set_step_time(0.2)

    result = project.run("--perf-fail-on=none")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"*REGRESSED*{CASE}*"])


def test_output_and_baselines_can_go_elsewhere(project: Project) -> None:
    project.run("--update-baselines", "--perf-baselines=golden", "--perf-output=out")

    assert (project.root / "golden" / "cpu" / f"{CASE}.json").exists()
    assert (project.root / "out" / "results.md").exists()


# Tolerances: recipe > marker > option > ini > default. Each row adds a layer; the case is 20% slower.
@pytest.mark.parametrize(
    ("ini", "options", "marker", "recipe", "allowed"),
    [
        pytest.param("", [], "", "{}", "10%", id="default"),
        pytest.param("11%", [], "", "{}", "11%", id="ini"),
        pytest.param("11%", ["--perf-tolerance=12%"], "", "{}", "12%", id="option"),
        pytest.param("11%", ["--perf-tolerance=12%"], "(tolerance=13)", "{}", "13%", id="marker"),
        pytest.param("11%", ["--perf-tolerance=12%"], "(tolerance=13)", '{"all": 14}', "14%", id="recipe"),
    ],
)
def test_the_nearest_tolerance_wins(
    project: Project, ini: str, options: list[str], marker: str, recipe: str, allowed: str
) -> None:
    project.pytester.makeini(f"[pytest]\nperf_runs = 1\nperf_tolerance = {ini}\n{NOISE}")
    changes = {"mark.perf": f"mark.perf{marker}", "framework=": f"tolerances={recipe}, framework="}
    project.edit("test_speed.py", changes)
    project.run()
    project.set_step_time(0.125)

    result = project.run(*options)

    result.assert_outcomes(failed=1)
    assert has_text(result, f"tokens/sec/GPU is 20.0% below the baseline (2,048 against 2,560; allows {allowed}, finds")


def test_a_misspelt_marker_argument_is_an_error(project: Project) -> None:
    project.edit("test_speed.py", {"mark.perf": "mark.perf(tolerence=3)"})

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*unknown argument 'tolerence'*did you mean tolerance*"])
