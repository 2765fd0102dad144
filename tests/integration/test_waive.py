"""@pytest.mark.perf_waive: a known loss passes for a while, and every report says so."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from pytest_nemoperf.cli.main import main
from tests.integration.conftest import CASE, PERF_TEST, Project, usage_error

WAIVED = 'reason="slow kernel upstream", until="2999-12-31"'
EXPIRED = 'reason="slow kernel upstream", until="2020-12-31"'
PHRASE = "waived until 2999-12-31: slow kernel upstream"


def waive(project: Project, arguments: str) -> None:
    text = PERF_TEST.replace("@pytest.mark.perf\n", f"@pytest.mark.perf\n@pytest.mark.perf_waive({arguments})\n")
    project.pytester.makepyfile(test_speed=text)


def slow_down(project: Project) -> None:
    project.run("--update-baselines").assert_outcomes(passed=1)
    project.set_step_time(0.125)


def test_a_waived_loss_passes_and_every_report_says_so(project: Project) -> None:
    slow_down(project)
    waive(project, f"{WAIVED}, floor=70")

    result = project.run("--perf-tolerance=12", "--junitxml=junit.xml")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            f"REGRESSED {CASE}: *; {PHRASE}; *",
            "*REGRESSED, waived*",
            "1 loss passed, waived by the test",
            f"REGRESSED llama-tiny single: {PHRASE};*",
        ]
    )
    case = project.case()
    assert (case["verdict"]["kind"], case["waived"], case["is_failure"]) == ("REGRESSED", PHRASE, False)
    assert f"- REGRESSED, {PHRASE}: `{CASE}`: " in (project.latest / "results.md").read_text()
    junit = ElementTree.parse(project.root / "junit.xml")  # noqa: S314 (our own file)
    waived = junit.find(".//property[@name='nemoperf_waived']")
    assert waived is not None
    assert waived.attrib["value"] == PHRASE


def test_a_loss_below_the_floor_fails(project: Project) -> None:
    slow_down(project)
    waive(project, f"{WAIVED}, floor=90")

    result = project.run("--perf-tolerance=12")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*does not cover it: *reaches 80.0% of the baseline, the floor is 90%*"])


def test_on_a_test_that_passes_a_waiver_is_not_needed_and_fails_it_once_expired(project: Project) -> None:
    project.run("--update-baselines").assert_outcomes(passed=1)
    waive(project, WAIVED)

    needless = project.run()
    waive(project, EXPIRED)
    expired = project.run()

    needless.assert_outcomes(passed=1)
    needless.stdout.fnmatch_lines(["PASSED llama-tiny single: the waiver until 2999-12-31 is not needed*"])
    expired.assert_outcomes(failed=1)
    expired.stdout.fnmatch_lines(["WAIVER EXPIRED (PASSED)*", "the waiver expired on 2020-12-31 (* days ago)*"])
    assert project.case()["has_expired_waiver"] is True


def test_a_waived_loss_is_not_stored_until_it_is_accepted(project: Project) -> None:
    slow_down(project)
    waive(project, WAIVED)
    before = project.baseline.read_text()

    kept = project.run("--update-baselines", "--perf-tolerance=12")
    assert project.baseline.read_text() == before
    project.run("--update-baselines", "--perf-tolerance=12", "--perf-accept-regression", "--perf-reason=it stays")

    kept.assert_outcomes(passed=1)
    kept.stdout.fnmatch_lines(["*REGRESSED is stored only with --perf-accept-regression*"])
    assert project.stored()["reason"] == "it stays"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ('until="2026-12-31"', "*perf_waive of test_speed.py::test_speed: reason=None does not say why*"),
        ('reason="x", until="1.4"', "*test_speed.py::test_speed: *ini perf_release*is not set*"),
    ],
)
def test_a_waiver_without_a_reason_or_an_end_stops_the_session(project: Project, arguments: str, message: str) -> None:
    waive(project, arguments)

    result = project.run()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_a_waiver_on_a_test_that_is_no_perf_test_is_refused(project: Project) -> None:
    project.pytester.makepyfile(
        test_other=f"import pytest\n\n@pytest.mark.perf_waive({WAIVED})\ndef test_other():\n    pass\n"
    )

    assert "test_other.py::test_other is marked perf_waive, but is no perf test" in usage_error(project.run())


def test_a_waived_case_passes_when_its_runs_are_judged_again(project: Project) -> None:
    slow_down(project)
    waive(project, WAIVED)
    project.run("--perf-tolerance=12").assert_outcomes(passed=1)
    case_dir = max((project.root / ".nemoperf" / "runs").iterdir()) / CASE

    assert main(["judge", "--baseline", str(project.baseline), str(case_dir)]) == 0
