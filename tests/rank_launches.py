"""Plugin of these tests: marks and checks what launches ranks, and has those ranks count for coverage."""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.launchers.local import LocalLauncher
from pytest_nemoperf.launchers.protocol import LaunchResult

TESTS = Path(__file__).parent
RANK_FIXTURES: Final = frozenset({"engine", "ranks", "replicas"})
"""Fixtures through which a test launches ranks."""
_SERVER_LOG = "server.log"
_COVERAGE_OF_SESSION = "COVERAGE_PROCESS_CONFIG"
_UNMARKED = (
    "this test launches ranks, which import torch, without the mark `ranks`: mark it, "
    "or add the fixture that launches them to RANK_FIXTURES in tests/rank_launches.py"
)


class RankLaunches:
    """Mark tests that launch ranks, fail those without the mark, and trace their ranks if this process is traced.

    Args:
        tests: Folder of the tests; those elsewhere, such as perf tests, are left alone.
    """

    def __init__(self, tests: Path = TESTS) -> None:
        self._tests = tests
        self._num_launches = 0

    @pytest.hookimpl(tryfirst=True)  # before -m selects
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if not RANK_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
                item.add_marker(pytest.mark.ranks)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        if not item.path.is_relative_to(self._tests):
            return (yield)
        launch = LocalLauncher.launch

        def counted(launcher: LocalLauncher, command: RankCommand, **arguments: Any) -> LaunchResult:
            if command.entrypoint:
                self._num_launches += 1
            return launch(launcher, replace(command, env={**coverage_of_launches(), **command.env}), **arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LocalLauncher, "launch", counted)
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        return (yield from self._checked(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        return (yield from self._checked(item))

    def _checked(self, item: pytest.Item) -> Generator[None, Any, Any]:
        if not item.path.is_relative_to(self._tests):
            return (yield)
        num_before = self._num_launches
        result = yield
        has_launched = self._num_launches > num_before or has_started_server(item)
        if has_launched and not item.get_closest_marker("ranks"):
            pytest.fail(_UNMARKED, pytrace=False)
        return result


def has_started_server(item: pytest.Item) -> bool:
    """Return whether a warm server has left its log in the test's folder, started by whatever process."""
    values = getattr(item, "funcargs", {})
    folders = [values["tmp_path"]] if "tmp_path" in values else []
    if "pytester" in values:
        folders.append(values["pytester"].path)
    return any(any(folder.rglob(_SERVER_LOG)) for folder in folders)


def coverage_of_launches() -> dict[str, str]:
    """Return the variables by which launched processes count for the coverage of this one; empty if it has none.

    The launcher keeps this process's own variables from them, as a rank that is timed must not be traced. With those,
    each of thousands of ranks would also search for files that were never imported.
    """
    if _COVERAGE_OF_SESSION not in os.environ:
        return {}
    from coverage import Coverage

    session = Coverage.current()
    if session is None:
        return {}
    data_file = TESTS.parent / str(session.get_option("run:data_file"))
    return {"COVERAGE_PROCESS_START": str(TESTS / "ranks.coveragerc"), "COVERAGE_FILE": str(data_file)}
