"""Hooks of a perf session; registered only when one runs."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pytest_nemoperf import bench
from pytest_nemoperf.changes import changes_text
from pytest_nemoperf.errors import BaselineError, NemoPerfError, WaiverError
from pytest_nemoperf.fixture import PRICED, Perf, waiver_of, write_properties
from pytest_nemoperf.github import is_github
from pytest_nemoperf.githubplugin import GitHubPlugin
from pytest_nemoperf.machine import describe_devices
from pytest_nemoperf.progress import Progress
from pytest_nemoperf.report.ab import ab_header
from pytest_nemoperf.report.junit import PREFIX
from pytest_nemoperf.report.plans import render_dry_run
from pytest_nemoperf.report.summary import render_summary
from pytest_nemoperf.report.terminal import render_header
from pytest_nemoperf.results import NotRun
from pytest_nemoperf.session import PerfSession
from pytest_nemoperf.settings import Settings
from pytest_nemoperf.suite import Suite
from pytest_nemoperf.waivers import check_release

_VERDICT_PROPERTY = f"{PREFIX}verdict"
_OUTCOMES = frozenset({"passed", "failed", "skipped"})


class PerfPlugin:
    """Translates pytest's events for one perf session."""

    def __init__(self, config: pytest.Config, *, settings: Settings) -> None:
        self._config = config
        self._written: list[str] = []
        self._write_error = ""
        self._problem = ""
        self._has_outcome = False
        self.session = PerfSession(config, settings=settings)
        self.suite = Suite(config, planner=self.session.planner)
        self.progress = Progress(config)

    def register_companions(self) -> None:
        """Register the plugins that do one thing each."""
        self._config.pluginmanager.register(self.suite, "nemoperf-suite")
        if is_github():
            github = GitHubPlugin(self._config, session=self.session)
            self._config.pluginmanager.register(github, "nemoperf-github")

    def perf_of(self, item: pytest.Item) -> Perf:
        """Return the fixture of one test."""
        return Perf(self.session, item=item, progress=self.progress)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None, None, None]:
        """Check every waiver before anything is launched, also of tests that -m leaves out.

        Last of all, since every other hook may add a marker.
        """
        collected = list(items)
        result = yield
        for item in collected:
            try:
                waiver = waiver_of(item)
                if waiver is not None:
                    check_release(waiver, release=self.session.settings.release, subject=item.nodeid)
            except WaiverError as exc:
                raise pytest.UsageError(str(exc)) from None
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Begin an attempt of a perf test; delay what pytest-benchmark measures in a self-test session; take turns."""
        if _is_perf(item):
            self.session.begin(item.nodeid)
            self._problem = ""
            write_properties(item, reports=())
        if _uses_benchmark(item):
            settings = self.session.settings
            self.perf_of(item).ask(bench.case_name(item.nodeid))
            if settings.is_dry_run:
                self.perf_of(item).end_dry("a benchmark test has no recipe to price")
            if settings.against:
                self.perf_of(item).leave_out(
                    "a benchmark test runs in the test process, where code can't be swapped (--perf-ab)"
                )
            if settings.replay_dir is not None:
                self.perf_of(item).leave_out("replay: a benchmark test leaves no runs that could be judged again")
            if settings.changes:
                self.progress.say(f"{item.nodeid} runs as ever: --perf-set changes recipes, and it has none")
            if self.session.settings.inject_pct:
                bench.inject_delay(item, inject_pct=self.session.settings.inject_pct)
            self.session.take_turn(self.progress)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self) -> Generator[None, Any, Any]:
        """Note a failure of the test; plugins that run it again may report none of its own."""
        try:
            return (yield)
        except BaseException as exc:
            self._note_failure(exc)
            raise

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> None:
        """Note a failure of a subtest, which does not reach the test."""
        if call.excinfo is not None:
            self._note_failure(call.excinfo.value)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Store what the test has measured, once nothing more can go wrong with it."""
        try:
            result = yield
        except BaseException:
            self._problem = "its test failed for another reason than its speed, in its teardown"
            raise
        finally:
            self._end_attempt(problem=self._problem)
            if _is_perf(item):
                write_properties(item, reports=self.session.judged(item.nodeid))
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
        """Judge a benchmark test inside the test."""
        try:
            result = yield
        except NemoPerfError as exc:
            _end_at_the_test(exc)
            raise
        except Exception:
            if self._is_priced(pyfuncitem):  # what a test does with a verdict, a dry run does not judge
                raise pytest.skip.Exception(PRICED) from None
            raise
        if self._is_priced(pyfuncitem):
            self.suite.finish(pyfuncitem)
            pytest.skip(PRICED)
        if _uses_benchmark(pyfuncitem):
            self._judge_benchmark(pyfuncitem)
        return result

    def pytest_report_header(self) -> list[str]:
        """Say what is measured against what."""
        session, settings = self.session, self.session.settings
        comparing = ""
        if session.ab is not None and settings.against is not None:
            comparing = ab_header(
                session.ab.revision_text,
                limit_sec=settings.against.limit_sec,
                tolerances=settings.terms.tolerances,
            )
        return render_header(
            system=settings.system,
            how=_how(settings),
            devices=describe_devices(settings.devices),
            baselines_dir=session.context.shown(settings.baselines_dir / settings.system.name),
            num_baselines=session.context.store.num_committed(),
            num_local=session.context.store.num_local(),
            tolerances=settings.terms.tolerances,
            runs=settings.terms.max_runs,
            inject_pct=settings.inject_pct,
            changes=changes_text(settings.changes),
            is_dry_run=settings.is_dry_run,
            replay_of=session.context.shown(settings.replay_dir) if settings.replay_dir else "",
            comparing=comparing,
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a case's properties out of the last report of an attempt that does not count, for JUnit reads that one.

        Plugins that run a test again report the attempts before under an outcome of their own, or not at all.
        """
        if report.when == "setup":
            self._has_outcome = False
        elif report.when == "call":
            self._has_outcome = report.outcome in _OUTCOMES
        elif not self._has_outcome:
            report.user_properties = [pair for pair in report.user_properties if not pair[0].startswith(PREFIX)]

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Leave out the dot of a judged case: it has a line of its own."""
        if report.when == "call" and any(name == _VERDICT_PROPERTY for name, _ in report.user_properties):
            return report.outcome, "", report.outcome.upper()
        return None

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Stop everything and write the files, after Ctrl-C as well."""
        self._end_attempt(problem="the session ended before its test did")
        self.session.close()
        if not session.config.option.collectonly:
            self._note_unjudged(is_cut_off=_was_cut_off(session, exitstatus=exitstatus))
        updating = self.session.settings.updating
        if updating is not None and updating.is_pruning:
            self.session.pruned = self.suite.prune(self.session.context.store, shown=self.session.context.shown)
        if not session.config.option.collectonly:
            gaps = self.suite.gaps() if self.session.settings.is_dry_run else ()
            try:
                self._written = [self.session.context.shown(path) for path in self.session.write_output(gaps)]
            except OSError as exc:
                self._write_error = f"{self.session.settings.output_dir}: cannot be written: {exc}"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show all cases, the counts by verdict, and where the files are."""
        if self.session.settings.is_dry_run:
            terminalreporter.section("performance")
            terminalreporter.write_line(render_dry_run(self.session.dry_run(self.suite.gaps()), written=self._written))
        elif not self._config.option.collectonly:
            terminalreporter.section("performance")
            text = render_summary(
                self.session.results(),
                reports=self.session.reports,
                written=self._written,
                width=self.progress.width,
                color=terminalreporter.hasmarkup,
            )
            terminalreporter.write_line(text.rstrip("\n"))
            if self.session.settings.is_profiled and not self.session.num_profiled:
                has_failed = any(report.result.is_failure for report in self.session.reports)
                none = "no judged case failed but INVALID ones" if has_failed else "no judged case failed"
                terminalreporter.write_line(f"perf: {none}, so none ran under the profiler (--perf-profile)")
            if outside := self.suite.outside():
                terminalreporter.write_line(f"perf: {outside}", yellow=True)
        if self._write_error:
            terminalreporter.write_line(f"perf: {self._write_error}", red=True)

    def _note_failure(self, error: BaseException) -> None:
        """Note that an attempt of a test stores nothing, unless it failed for a verdict, or was skipped after one."""
        if error is not self.session.verdict_failure and not isinstance(error, pytest.skip.Exception):
            self._problem = "its test failed for another reason than its speed"

    def _end_attempt(self, *, problem: str) -> None:
        try:
            self.session.end(problem=problem, progress=self.progress)
        except BaselineError as exc:
            raise pytest.fail.Exception(f"{type(exc).__name__}: {exc}", pytrace=False) from None

    def _note_unjudged(self, *, is_cut_off: bool) -> None:
        """Note which tests judged nothing, and why there is no case at all where there is none."""
        known = {each.nodeid for each in self.session.not_run}
        known |= {report.result.nodeid for report in self.session.reports if self.session.judged(report.result.nodeid)}
        known |= {case.nodeid for case in self.session.planner.priced}
        unjudged = [*(self.suite.cut_off() if is_cut_off else ()), *self.suite.unjudged()]
        self.session.not_run += [each for each in unjudged if each.nodeid not in known]
        if not self.session.reports and not self.session.settings.is_dry_run:
            self.session.why_none = self.suite.why_none()

    def _is_priced(self, item: pytest.Item) -> bool:
        priced = self.session.planner.priced
        return self.session.settings.is_dry_run and any(case.nodeid == item.nodeid for case in priced)

    def _judge_benchmark(self, item: pytest.Function) -> None:
        benchmark: Any = item.funcargs["benchmark"]
        if benchmark.disabled:
            reason = "pytest-benchmark is disabled (--benchmark-disable), so nothing was measured"
            self.session.not_run.append(NotRun(nodeid=item.nodeid, reason=reason))
            pytest.skip(reason)
        measurement = bench.measure_benchmark(item, benchmark=benchmark, settings=self.session.settings)
        self.perf_of(item).compare(measurement)


def _was_cut_off(session: pytest.Session, *, exitstatus: int) -> bool:
    """Tell whether tests that were to run may not have: after Ctrl-C, an error of collection, or at --maxfail."""
    is_stopped = bool(session.shouldfail or session.shouldstop)
    return is_stopped or exitstatus in {pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR}


def _how(settings: Settings) -> str:
    """Return how the system was chosen."""
    if not settings.was_detected:
        return "asked for"
    return "detected" if settings.replay_dir is None else "of the stored runs"


def _is_perf(item: pytest.Item) -> bool:
    return item.get_closest_marker("perf") is not None


def _uses_benchmark(item: pytest.Item) -> bool:
    return "benchmark" in getattr(item, "fixturenames", ()) and _is_perf(item)


def _end_at_the_test(error: NemoPerfError) -> None:
    """Leave this package's own frames out of a traceback: the message says what is wrong, the test's line where."""
    frame, last = error.__traceback__, None
    while frame is not None:
        if not frame.tb_frame.f_globals.get("__name__", "").startswith("pytest_nemoperf."):
            last = frame
        frame = frame.tb_next
    if last is not None:
        last.tb_next = None
