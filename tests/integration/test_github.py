"""Perf sessions on GitHub Actions, and their JUnit files."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.integration.conftest import CASE, PERF_TEST, Project

OTHERS = """
@pytest.mark.perf
def test_broken(perf):
    raise RuntimeError("100% wrong")
"""


@pytest.fixture
def summary(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = project.root / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    return path


def test_failures_are_annotated_at_their_tests_in_the_repository(project: Project, summary: Path) -> None:
    project.pytester.mkdir(".git")
    summary.write_text("of an earlier command\n")
    project.run("--update-baselines").assert_outcomes(passed=1)
    project.set_step_time(0.5)
    project.pytester.makepyfile(test_speed=PERF_TEST + OTHERS)

    result = project.run("--junitxml=junit.xml")

    result.assert_outcomes(failed=2)
    slow, broken = (line for line in result.outlines if line.startswith("::error "))
    assert slow.startswith(f"::error file=test_speed.py,line=10,title=REGRESSED::{CASE}: tokens/sec/GPU is 80.0%25 ")
    assert broken.startswith("::error file=test_speed.py,line=14,title=FAILED test_speed.py%3A%3Atest_broken::")
    assert broken.endswith("100%25 wrong")
    assert summary.read_text().startswith("of an earlier command\n## Performance on CPU: 1 NO BASELINE\n")
    assert "## Performance on CPU: 1 REGRESSED\n" in summary.read_text()
    failure = ElementTree.parse(project.root / "junit.xml").find(".//failure")  # noqa: S314 (our own file)
    assert failure is not None
    assert "baseline" in str(failure.text)
    assert "-80.0%" in str(failure.text)


def test_a_summary_that_can_not_be_written_is_said_and_harms_nothing(project: Project, summary: Path) -> None:
    summary.mkdir()

    result = project.run()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["::notice *title=NO BASELINE::*", "perf: *summary.md: the summary of the step can*"])


def test_elsewhere_nothing_is_annotated(project: Project) -> None:
    assert "::notice" not in project.run().stdout.str()


def test_a_session_that_judges_nothing_is_annotated_and_in_the_summary(project: Project, summary: Path) -> None:
    result = project.run("-k", "gone")

    why = "no perf test ran: 1 perf test collected, all left out by -m 'perf' and -k 'gone'"
    result.stdout.fnmatch_lines([f"::warning title=nothing was judged::{why}"])
    assert why in summary.read_text()


HOSTILE = """
import sys
sys.stderr.write("::set-env name=PATH::/tmp\\n  ::error::from a rank\\n")
raise SystemExit(3)
"""


def test_what_ranks_and_tests_print_is_no_command_of_the_job(project: Project, summary: Path) -> None:
    (project.root / "steps.py").write_text(HOSTILE)
    edited = PERF_TEST + OTHERS.replace("raise", "print('::warning::from a test')\n    raise")
    project.pytester.makepyfile(test_speed=edited)

    result = project.run()

    result.assert_outcomes(failed=2)
    obeyed = []
    token = ""
    for line in map(str.strip, result.outlines):
        if token:
            token = "" if line == f"::{token}::" else token
        elif line.startswith("::stop-commands::"):
            token = line.removeprefix("::stop-commands::")
        elif line.startswith("::"):
            obeyed.append(line)
    assert not token
    assert any("from a rank" in line for line in result.outlines)
    assert "::warning::from a test" in result.outlines
    *errors, nothing_judged = obeyed
    assert len(errors) == 2
    assert all(line.startswith("::error file=") for line in errors)
    assert nothing_judged.startswith("::warning title=nothing was judged::")
    assert summary.exists()


def test_each_session_has_a_token_of_its_own(project: Project, summary: Path) -> None:
    tokens = set()
    for _ in range(2):
        tokens |= {line for line in project.run().outlines if line.startswith("::stop-commands::")}

    assert len(tokens) == 2
    assert summary.exists()
