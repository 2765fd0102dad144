"""A perf session on GitHub Actions: annotations at its tests, and the summary of the step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_nemoperf.machine.github import repository_path
from pytest_nemoperf.report.ci.github import (
    MAX_SUMMARY_BYTES,
    Annotation,
    AnnotationLevel,
    case_annotation,
    cut_summary,
    render_annotation,
    render_step_summary,
    shown_annotations,
    unasked_annotation,
)
from pytest_nemoperf.visible import visible_text

if TYPE_CHECKING:
    from pytest_nemoperf.session.perf_session import PerfSession

_MAX_MESSAGE_LENGTH = 2000


class GitHubPlugin:
    """Pytest plugin that prints annotations and writes the step's summary.

    Args:
        config: Config of the pytest session.
        session: The perf session.
    """

    def __init__(self, config: pytest.Config, *, session: PerfSession) -> None:
        self._root = config.rootpath
        self._session = session
        self._places: dict[str, tuple[str, int | None]] = {}
        self._failures: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the location of a perf test, and the message of its failure."""
        if "perf" not in report.keywords:
            return
        file, line, _ = report.location
        path = repository_path(Path(os.path.normpath(self._root / file)))
        self._places[report.nodeid] = (path, None if line is None else line + 1)
        if report.failed:
            self._failures[report.nodeid] = _message(report)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the annotations to the log, from which GitHub reads them, and append to the step's summary."""
        terminalreporter.ensure_newline()
        for annotation in shown_annotations(list(self._annotations())):
            terminalreporter.write_line(render_annotation(annotation))
        problem = self._append_summary()
        if problem:
            terminalreporter.write_line(visible_text(f"perf: {problem}"), red=True)

    def _annotations(self) -> Iterator[Annotation]:
        judged = set()
        if self._session.why_none:
            yield Annotation(level=AnnotationLevel.WARNING, title="nothing was judged", message=self._session.why_none)
        for report in self._session.reports:
            case = report.result
            file, line = self._places.get(case.nodeid, ("", None))
            if case.is_failure:
                judged.add(case.nodeid)
            annotation = case_annotation(case, file=file, line=line)
            if annotation is not None:
                yield annotation
        for nodeid, message in self._failures.items():
            if nodeid not in judged:
                file, line = self._places[nodeid]
                yield Annotation(
                    level=AnnotationLevel.ERROR, title=f"FAILED {nodeid}", message=message, file=file, line=line
                )
        if self._session.unasked is not None:
            yield unasked_annotation(self._session.unasked)

    def _append_summary(self) -> str:
        """Append to the step's summary; return the problem if that failed, else nothing."""
        name = os.environ.get("GITHUB_STEP_SUMMARY", "")
        session = self._session
        if not name or not (session.reports or session.not_run or session.why_none):
            return ""
        path = Path(name)
        try:
            room = MAX_SUMMARY_BYTES - (path.stat().st_size if path.exists() else 0)
            text = cut_summary(render_step_summary(session.results, reports=session.reports), room=room)
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as exc:
            return f"{path}: the summary of the step cannot be written: {exc.strerror or exc}"
        if not text:
            return f"{path}: the summary of the step is full (1 MiB), so this session is not in it"
        return ""


def _message(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else report.longreprtext
    return text[:_MAX_MESSAGE_LENGTH]
