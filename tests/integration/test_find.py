"""--perf-find, ini perf_find and the marker's find: a loss that must be found, instead of a tolerance."""

from __future__ import annotations

import json

import pytest

from tests.integration.conftest import CASE, NOISE, Project, has_text, usage_error

INI = "[pytest]\nperf_runs = 5\nperf_budget = 0\n" + NOISE


def speed_of(project: Project) -> dict[str, float]:
    """Return the comparison of speed of the last session's case."""
    (speed, *_) = project.case()["verdict"]["comparisons"]
    assert speed["metric"] == "tokens_per_sec_per_gpu"
    assert isinstance(speed, dict)
    return speed


@pytest.mark.parametrize(
    ("ini", "options", "marker"),
    [
        pytest.param("perf_find = 8%\n", (), "", id="ini"),
        pytest.param("", ("--perf-find=8",), "", id="option"),
        pytest.param("", (), "(find=8)", id="marker"),
        pytest.param("", (), "(finds={'tokens_per_sec_per_gpu': 8})", id="marker-of-a-metric"),
    ],
)
def test_a_case_allows_what_its_noise_leaves_below_the_loss_to_be_found(
    project: Project, ini: str, options: tuple[str, ...], marker: str
) -> None:
    project.pytester.makeini(INI + ini)
    project.edit("test_speed.py", {"mark.perf": f"mark.perf{marker}"})
    project.run("--update-baselines")

    project.run(*options).assert_outcomes(passed=1)
    speed = speed_of(project)
    project.set_step_time(0.1 / 0.92)
    slower = project.run(*options)

    assert speed["finds_pct"] == pytest.approx(8.0)
    assert 1.0 < speed["allowed_pct"] < 5.0
    slower.assert_outcomes(failed=1)
    assert has_text(slower, "tokens/sec/GPU is 8.0% below the baseline (2,355 against 2,560; allows")


# Losses to be found: recipe's tolerances > marker > option > ini. Each row adds a layer.
@pytest.mark.parametrize(
    ("options", "marker", "recipe", "finds", "allowed"),
    [
        pytest.param((), "", "{}", 11.0, None, id="ini"),
        pytest.param(("--perf-find=12",), "", "{}", 12.0, None, id="option"),
        pytest.param(("--perf-find=12",), "(find=13)", "{}", 13.0, None, id="marker"),
        pytest.param(("--perf-find=12",), "(find=13)", '{"all": 6}', None, 6.0, id="recipe"),
        pytest.param(("--perf-tolerance=7",), "", "{}", None, 7.0, id="an-options-tolerance"),
        pytest.param(("--perf-find=12",), "(tolerance=8)", "{}", None, 8.0, id="a-markers-tolerance"),
        pytest.param((), "(tolerances={'peak_memory_gib': 8})", "{}", 11.0, None, id="a-tolerance-of-another-metric"),
    ],
)
def test_the_nearest_layer_wins_over_tolerances_too(
    project: Project,
    options: tuple[str, ...],
    marker: str,
    recipe: str,
    finds: float | None,
    allowed: float | None,
) -> None:
    project.pytester.makeini(INI + "perf_find = 11%\n")
    changes = {"mark.perf": f"mark.perf{marker}", "framework=": f"tolerances={recipe}, framework="}
    project.edit("test_speed.py", changes)
    project.run()

    project.run(*options)

    speed = speed_of(project)
    assert finds is None or speed["finds_pct"] == pytest.approx(finds)
    assert allowed is None or speed["allowed_pct"] == allowed


@pytest.mark.parametrize(
    ("ini", "options", "subject"),
    [
        pytest.param("perf_tolerance = 3%\nperf_find = 4%\n", (), "ini perf_tolerance and ini perf_find", id="ini"),
        pytest.param("", ("--perf-tolerance=3", "--perf-find=4"), "--perf-tolerance and --perf-find", id="option"),
    ],
)
def test_a_tolerance_of_the_same_place_beside_it_is_an_error(
    project: Project, ini: str, options: tuple[str, ...], subject: str
) -> None:
    project.pytester.makeini(INI + ini)

    result = project.run(*options)

    assert f"{subject}: both 3% allowed and 4% to be found, but one follows from the other" in usage_error(result)


def test_a_marker_with_both_is_an_error(project: Project) -> None:
    project.edit("test_speed.py", {"mark.perf": "mark.perf(tolerance=3, find=4)"})

    result = project.run()

    result.assert_outcomes(failed=1)
    assert has_text(result, "marker perf of test_speed.py::test_speed: both 3% allowed and 4% to be found")


def test_a_tolerance_of_one_metric_stands_beside_the_loss_to_be_found_of_the_others(project: Project) -> None:
    project.run("--update-baselines")

    result = project.run("--perf-find=15", "--perf-tolerance=peak_memory_gib=7")

    allowed = {each["metric"]: each["allowed_pct"] for each in project.case()["verdict"]["comparisons"]}
    assert allowed["peak_memory_gib"] == 7.0
    assert allowed["tokens_per_sec_per_gpu"] != 10.0
    result.stdout.fnmatch_lines(["perf: *tolerance 7%; to be found: tokens/sec/GPU 15%*"])


def test_a_loss_that_the_noise_hides_is_told_with_what_would_find_it(project: Project) -> None:
    project.pytester.makeini(INI)
    project.run("--update-baselines")

    result = project.run("--perf-find=1")

    result.stdout.fnmatch_lines([f"INCONCLUSIVE {CASE}:*"])
    assert has_text(result, "too much noise for 5 baseline runs")
    assert has_text(result, "compare side by side (--perf-ab), or ask for a larger loss to be found")


@pytest.mark.parametrize("text", ["0", "100", "much", "speed=3"])
def test_a_loss_that_is_none_is_refused(project: Project, text: str) -> None:
    assert "--perf-find" in usage_error(project.run(f"--perf-find={text}"))


def test_a_dry_run_and_the_runs_of_a_session_keep_it(project: Project) -> None:
    project.run("--perf-find=4", "--perf-dry-run")
    dry_run = json.loads((project.latest / "dry_run.json").read_text())
    project.run("--perf-find=4")
    (record,) = project.root.glob(f".nemoperf/runs/*/{CASE}/case.json")

    assert dry_run["asked"][0]["finds"]["tokens_per_sec_per_gpu"] == 4.0
    assert json.loads(record.read_text())["terms"]["finds"]["tokens_per_sec_per_gpu"] == 4.0
