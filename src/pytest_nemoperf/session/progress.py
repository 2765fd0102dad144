"""Live progress while ranks run: one line, rewritten, on a terminal; one line a run in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_nemoperf.measure.expected_records import expected_of
from pytest_nemoperf.report.terminal.live import render_case_line, render_progress, render_run_line
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.visible import visible_text

if TYPE_CHECKING:
    from pytest_nemoperf.measure.measurement import MeasuredRun
    from pytest_nemoperf.recipes.recipe import Plan
    from pytest_nemoperf.records.step import Progress as LastStep
    from pytest_nemoperf.results.cases import CaseReport

_REDRAW_SEC = 0.2
_COLORS = {
    VerdictKind.PASSED: "green",
    VerdictKind.IMPROVED: "green",
    VerdictKind.REGRESSED: "red",
    VerdictKind.INVALID: "red",
}


@dataclass(slots=True, kw_only=True)
class _Current:
    plan: Plan
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
        self._is_drawn = False

    @property
    def width(self) -> int:
        """Columns of the terminal; 80 without one."""
        return self._config.get_terminal_writer().fullwidth

    def write_line(self, sentence: str) -> None:
        """Write a sentence on a line of its own, under ``-q`` as well."""
        with self._terminal() as reporter:
            if reporter is not None:
                reporter.write_line(visible_text(f"perf: {sentence}"))

    def case(self, report: CaseReport) -> None:
        """Write the line of a judged case."""
        result = report.result
        color = _COLORS.get(result.verdict.kind, "yellow")
        if result.has_expired_waiver:
            color = "red"
        elif result.waived:
            color = "yellow"
        self._line(render_case_line(report, width=self.width if self._is_live else None), color=color)

    @contextmanager
    def run(self, plan: Plan, *, number: int, num_runs: int) -> Iterator[None]:
        """Show one run while the block lasts."""
        self._current = _Current(plan=plan, number=number, num_runs=num_runs, started=time.monotonic())
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
        if not self._is_live:
            self._line(line)

    @property
    def _reporter(self) -> pytest.TerminalReporter | None:
        return self._config.pluginmanager.get_plugin("terminalreporter")

    @property
    def _is_live(self) -> bool:
        reporter = self._reporter
        return reporter is not None and _is_terminal(reporter) and reporter.verbosity >= 0

    @contextmanager
    def _terminal(self) -> Iterator[pytest.TerminalReporter | None]:
        """Give the reporter past the capture of the test's own output, at the start of an empty line."""
        reporter = self._reporter
        capture = self._config.pluginmanager.get_plugin("capturemanager")
        if reporter is None:
            yield None
            return
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            if self._is_drawn:
                reporter.rewrite("", erase=True)
                reporter.write("\r")
                self._is_drawn = False
            else:
                reporter.ensure_newline()
            yield reporter
            reporter.flush()

    def _line(self, text: str, *, color: str = "") -> None:
        with self._terminal() as reporter:
            if reporter is not None and reporter.verbosity >= 0:
                reporter.write_line(visible_text(text), **{color: True} if color else {})

    def _draw(self) -> None:
        current = self._current
        if current is None or not self._is_live:
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
            case=plan.case,
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
        with self._terminal() as reporter:
            if reporter is not None:
                reporter.rewrite(line, erase=True)
                self._is_drawn = True


def _is_terminal(reporter: pytest.TerminalReporter) -> bool:
    """Return whether pytest writes to a terminal."""
    isatty: object = reporter.isatty
    if callable(isatty):  # an attribute until pytest 8.4.0, a method since
        isatty = isatty()
    return bool(isatty)
