from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.launchers.local import LocalLauncher
from tests.rank_launches import RankLaunches, coverage_of_launches

LAUNCHES = """
import pytest
from pathlib import Path
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.launchers.local import LocalLauncher

def launch(entrypoint):
    command = RankCommand(argv=("-",), num_processes=1, entrypoint=entrypoint)
    LocalLauncher().launch(command, run_dir=Path(), timeout_sec=1, on_poll=lambda: None)

@pytest.fixture
def launched():
    launch("a:b")

@pytest.fixture
def engine():
    pass

def test_in_the_test(): launch("a:b")

def test_in_a_fixture(launched): pass

def test_a_command(): launch(None)

@pytest.mark.ranks
def test_marked(): launch("a:b")

def test_by_the_engine(engine): launch("a:b")

def test_in_another_process(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "server.log").touch()
"""


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[RankCommand]:
    """Commands that are launched; nothing runs."""
    launched: list[RankCommand] = []
    monkeypatch.setattr(LocalLauncher, "launch", lambda _launcher, command, **_arguments: launched.append(command))
    return launched


def run(pytester: pytest.Pytester, *, tests: Path | None = None) -> pytest.RunResult:
    pytester.makeini("[pytest]\nmarkers =\n  ranks: r\n")
    pytester.makepyfile(LAUNCHES)
    return pytester.runpytest_inprocess("-rA", plugins=[RankLaunches(tests or pytester.path)])


def test_a_test_that_launches_ranks_without_the_mark_fails(
    pytester: pytest.Pytester, commands: list[RankCommand]
) -> None:
    result = run(pytester)

    result.assert_outcomes(passed=3, failed=2, errors=1)
    result.stdout.fnmatch_lines(["this test launches ranks, which import torch, without the mark `ranks`: *"])
    failed = ["ERROR *::test_in_a_fixture*", "FAILED *::test_in_the_test*", "FAILED *::test_in_another_process*"]
    result.stdout.fnmatch_lines_random(failed)
    assert [command.entrypoint for command in commands].count("a:b") == 4


def test_tests_elsewhere_may_launch_what_they_like(
    pytester: pytest.Pytester, commands: list[RankCommand], tmp_path: Path
) -> None:
    result = run(pytester, tests=tmp_path)

    result.assert_outcomes(passed=6)


def test_what_is_launched_has_no_coverage_if_this_process_gives_none_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)

    assert coverage_of_launches() == {}


def test_what_is_launched_writes_its_coverage_where_this_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = SimpleNamespace(get_option=lambda name: {"run:data_file": ".coverage"}[name])
    monkeypatch.setattr("coverage.Coverage.current", lambda: traced)
    monkeypatch.setenv("COVERAGE_PROCESS_CONFIG", "of this process")

    variables = coverage_of_launches()

    assert variables["COVERAGE_FILE"] == str(Path(__file__).parents[1] / ".coverage")
    assert "patch = _exit" in Path(variables["COVERAGE_PROCESS_START"]).read_text()
