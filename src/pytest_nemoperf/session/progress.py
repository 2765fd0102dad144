"""Live progress while ranks run: one line, repainted, on a terminal; one line a run in a log."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_nemoperf.measure.expected_records import expected_of
from pytest_nemoperf.report.case_names import short_names
from pytest_nemoperf.report.terminal.live import render_case_line, render_progress, render_run_line, repaint
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.visible import plain_text, visible_text

if TYPE_CHECKING:
    from pytest_nemoperf.measure.measurement import MeasuredRun
    from pytest_nemoperf.recipes.recipe import Plan
    from pytest_nemoperf.records.step import Progress as LastStep
    from pytest_nemoperf.results.cases import CaseReport

_REDRAW_SEC = 1.0  # the shown clock has whole seconds
_COLORS = {
    VerdictKind.PASSED: "green",
    VerdictKind.IMPROVED: "green",
    VerdictKind.REGRESSED: "red",
    VerdictKind.INVALID: "red",
}


@dataclass(slots=True, kw_only=True)
class _Current:
    plan: Plan
    name: str
    number: int
    num_runs: int
    started: float
    last: LastStep | None = None
    drawn: float = 0.0


class Progress:
    """Writes to pytest's own terminal, past the capture of the test's output; quiet under ``-q``."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._current: _Current | None = None
        self._drawn = ""
        self._nodeid = ""
        self._tests: dict[str, str] = {}  # by case

    @property
    def width(self) -> int:
        """Columns of the terminal; 80 without one."""
        with self._past_capture():  # else the file that takes the test's output is asked, and has no columns
            return self._config.get_terminal_writer().fullwidth

    @property
    def is_live(self) -> bool:
        """Whether a run in progress has a line that is repainted: on a terminal, and not under ``-q``."""
        reporter = self._reporter
        return reporter is not None and _is_terminal(reporter) and reporter.verbosity >= 0

    def begin(self, nodeid: str) -> None:
        """Note the running test: its cases are shown from now on."""
        self._nodeid = nodeid

    def write_line(self, sentence: str) -> None:
        """Write a sentence, in a log on a line of its own; under ``-q`` as well."""
        with self._terminal() as reporter:
            if reporter is not None:
                reporter.write_line(self.fitted(f"perf: {sentence}"))

    def fitted(self, text: str) -> str:
        """Return a text that is safe to print, on a terminal in lines that break between words."""
        text = visible_text(text)
        return _wrapped(text, width=self.width) if self.is_live else text

    def case(self, report: CaseReport) -> None:
        """Write the line of a judged case."""
        result = report.result
        color = _COLORS.get(result.verdict.kind, "yellow")
        if result.has_expired_waiver:
            color = "red"
        elif result.waived:
            color = "yellow"
        name = self._name(result.verdict.case)
        width = self.width if name else None
        self._line(render_case_line(report, name=name, width=width), color=color)

    @contextmanager
    def run(self, plan: Plan, *, number: int, num_runs: int) -> Iterator[None]:
        """Show one run while the block lasts."""
        name = self._name(plan.case) or plan.case
        self._current = _Current(plan=plan, name=name, number=number, num_runs=num_runs, started=time.monotonic())
        self._draw()
        try:
            yield
        finally:
            with self._terminal():  # clears the live line
                self._current = None

    def profile(self, case: str) -> None:
        """Write that a case runs once more under the profiler; nothing else of that run is shown."""
        self._line(f"perf: {case} runs once more under torch.profiler")

    def step(self, last: LastStep | None) -> None:
        """Redraw with the last finished step and the elapsed time; None if no step has finished since the last call."""
        current = self._current
        if current is not None:
            current.last = last or current.last
            if time.monotonic() - current.drawn >= _REDRAW_SEC:
                self._draw()

    def finish(self, measured: MeasuredRun) -> None:
        """Write the line of a finished run, unless a live line shows it."""
        current = self._current
        if current is None or measured.run is None:
            return
        line = render_run_line(
            case=current.plan.case,
            run=current.number,
            measured=measured.run,
            elapsed_sec=time.monotonic() - current.started,
            inject_pct=current.plan.inject_pct,
        )
        self.finished(line)

    def finished(self, line: str) -> None:
        """Write the line of a finished run or round, unless a live line shows it."""
        if not self.is_live:
            self._line(line)

    @property
    def _reporter(self) -> pytest.TerminalReporter | None:
        return self._config.pluginmanager.get_plugin("terminalreporter")

    def _name(self, case: str) -> str:
        """Return the short name of a case, unlike those of the cases before; empty in a log and under ``-v``."""
        self._tests[case] = self._nodeid
        reporter = self._reporter
        if not self.is_live or reporter is None or reporter.verbosity > 0:
            return ""
        return short_names(self._tests.items())[case]

    @contextmanager
    def _terminal(self) -> Iterator[pytest.TerminalReporter | None]:
        """Give the reporter past the capture of the test's own output, at the start of an empty line."""
        reporter = self._reporter
        if reporter is None:
            yield None
            return
        with self._past_capture():
            if self._drawn:
                reporter.write(repaint(self._drawn, line=""))
                self._drawn = ""
            else:
                reporter.ensure_newline()
            yield reporter
            reporter.flush()

    def _past_capture(self) -> AbstractContextManager[None]:
        capture = self._config.pluginmanager.get_plugin("capturemanager")
        if capture is None:
            return nullcontext()
        past: AbstractContextManager[None] = capture.global_and_fixture_disabled()
        return past

    def _line(self, text: str, *, color: str = "") -> None:
        with self._terminal() as reporter:
            if reporter is not None and reporter.verbosity >= 0:
                reporter.write_line(visible_text(text), **{color: True} if color else {})

    def _draw(self) -> None:
        current = self._current
        if current is None or not self.is_live:
            return
        current.drawn = time.monotonic()
        plan = current.plan
        num_finished = 0
        step_time_sec: float | None = None
        rate: float | None = None
        if current.last is not None:
            num_finished = current.last.step + 1
            step_time_sec = current.last.step_time_sec
            expected = expected_of(plan)
            if expected.has_exact_tokens:
                rate = plan.tokens_per_step / (step_time_sec * expected.num_gpus)
        line = render_progress(
            case=current.name,
            run=current.number,
            num_runs=current.num_runs,
            step=num_finished,
            num_steps=plan.total_steps,
            tokens_per_sec_per_gpu=rate,
            elapsed_sec=time.monotonic() - current.started,
            width=self.width - 1,
            step_time_sec=step_time_sec,
            inject_pct=plan.inject_pct,
        )
        self._paint(plain_text(line))

    def _paint(self, line: str) -> None:
        """Repaint the live line, if its text changed."""
        reporter = self._reporter
        if reporter is None or line == self._drawn:
            return
        if not self._drawn:
            with self._terminal():  # begins an empty line
                pass
        with self._past_capture():
            reporter.write(repaint(self._drawn, line=line), flush=True)
        self._drawn = line


def _wrapped(text: str, *, width: int) -> str:
    """Return text in lines of a terminal, broken between words alone; paths and case ids stay whole."""
    lines = textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def _is_terminal(reporter: pytest.TerminalReporter) -> bool:
    """Return True for a pytest that writes to a terminal able to repaint a line."""
    if os.environ.get("TERM") == "dumb":
        return False
    isatty: object = reporter.isatty
    if callable(isatty):  # an attribute until pytest 8.4.0, a method since
        isatty = isatty()
    return bool(isatty)
