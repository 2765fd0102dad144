from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.integration.conftest import CASE, Project, has_text, usage_error


def test_a_baseline_is_written_with_its_provenance(project: Project) -> None:
    result = project.run("--update-baselines", "--perf-runs=4")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"*baselines/cpu/{CASE}.json*"])
    stored = project.stored()
    assert len(stored["runs"]) == 4
    assert stored["provenance"]["date"]
    assert stored["provenance"]["versions"]["pytest"]
    assert stored["reason"] == "--update-baselines"


def test_old_and_new_are_shown(project: Project) -> None:
    project.run("--update-baselines")
    project.set_step_time(0.05)

    result = project.run("--update-baselines")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*2,560 -> 5,120*"])


@pytest.mark.parametrize("verdicts", ["regressed", "none"])
def test_a_regressed_case_keeps_its_baseline_even_if_it_does_not_fail(project: Project, verdicts: str) -> None:
    project.run("--update-baselines")
    before = project.baseline.read_text()
    project.set_step_time(0.2)

    result = project.run("--update-baselines", f"--perf-fail-on={verdicts}")

    result.assert_outcomes(failed=verdicts == "regressed", passed=verdicts == "none")
    assert project.baseline.read_text() == before


def test_a_regression_is_stored_when_accepted_with_a_reason(project: Project) -> None:
    project.run("--update-baselines")
    project.set_step_time(0.2)

    result = project.run("--update-baselines", "--perf-accept-regression", "--perf-reason=traded for memory")

    result.assert_outcomes(passed=1)
    assert project.stored()["reason"] == "traded for memory"
    assert has_text(result, "accepted: traded for memory")


def test_an_invalid_case_is_not_stored_even_when_accepted(project: Project) -> None:
    project.edit("steps.py", {'"loss": 6.5': '"loss": float("nan")'})

    result = project.run("--update-baselines", "--perf-accept-regression", "--perf-reason=I insist")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*INVALID*loss is not finite*"])
    assert not project.baseline.exists()


def test_a_folder_that_takes_no_baselines_is_named(project: Project) -> None:
    (project.root / "baselines").mkdir()
    (project.root / "baselines" / "cpu").write_text("not a folder")

    result = project.run("--update-baselines")

    assert re.search("the folder of baselines .*: can't be written: .*/cpu is no folder", usage_error(result))


def test_update_without_perf_tests_is_refused(project: Project) -> None:
    result = project.pytester.runpytest_inprocess("--update-baselines")

    assert "--update-baselines needs perf tests to apply to: add -m perf" in usage_error(result)


def test_an_inconclusive_case_keeps_its_baseline_unless_accepted(project: Project) -> None:
    project.run("--update-baselines", "--perf-runs=3")
    before = project.baseline.read_text()
    project.set_step_time(0.1064)  # a certain loss, but none that is certainly beyond the tolerance
    update = ("--update-baselines", "--perf-runs=3", "--perf-tolerance=5")

    kept = project.run(*update)
    assert project.baseline.read_text() == before
    accepted = project.run(*update, "--perf-accept-regression", "--perf-reason=seen often enough")

    kept.stdout.fnmatch_lines(["*INCONCLUSIVE*", "*undecided after 5 of 5 launches*"])
    accepted.assert_outcomes(passed=1)
    assert project.stored()["reason"] == "seen often enough"


def test_a_baseline_whose_case_moved_no_more_than_its_noise_is_not_rewritten(project: Project) -> None:
    project.run("--update-baselines")
    before = project.baseline.read_text()
    project.set_step_time(0.1002)

    result = project.run("--update-baselines")

    assert project.baseline.read_text() == before
    result.stdout.fnmatch_lines(["*nothing moved more than its own noise*"])


def test_a_passed_move_keeps_the_old_runs_as_anchor(project: Project) -> None:
    project.run("--update-baselines")
    project.set_step_time(0.11)

    project.run("--update-baselines")

    stored = project.stored()
    assert step_times(stored["runs"]) == {0.11}
    assert step_times(stored["anchor"]["runs"]) == {0.1}


