"""Perf tests that end green without a verdict: each is named, and fails under ini perf_require_verdict."""

from __future__ import annotations

import json

import pytest

from tests.integration.conftest import NOISE, Project, has_text

HEAD = """
import contextlib, unittest
import json

import pytest
from test_speed import RECIPE
"""
TESTS = {
    "nothing": "@pytest.mark.perf\ndef test_it(perf):\n    pass\n",
    "not-compared": "@pytest.mark.perf\ndef test_it(perf):\n    perf.run(RECIPE)\n",
    "one-of-two": (
        "import dataclasses\n@pytest.mark.perf\ndef test_it(perf):\n    perf.check(RECIPE)\n"
        "    perf.run(dataclasses.replace(RECIPE, variant='second'))\n"
    ),
    "unittest": ("@pytest.mark.perf\nclass TestIt(unittest.TestCase):\n    def test_it(self):\n        pass\n"),
}
"""Tests that pass and leave something unjudged."""


def project_of(project: Project, test: str, *, ini: str = "") -> Project:
    project.pytester.makepyfile(test_other=HEAD + test)
    project.pytester.makeini(f"[pytest]\nperf_runs = 1\npython_files = test_other.py\n{NOISE}{ini}")
    return project


@pytest.mark.parametrize("name", TESTS)
def test_a_test_that_leaves_something_unjudged_is_named(project: Project, name: str) -> None:
    result = project_of(project, TESTS[name]).run()

    result.assert_outcomes(passed=1)
    _, _, not_run = result.stdout.str().partition("\nnot run\n")
    assert "judged" in not_run


@pytest.mark.parametrize("name", TESTS)
def test_it_fails_if_a_verdict_is_required(project: Project, name: str) -> None:
    result = project_of(project, TESTS[name], ini="perf_require_verdict = true").run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*judged*(ini perf_require_verdict)*"])


def test_junit_says_which_tests_were_not_judged(project: Project) -> None:
    project_of(project, TESTS["nothing"]).run("--junitxml=junit.xml")

    report = (project.root / "junit.xml").read_text()
    assert '<property name="nemoperf_verdict" value="NOT JUDGED"' in report
    assert '<property name="nemoperf_reason" value="the test judged nothing' in report


def test_a_verdict_that_the_test_catches_fails_it_all_the_same(project: Project) -> None:
    caught = (
        "@pytest.mark.perf\ndef test_it(perf):\n    with contextlib.suppress(BaseException):\n"
        "        perf.check(RECIPE)\n"
    )
    project_of(project, caught).run().assert_outcomes(passed=1)
    project.set_step_time(0.3)

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["REGRESSED *: the test caught this and went on*"])


def test_a_failing_verdict_under_xfail_is_named(project: Project) -> None:
    xfail = "@pytest.mark.xfail\n@pytest.mark.perf\ndef test_it(perf):\n    perf.check(RECIPE)\n"
    project_of(project, xfail).run()
    project.set_step_time(0.3)

    result = project.run()

    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["*REGRESSED, which fails nothing, *xfail;*"])


def test_a_file_that_is_skipped_as_a_whole_is_named(project: Project) -> None:
    skipping = "pytest.importorskip('no_such_module')\n" + TESTS["nothing"]
    project_of(project, skipping)
    project.pytester.makeini("[pytest]\nperf_runs = 1\n")

    result = project.run()

    result.stdout.fnmatch_lines(["not run", "  1 test: skipped as a whole: could not import 'no_such_module'*"])


def test_tests_that_are_only_set_up_are_named(project: Project) -> None:
    result = project.run("--setup-only")

    result.stdout.fnmatch_lines(["*no case was judged*", "  1 test: set up and not called*"])


def test_tests_that_a_session_ends_before_are_named_whatever_its_exit_code(project: Project) -> None:
    ended = "@pytest.mark.perf\ndef test_end(perf):\n    pytest.exit('done', returncode=0)\n"
    project.pytester.makepyfile(
        test_speed=f"import pytest\n{ended}\n@pytest.mark.perf\ndef test_next(perf):\n    pass\n"
    )

    result = project.run()

    assert result.ret == 0
    result.stdout.fnmatch_lines(["*test_end was interrupted before it was judged", "  1 test: not reached: *"])


