"""Names of test files that pytest prints before its letters: not before the line of each case."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_nemoperf.options.markers import is_perf

if TYPE_CHECKING:
    from pytest_nemoperf.session.progress import Progress


class FileNames:
    """Plugin that leaves out the file of a perf test, unless pytest prints a letter for the test.

    Pytest names a test's file before the test begins if the line before is not of the same file, and the line of a case
    ends that line. In a log, the first of the tests of a file names it.

    Args:
        config: Config of the pytest session.
        progress: Display of the session.
    """

    def __init__(self, config: pytest.Config, *, progress: Progress) -> None:
        self._config = config
        self._progress = progress
        self._hidden = ""  # the test that runs, where its file is left out
        self._last_file: Path | None = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Leave out the file of a perf test."""
        reporter = self._reporter
        is_hidden = False
        if reporter is not None and is_perf(item) and reporter.showfspath and not reporter.showlongtestinfo:
            is_hidden = self._progress.is_live or item.path == self._last_file
        self._last_file = item.path
        if reporter is None or not is_hidden:
            return (yield)
        self._hidden = item.nodeid
        reporter.showfspath = False
        try:
            return (yield)
        finally:
            self._hidden = ""
            reporter.showfspath = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Name the file after all, before a letter: of a test that was skipped, failed or judged nothing."""
        reporter = self._reporter
        if reporter is None or report.nodeid != self._hidden:
            return
        _, letter, _ = self._config.hook.pytest_report_teststatus(report=report, config=self._config)
        if letter:
            self._hidden = ""
            reporter.showfspath = None
            reporter.pytest_runtest_logstart(nodeid=report.nodeid, location=report.location)

    @property
    def _reporter(self) -> pytest.TerminalReporter | None:
        return self._config.pluginmanager.get_plugin("terminalreporter")
