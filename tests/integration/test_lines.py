"""Lines that pytest and this package print during a session: files, cases, skips."""

from __future__ import annotations

import pytest

from tests.integration.conftest import CASE, NOISE, Project

MIXED = """
import dataclasses

import pytest

from pytest_nemoperf import Layout
from test_speed import RECIPE

def test_plain():
    pass

@pytest.mark.perf
@pytest.mark.parametrize("variant", ["one", "two"])
def test_llama(perf, variant):
    perf.check(dataclasses.replace(RECIPE, variant=variant))

@pytest.mark.perf
@pytest.mark.parametrize("number", [1, 2])
def test_elsewhere(perf, number):
    perf.check(dataclasses.replace(RECIPE, layouts={"h100": Layout(gpus=1)}))

def test_last():
    pass
"""
SKIP_LINE = 16
"""Line of test_elsewhere's first decorator in the file."""


@pytest.fixture
def mixed(project: Project) -> Project:
    project.pytester.makepyfile(test_mixed=MIXED)
    project.pytester.makeini(f"[pytest]\nperf_runs = 1\nperf_budget = 0\npython_files = test_mixed.py\n{NOISE}")
    return project


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make sessions of this process take their output for a terminal of 80 columns."""
    monkeypatch.setattr("pytest_nemoperf.session.progress._is_terminal", lambda _: True)
    monkeypatch.setenv("COLUMNS", "80")


def session_lines(result: pytest.RunResult) -> list[str]:
    """Return the lines between collection and the first section, as a terminal leaves them behind."""
    text = "\n".join(result.outlines).replace("\n\x1b[K", "\x1b[K")  # pytester takes the carriage return for an end
    _, _, text = text.partition("collected ")
    lines = [line.rpartition("\x1b[K")[2].rstrip() for line in text.split("\n")]
    end = next(number for number, line in enumerate(lines) if line.startswith("==="))
    return [line for line in lines[1:end] if line and not line.startswith("perf: ")]


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_the_line_of_a_case_stands_alone(mixed: Project) -> None:
    lines = session_lines(mixed.run("-m", "perf or not perf"))

    assert lines[0].split() == ["test_mixed.py", "."]
    assert lines[1].startswith("NO BASELINE llama[one]: 2,560 tokens/sec/GPU, ")
    assert lines[2].startswith("NO BASELINE llama[two]: 2,560 tokens/sec/GPU, ")
    assert lines[3].split() == ["test_mixed.py", "ss.", "[100%]"]
    assert len(lines) == 4
    assert max(map(len, lines)) <= 80


def test_in_a_log_the_first_test_of_a_file_names_it_and_a_case_has_its_id(mixed: Project) -> None:
    lines = session_lines(mixed.run())

    assert lines[0].strip() == "test_mixed.py"
    assert lines[1].startswith(f"{CASE}-one: run 1: ")
    assert lines[2].startswith(f"NO BASELINE {CASE}-one: ")
    assert lines[3].startswith(f"{CASE}-two: run 1: ")
    assert lines[4].startswith(f"NO BASELINE {CASE}-two: ")
    assert lines[5].split() == ["test_mixed.py", "ss", "[100%]"]
    assert len(lines) == 6


@pytest.mark.usefixtures("terminal")
def test_verbose_lines_have_the_test_and_the_case_id(mixed: Project) -> None:
    lines = session_lines(mixed.run("-v", "-k", "one"))

    assert lines[0] == "test_mixed.py::test_llama[one]"
    assert lines[1].startswith(f"NO BASELINE {CASE}-one: 2,560 tokens/sec/GPU, ")
    assert lines[2].split() == ["test_mixed.py::test_llama[one]", "PASSED", "[100%]"]


def test_quiet_sessions_print_letters_alone(mixed: Project) -> None:
    result = mixed.run("-m", "perf or not perf", "-q")

    assert "...ss. " in result.stdout.str()
    assert CASE not in result.stdout.str().partition("performance")[0]


@pytest.mark.usefixtures("terminal")
def test_an_error_before_the_verdict_has_the_name_of_its_file_before_its_letter(mixed: Project) -> None:
    (mixed.root / "steps.py").write_text("raise SystemExit(3)")

    lines = session_lines(mixed.run("-k", "one"))

    assert lines[0].split() == ["test_mixed.py", "F", "[100%]"]


def test_a_skip_is_located_at_its_test(mixed: Project) -> None:
    result = mixed.run("-rs")

    result.stdout.fnmatch_lines([f"SKIPPED [[]2[]] test_mixed.py:{SKIP_LINE}: *no layout*"])


def test_a_benchmark_test_that_a_session_has_no_use_for_is_located_too(mixed: Project) -> None:
    mixed.pytester.makepyfile(
        test_mixed="import pytest\n\n@pytest.mark.perf\ndef test_it(benchmark):\n    benchmark(len, [])\n"
    )

    result = mixed.run("-rs", "--perf-dry-run")

    result.stdout.fnmatch_lines(["SKIPPED [[]1[]] test_mixed.py:3: dry run: a benchmark test has no recipe to price"])


@pytest.mark.parametrize(("options", "is_listed"), [((), True), (("-rs",), False), (("-ra",), False)])
def test_a_skip_is_told_once(mixed: Project, options: tuple[str, ...], *, is_listed: bool) -> None:
    output = mixed.run(*options).stdout.str()

    assert ("\nnot run\n" in output) == is_listed
    assert output.count("no layout") == 1
