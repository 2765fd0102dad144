"""Tests that run more than once in a session: the last attempt counts and names the earlier verdicts."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from tests.integration.conftest import PERF_TEST, Project, has_text

COUNTING = """
def attempt():
    path = pathlib.Path(__file__).with_name("attempts.txt")
    path.write_text((path.read_text() if path.exists() else "") + "x")
    return len(path.read_text())
"""
OF_THIS_PROCESS = """
from pytest_nemoperf.measure.measurement import Measurement, Run

@pytest.mark.perf
def test_nap(perf):
    runs = (Run(metrics={"time_per_call_sec": 0.01}, num_steps=10, step_time_mad_pct=0.1),)
    perf.compare(Measurement(case="loop-nap", system="cpu", workload={"workload": "loop"}, runs=runs))
    assert attempt() > 1
"""
SLOW_AT_FIRST = "    pathlib.Path(__file__).with_name('speed.txt').write_text('0.1' if attempt() > 1 else '0.2')\n"


def rerun(project: Project, *args: str) -> pytest.RunResult:
    return project.run("--reruns=1", "--junitxml=junit.xml", "-W", "ignore", *args)


def properties(project: Project) -> list[tuple[str, str]]:
    tree = ElementTree.parse(project.root / "junit.xml")  # noqa: S314 (pytest's own)
    return [(each.attrib["name"], each.attrib["value"]) for each in tree.iter("property")]


def stored_runs(project: Project) -> list[int]:
    """Return the number of runs in each file of this machine's own store."""
    files = sorted((project.root / ".nemoperf" / "baselines").rglob("*.json"))
    return [len(json.loads(file.read_text())["runs"]) for file in files]


def write_test(project: Project, *, before: str = "", after: str = "") -> None:
    check = "    perf.check(RECIPE)\n"
    source = PERF_TEST.replace("\n@pytest", COUNTING + "\n@pytest", 1)
    (project.root / "test_speed.py").write_text(source.replace(check, f"{before}{check}{after}"))


def test_a_loss_that_is_gone_when_the_test_runs_again_is_in_every_report(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.run("--update-baselines")
    write_test(project, before=SLOW_AT_FIRST)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")

    result = rerun(project)

    result.assert_outcomes(passed=1)
    assert has_text(result, "only the last attempt of this test was PASSED, before it REGRESSED")
    result.stdout.fnmatch_lines(["::warning file=*title=PASSED::*before it REGRESSED*"])
    assert [value for name, value in properties(project) if name == "nemoperf_verdict"] == ["PASSED"]
    assert ("nemoperf_earlier_verdicts", "REGRESSED") in properties(project)
    assert project.case()["earlier_verdicts"] == ["REGRESSED"]


@pytest.mark.parametrize(
    "failing",
    [
        pytest.param("assert False", id="a failure of its own"),
        pytest.param("pytest.fail('as it likes')", id="as a verdict fails"),
    ],
)
def test_an_attempt_that_fails_for_another_reason_is_not_stored(project: Project, failing: str) -> None:
    write_test(project, after=f"    {failing}\n")

    result = rerun(project)

    result.assert_outcomes(failed=1)
    assert stored_runs(project) == []
    result.stdout.fnmatch_lines(["  1 case: not stored: * for another reason than its speed"])
    assert "nemoperf_stored" not in dict(properties(project))


def test_a_fixture_that_fails_after_the_test_is_another_reason(project: Project) -> None:
    fixture = "\n@pytest.fixture(autouse=True)\ndef broken():\n    yield\n    1 / 0\n"
    (project.root / "test_speed.py").write_text(PERF_TEST + fixture)

    project.run("--update-baselines").assert_outcomes(passed=1, errors=1)

    assert not project.baseline.exists()


def test_a_subtest_that_fails_is_another_reason(project: Project) -> None:
    if not hasattr(pytest, "Subtests"):
        pytest.skip("subtests came with pytest 9")
    body = "    with subtests.test():\n        perf.check(RECIPE)\n        assert False\n"
    source = PERF_TEST.replace("(perf)", "(perf, subtests)").replace("    perf.check(RECIPE)\n", body)
    (project.root / "test_speed.py").write_text(source)

    project.run("--update-baselines")

    assert not project.baseline.exists()


def test_a_case_that_fails_by_its_verdict_alone_is_stored(project: Project) -> None:
    source = PERF_TEST + OF_THIS_PROCESS.replace("    assert attempt() > 1\n", "")
    (project.root / "test_speed.py").write_text(source)
    (project.root / "tox.ini").write_text("[pytest]\nperf_runs = 5\nperf_tolerance = 60\n")
    project.run("-k", "nap").assert_outcomes(passed=1)

    project.run("-k", "nap", "--perf-fail-on=passed").assert_outcomes(failed=1)

    assert stored_runs(project) == [2]


def test_every_attempt_is_judged_by_the_baseline_from_before_the_session(project: Project) -> None:
    result = rerun(project, "--perf-fail-on=no_baseline")

    result.assert_outcomes(failed=1)
    assert project.case()["verdict"]["kind"] == "NO BASELINE"


def test_a_session_adds_a_run_once_however_often_its_test_runs(project: Project) -> None:
    source = PERF_TEST.replace("\n@pytest", COUNTING + "\n@pytest", 1) + OF_THIS_PROCESS
    (project.root / "test_speed.py").write_text(source)
    (project.root / "tox.ini").write_text("[pytest]\nperf_runs = 5\nperf_tolerance = 60\n")
    args = ("-k", "nap")

    for expected in ([1], [2]):
        (project.root / "attempts.txt").unlink(missing_ok=True)
        rerun(project, *args).assert_outcomes(passed=1)
        assert stored_runs(project) == expected


def test_a_launch_that_failed_only_at_first_leaves_no_note(project: Project) -> None:
    write_test(project, before=SLOW_AT_FIRST.replace("'0.2'", "'x'"))

    result = rerun(project)

    result.assert_outcomes(passed=1)
    assert project.results()["not_run"] == []


def test_a_case_interrupted_after_its_verdict_is_not_stored(project: Project) -> None:
    write_test(project, after="    raise KeyboardInterrupt\n")

    with pytest.raises(KeyboardInterrupt):  # pytester passes it on
        project.run()

    assert stored_runs(project) == []
    assert project.case()["storing_note"] == "not stored: the session ended before its test did"
