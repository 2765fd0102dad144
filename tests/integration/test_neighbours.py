"""Perf sessions beside other plugins that many projects have.

`make test-pytest` installs every one of them, and runs these tests.
"""

from __future__ import annotations

import pytest

from tests.integration.conftest import PERF_TEST, Project, usage_error

pytestmark = pytest.mark.neighbours


@pytest.fixture(autouse=True)
def short_steps(project: Project) -> None:
    """Invent step times that fit into the trainer's life: a process of its own checks that."""
    project.set_step_time(0.0004)


def slow_down(project: Project) -> None:
    """Store a baseline, then double the time of a step."""
    project.run("--update-baselines").assert_outcomes(passed=1)
    project.set_step_time(0.0008)


def test_xdist_runs_other_tests_and_is_refused_with_perf_tests(project: Project) -> None:
    project.pytester.makepyfile(test_other="def test_plain():\n    pass\n")

    plain = project.pytester.runpytest_subprocess("-n", "1", "-m", "not perf")
    perf = project.run_apart("-n", "1")

    plain.assert_outcomes(passed=1)
    assert "-n runs tests side by side" in usage_error(perf)


def test_rerunfailures_runs_a_loss_again_and_both_attempts_are_reported(project: Project) -> None:
    slow_down(project)

    result = project.run_apart("--reruns=1")

    result.assert_outcomes(failed=1)
    assert result.parseoutcomes()["rerun"] == 1
    assert result.stdout.str().count("REGRESSED pretrain-") >= 2


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_timeout_ends_a_test_that_hangs_and_leaves_a_judged_one_alone(project: Project, method: str) -> None:
    hanging = PERF_TEST.replace("def test", f"@pytest.mark.timeout(1, method={method!r})\ndef test")
    hanging = hanging.replace("perf.check(RECIPE)", "__import__('time').sleep(60)")
    project.pytester.makepyfile(test_speed=PERF_TEST, test_then=hanging)

    result = project.run_apart("--timeout=60", "-p", "no:randomly")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*NO BASELINE pretrain-*"])
    assert "Timeout" in result.stdout.str() + result.stderr.str()


def test_randomly_shuffles_tests_and_changes_no_case(project: Project) -> None:
    slow_down(project)

    result = project.run_apart("-p", "randomly", "--randomly-seed=3")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["Using --randomly-seed=3", "*REGRESSED pretrain-*"])


def test_cov_measures_coverage_beside_a_case(project: Project) -> None:
    slow_down(project)

    result = project.run_apart("--cov=.", "--cov-report=term")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*REGRESSED pretrain-*", "TOTAL *"])


def test_asyncio_runs_its_tests_and_a_coroutine_may_judge_a_case(project: Project) -> None:
    coroutine = PERF_TEST.replace("def test", "@pytest.mark.asyncio\nasync def test")
    project.pytester.makepyfile(test_speed=coroutine)
    slow_down(project)

    result = project.run_apart()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*REGRESSED pretrain-*"])
