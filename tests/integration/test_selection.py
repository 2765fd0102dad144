from __future__ import annotations

import pytest

from tests.integration.conftest import PERF_TEST, Project, usage_error

MARK_LATE = """
import pytest

{decorator}
def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.{marker})
"""


def test_plain_pytest_deselects_perf_tests_with_a_count(project: Project) -> None:
    project.pytester.makepyfile(test_other="def test_ok():\n    pass\n")

    result = project.pytester.runpytest_inprocess()

    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.fnmatch_lines(["perf: 1 perf test deselected; run with -m perf"])


def test_a_marker_expression_that_excludes_perf_runs_none(project: Project) -> None:
    result = project.pytester.runpytest_inprocess("-m", "not perf")

    result.assert_outcomes(deselected=1)


@pytest.mark.parametrize("decorator", ["", "@pytest.hookimpl(tryfirst=True)", "@pytest.hookimpl(trylast=True)"])
def test_a_marker_that_a_conftest_adds_deselects_like_any_other(project: Project, decorator: str) -> None:
    project.pytester.makepyfile(test_speed="def test_late(benchmark):\n    1 / 0\n")
    project.pytester.makeconftest(MARK_LATE.format(decorator=decorator, marker="perf"))

    result = project.pytester.runpytest_inprocess()

    result.assert_outcomes(deselected=1)
    result.stdout.fnmatch_lines(["perf: 1 perf test deselected; run with -m perf"])


def test_a_waiver_that_a_conftest_adds_is_checked(project: Project) -> None:
    project.pytester.makeconftest(MARK_LATE.format(decorator="", marker="perf_waive(until='2026-12-31')"))

    assert "reason=None" in usage_error(project.run())


def test_a_waiver_may_stand_on_a_perf_marker_that_a_conftest_adds(project: Project) -> None:
    project.edit("test_speed.py", {"mark.perf": "mark.perf_waive(reason='slow', until='2099-12-31')"})
    project.pytester.makeconftest(MARK_LATE.format(decorator="", marker="perf"))

    project.run().assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("source", "args", "why"),
    [
        pytest.param("def test_plain(): pass", (), "no perf test ran: none was collected in .", id="no perf test"),
        pytest.param(
            PERF_TEST,
            ("-k", "gone"),
            "no perf test ran: 1 perf test collected, all left out by -m 'perf' and -k 'gone'",
            id="-k",
        ),
        pytest.param(
            PERF_TEST.replace("def test", "@pytest.mark.skip\ndef test"),
            (),
            "no case was judged: 1 perf test selected, each of them is below",
            id="all skipped",
        ),
        pytest.param(
            PERF_TEST,
            ("tests",),
            "no perf test ran: none was collected in tests; test_speed.py may hold perf tests; give its folder, "
            "or name it in ini perf_testpaths",
            id="elsewhere",
        ),
    ],
)
def test_a_session_that_judges_nothing_says_why_and_leaves_no_older_results(
    project: Project, source: str, args: tuple[str, ...], why: str
) -> None:
    project.run()
    (project.root / "tests").mkdir()
    project.pytester.makepyfile(test_speed=source)

    result = project.run(*args)

    assert project.results()["cases"] == []
    assert project.results()["why_none"] == why
    result.stdout.fnmatch_lines(["*= performance =*", f"{why[:40]}*"])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param("pytest.skip('no time')", "no time", id="skip"),
        pytest.param("pytest.xfail('no luck')", "xfail, and no case was judged: no luck", id="xfail"),
        pytest.param("1 / 0", "failed before a case was judged", id="failure"),
        pytest.param("pass", "the test judged nothing: call perf.check*", id="nothing"),
    ],
)
def test_a_test_that_judged_nothing_is_among_those_that_did_not_run(project: Project, body: str, reason: str) -> None:
    project.pytester.makepyfile(test_speed=PERF_TEST, test_other=PERF_TEST.replace("perf.check(RECIPE)", body))

    result = project.run()

    result.stdout.fnmatch_lines(["1 NO BASELINE", "not run", f"  1 test: {reason}"])


def test_a_test_with_the_fixture_but_without_the_marker_is_an_error(project: Project) -> None:
    project.pytester.makepyfile(test_speed="def test_unmarked(perf):\n    pass\n")

    result = project.pytester.runpytest_inprocess()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*perf fixture without the marker*add @pytest.mark.perf*"])


def test_side_by_side_runs_are_refused(project: Project) -> None:
    assert "-n runs tests side by side, and perf tests need the machine" in usage_error(project.run("-n", "2"))


def test_workers_may_run_other_tests(project: Project) -> None:
    project.pytester.makepyfile(test_other="def test_ok():\n    pass\n")

    result = project.pytester.runpytest_subprocess("-n", "1", "-m", "not perf")

    result.assert_outcomes(passed=1)