def step_times(runs: list[dict[str, Any]]) -> set[float]:
    return {run["metrics"]["step_time_sec"] for run in runs}


def test_only_new_cases_are_stored_on_request(project: Project) -> None:
    project.run("--update-baselines", "--perf-update-new-only")
    before = project.baseline.read_text()
    project.set_step_time(0.05)

    result = project.run("--update-baselines", "--perf-update-new-only")

    assert project.baseline.read_text() == before
    result.stdout.fnmatch_lines(["*it is there already*"])


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--perf-accept-regression"], "--perf-accept-regression only counts with --update-baselines"),
        (["--perf-prune"], "--perf-prune only counts with --update-baselines"),
        (["--update-baselines", "--perf-accept-regression"], "--perf-accept-regression needs --perf-reason=TEXT"),
        (["--update-baselines", "--perf-anchor=1.4", "--perf-update-new-only"], "--perf-anchor with --perf-update-new"),
    ],
)
def test_options_that_contradict_each_other_are_refused(project: Project, options: list[str], rule: str) -> None:
    assert rule in usage_error(project.run(*options))


def test_an_update_stores_a_case_that_would_fail_for_having_no_baseline(project: Project) -> None:
    result = project.run("--update-baselines", "--perf-fail-on=regressed,no_baseline")

    result.assert_outcomes(passed=1)
    assert project.baseline.exists()


def test_an_update_launches_a_regressed_case_no_oftener_than_its_verdict_needs(project: Project) -> None:
    project.run("--update-baselines")
    project.set_step_time(0.2)

    result = project.run("--update-baselines", "--perf-runs=4")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*: run 2:*"])
    result.stdout.no_fnmatch_line("*: run 3:*")


def test_an_update_launches_a_case_of_another_loss_once(project: Project) -> None:
    project.run("--update-baselines")
    project.edit("steps.py", {'"loss": 6.5': '"loss": 7.5'})

    result = project.run("--update-baselines", "--perf-runs=4")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*: run 1:*"])
    result.stdout.no_fnmatch_line("*: run 2:*")


def test_an_update_says_which_tolerance_it_could_not_hold(project: Project) -> None:
    result = project.run("--update-baselines", "--perf-tolerance=1")

    assert has_text(
        result, "tokens/sec/GPU: 1% is allowed, 8.48% found with 1 run, and a case passes only where 2.97% is"
    )
    assert has_text(result, "no number of runs of this session would do: add other days")


def test_more_runs_are_stored_if_too_few_left_the_tolerance_below_the_noise_floor(project: Project) -> None:
    project.run("--update-baselines", "--perf-runs=2")
    project.set_step_time(0.1009)

    result = project.run("--update-baselines", "--perf-tolerance=1", "--perf-runs=8")

    result.stdout.fnmatch_lines(["*INCONCLUSIVE*", "*runs instead of 2, which were too few*"])
    assert len(project.stored()["runs"]) >= 8


def test_a_gain_that_fails_is_stored_by_the_command_its_block_gives(project: Project) -> None:
    project.run("--update-baselines")
    project.set_step_time(0.05)

    failed = project.run("--perf-fail-on=improved")
    kept = project.run("--perf-fail-on=improved", "--update-baselines")

    failed.stdout.fnmatch_lines(["*to keep the gain as the new baseline*", "*--update-baselines*"])
    failed.stdout.no_fnmatch_line("*--perf-accept-regression*")
    kept.assert_outcomes(passed=1)


def test_a_baseline_with_an_absurd_figure_fails_and_is_kept(project: Project) -> None:
    project.run("--update-baselines", "--perf-runs=3")
    stored = project.stored()
    stored["runs"][1]["metrics"]["peak_memory_gib"] = 1e99
    project.baseline.write_text(json.dumps(stored))

    for options in ([], ["--update-baselines"]):
        result = project.run(*options)

        result.assert_outcomes(failed=1)
        place = f"{CASE}.json: $.runs[1].metrics.peak_memory_gib is 1e+99, the median of the other 2 runs is 1;"
        assert has_text(result, place)
        assert project.stored() == stored
