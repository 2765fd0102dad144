from __future__ import annotations

from tests.integration.conftest import Project


def test_plain_pytest_deselects_perf_tests_with_a_count(project: Project) -> None:
    project.pytester.makepyfile(test_other="def test_ok():\n    pass\n")

    result = project.pytester.runpytest_inprocess()

    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.fnmatch_lines(["perf: 1 perf test deselected; run with -m perf"])


def test_a_marker_expression_that_excludes_perf_runs_none(project: Project) -> None:
    result = project.pytester.runpytest_inprocess("-m", "not perf")

    result.assert_outcomes(deselected=1)


def test_a_test_with_the_fixture_but_without_the_marker_is_told(project: Project) -> None:
    project.pytester.makepyfile(test_speed="def test_unmarked(perf):\n    pass\n")

    result = project.pytester.runpytest_inprocess()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*uses the perf fixture without the marker*add @pytest.mark.perf*"])


def test_side_by_side_runs_are_refused(project: Project) -> None:
    result = project.run("-n", "2")

    assert result.ret == 4
    result.stderr.fnmatch_lines(["*-n runs tests side by side, and perf tests need the machine to themselves*"])


def test_workers_may_run_what_is_not_perf(project: Project) -> None:
    project.pytester.makepyfile(test_other="def test_ok():\n    pass\n")

    result = project.pytester.runpytest_subprocess("-n", "1")

    result.assert_outcomes(passed=1)
