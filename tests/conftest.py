"""Settings of the tests, and fixtures of several modules."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from pytest_nemoperf.cli.main import main
from pytest_nemoperf.machine.git import _REPOSITORY_VARIABLES
from tests.rank_launches import RankLaunches
from tests.selection import SelectionByName

# Without deadlines: a busy machine is not a failure. `make test-slow` takes the many examples.
settings.register_profile("few", deadline=None, max_examples=30)
settings.register_profile("many", deadline=None, max_examples=300)
settings.load_profile("few")

# Read when torch is loaded, here and in all that tests start. Threads that wait for each other spin by default, and on
# busy cores (two workers, ranks) that took a rank twenty times the processor time. Products as small as the tests' are
# done sooner than a second thread is woken; ranks choose their number of threads themselves.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(RankLaunches())
    config.pluginmanager.register(SelectionByName())


@pytest.fixture(autouse=True)
def _without_a_surrounding_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a hook, git names the hook's repository, and a test that commits would commit there."""
    for name in _REPOSITORY_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def nemoperf(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in an empty directory: exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        try:
            code = main(words)
        except SystemExit as exc:  # argparse ends so
            code = int(exc.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