@pytest.mark.parametrize(("option", "code"), [("false", 0), ("true", 1)])
def test_a_session_without_any_verdict_fails_if_one_is_required(project: Project, option: str, code: int) -> None:
    skipped = "@pytest.mark.perf\ndef test_it(perf):\n    pytest.skip('not today')\n"

    result = project_of(project, skipped, ini=f"perf_require_verdict = {option}").run()

    assert result.ret == code
    result.stdout.fnmatch_lines(["no case was judged: 1 perf test selected*"])


def test_a_verdict_that_the_test_turns_into_a_skip_fails_it(project: Project) -> None:
    skipping = (
        "@pytest.mark.perf\ndef test_it(perf):\n    try:\n        perf.check(RECIPE)\n"
        "    except BaseException:\n        pytest.skip('slow machine')\n"
    )
    project_of(project, skipping).run().assert_outcomes(passed=1)
    project.set_step_time(0.3)

    project.run().assert_outcomes(failed=1)


def test_a_verdict_that_a_fixture_catches_in_its_teardown_fails_the_session(project: Project) -> None:
    late = (
        "@pytest.fixture\ndef late(perf):\n    yield\n    with contextlib.suppress(BaseException):\n"
        "        perf.check(RECIPE)\n@pytest.mark.perf\ndef test_it(late):\n    pass\n"
    )
    project_of(project, late).run()
    project.set_step_time(0.3)

    result = project.run()

    assert result.ret == 1
    result.stdout.fnmatch_lines(["*REGRESSED, caught outside of the test's body*"])


def test_a_case_that_is_measured_twice_in_a_test_is_refused(project: Project) -> None:
    twice = "@pytest.mark.perf\ndef test_it(perf):\n    perf.run(RECIPE)\n    perf.compare(perf.run(RECIPE))\n"

    result = project_of(project, twice).run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["RecipeError: * was measured in test_other.py::test_it before*"])


@pytest.mark.parametrize(
    ("test", "conftest", "reason"),
    [
        pytest.param("def test_lost(perf):\n    perf.check(RECIPE)\n", "", "is not marked perf", id="not-marked"),
        pytest.param(
            "@pytest.mark.perf\ndef test_lost(perf):\n    perf.check(RECIPE)\n",
            "def pytest_collection_modifyitems(items):\n    items[:] = [i for i in items if i.name != 'test_lost']\n",
            "taken out of the collected tests",
            id="dropped-by-a-hook",
        ),
    ],
)
def test_a_test_that_never_reaches_the_session_is_named(
    project: Project, test: str, conftest: str, reason: str
) -> None:
    project.pytester.makeconftest(conftest)
    project.pytester.makepyfile(test_other=HEAD + test)

    assert has_text(project.run(), reason)


@pytest.mark.parametrize("verdict", ["no_baseline", "not_comparable"])
def test_no_record_of_this_machine_stands_in_for_a_committed_baseline_that_is_demanded(
    project: Project, verdict: str
) -> None:
    if verdict == "not_comparable":
        project.run("--update-baselines")
        edit_machine(project)
    project.run()  # this machine's own record

    for _ in range(2):
        project.run(f"--perf-fail-on=regressed,invalid,{verdict}").assert_outcomes(failed=1)


def test_a_case_judged_by_this_machines_own_record_says_so_and_why(project: Project) -> None:
    project.run("--update-baselines")
    edit_machine(project)
    project.run()

    result = project.run()

    result.assert_outcomes(passed=1)
    assert has_text(result, "1 of 1 judged by this machine's own records, not by committed baselines")
    assert has_text(result, "for the committed baseline does not compare: other machine: cpu is")


def test_verdicts_that_fail_nothing_are_counted(project: Project) -> None:
    project.run()
    project.set_step_time(0.3)

    result = project.run("--perf-fail-on=none")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["perf: 1 case would fail, and does not: * leaves out INVALID and REGRESSED"])


def edit_machine(project: Project) -> None:
    """Make the committed baseline one of another machine."""
    data = project.stored()
    data["machine"]["cpu"] = "another"
    project.baseline.write_text(json.dumps(data))
