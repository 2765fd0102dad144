"""Hooks of a perf session; registered only when one runs."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nemoperf.errors import BaselineError, NemoPerfError, WaiverError, count_text
from pytest_nemoperf.machine.github import is_github
from pytest_nemoperf.machine.identity import describe_devices
from pytest_nemoperf.options.markers import is_perf, waiver_of
from pytest_nemoperf.options.settings import Settings
from pytest_nemoperf.options.usage import usage_error
from pytest_nemoperf.plugin.benchmark import inject_delay, measure_benchmark, watched
from pytest_nemoperf.plugin.file_names import FileNames
from pytest_nemoperf.plugin.fixture import PRICED, Perf
from pytest_nemoperf.plugin.github_actions import GitHubAnnotations, GitHubPlugin
from pytest_nemoperf.plugin.published import PublishedTests
from pytest_nemoperf.recipes.case_id import benchmark_case_id
from pytest_nemoperf.recipes.overrides import changes_text
from pytest_nemoperf.report.ci.junit import PREFIX, properties
from pytest_nemoperf.report.terminal.ab import ab_header
from pytest_nemoperf.report.terminal.live import render_header
from pytest_nemoperf.report.terminal.plans import render_dry_run
from pytest_nemoperf.report.terminal.summary import render_summary
from pytest_nemoperf.results.cases import CaseReport, NotRun
from pytest_nemoperf.session.collected import FIXTURE, NOTHING_JUDGED
from pytest_nemoperf.session.perf_session import PerfSession
from pytest_nemoperf.session.profiles import unprofiled_lines
from pytest_nemoperf.session.signals import OrderlyEnd
from pytest_nemoperf.verdict.comparison import FAILING_BY_DEFAULT
from pytest_nemoperf.verdict.waivers import check_release
from pytest_nemoperf.visible import visible_text

if TYPE_CHECKING:
    from pytest_nemoperf.plugin.watched_benchmark import WatchedBenchmark

_BENCHMARK = "benchmark"  # the fixture of pytest-benchmark
_VERDICT_PROPERTY = f"{PREFIX}verdict"
_PACKAGE = Path(__file__).parents[1]
_OUTCOMES = frozenset({"passed", "failed", "skipped"})


class PerfPlugin:
    """Hooks of pytest, translated for one perf session."""

    def __init__(self, config: pytest.Config, *, settings: Settings) -> None:
        self._config = config
        self._problem = ""
        self._has_outcome = False
        self.session = PerfSession(config, settings=settings)
        self._benchmarks: dict[str, WatchedBenchmark] = {}
        self._github: GitHubPlugin | None = None
        self._orderly_end = OrderlyEnd()

    def pytest_sessionstart(self) -> None:
        """End in order on a scheduler's signal from now on, with everything measured reported, as after Ctrl-C."""
        if self.session.settings.measure_into is None:
            self._orderly_end.begin()
            self._config.add_cleanup(self._orderly_end.close)

    def register_companions(self) -> None:
        """Register the plugins for the suite and for GitHub Actions."""
        self._config.pluginmanager.register(self.session.suite, "nemoperf-suite")
        published = PublishedTests(self._config, settings=self.session.settings, fitted=self.session.progress.fitted)
        self._config.pluginmanager.register(published, "nemoperf-published")
        file_names = FileNames(self._config, progress=self.session.progress)
        self._config.pluginmanager.register(file_names, "nemoperf-file-names")
        if is_github() and self.session.settings.measure_into is None:
            self._github = GitHubPlugin(self._config, session=self.session)
            self._config.pluginmanager.register(self._github, "nemoperf-github")
            self._config.pluginmanager.register(GitHubAnnotations(self._github), "nemoperf-github-annotations")

    def perf_of(self, item: pytest.Item, *, framework: str = "") -> Perf:
        """Return the fixture of one test, for a framework of ``--perf-framework`` or for that of each recipe."""
        return Perf(self.session, item=item, framework=framework)

    @pytest.hookimpl(trylast=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a test of each framework of ``--perf-framework``; last, so that its name ends the id.

        Not of a benchmark test, which has no recipe, and a baseline that is named after it.
        """
        frameworks = self.session.settings.frameworks
        names = metafunc.fixturenames
        if frameworks and FIXTURE in names and _BENCHMARK not in names:
            metafunc.parametrize(FIXTURE, frameworks, ids=frameworks, indirect=True)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None, None, None]:
        """Check --perf-framework, and every waiver, also of tests that -m leaves out, before anything is launched.

        Last of all, since every other hook may add a marker.
        """
        collected = list(items)
        result = yield
        self.session.planner.check_frameworks()
        self.session.suite.note_dropped(collected, kept=items)
        for item in collected:
            try:
                waiver = waiver_of(item)
                if waiver is not None:
                    check_release(waiver, release=self.session.settings.release, subject=item.nodeid)
            except WaiverError as exc:
                raise usage_error(str(exc)) from None
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Begin an attempt of a perf test; leave out benchmark tests that this session has no use for."""
        if is_perf(item):
            self.session.begin(item.nodeid)
            self._problem = ""
            _write_properties(item, reports=())
        if _uses_benchmark(item):
            self._prepare_benchmark(item)

    def _prepare_benchmark(self, item: pytest.Item) -> None:
        """Skip a benchmark test that the session has no use for; else inject the delay and take the turn."""
        settings = self.session.settings
        self.perf_of(item).begin_in_process(
            benchmark_case_id(item.nodeid), kind="a benchmark test", subject=item.nodeid
        )
        if settings.inject_pct:
            inject_delay(item, inject_pct=settings.inject_pct)
        self.session.take_turn()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note a failure of a subtest, for it does not reach the test; locate a skip of this package at its test."""
        if call.excinfo is not None:
            self._note_failure(call.excinfo.value)
        report = yield
        if report.skipped and isinstance(report.longrepr, tuple):
            report.longrepr = _at_the_test(report.longrepr, item=item)
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Store the baselines of the test, once nothing more can go wrong with it."""
        try:
            result = yield
        except BaseException:
            self._problem = "its test failed for another reason than its speed, in its teardown"
            raise
        finally:
            self._end_attempt(problem=self._problem)
            if is_perf(item):
                self._write_last_properties(item)
        return result

    def _write_last_properties(self, item: pytest.Item) -> None:
        """Write the JUnit properties of a test's verdicts, or of the reason why it judged nothing."""
        reports = self.session.judged(item.nodeid)
        _write_properties(item, reports=reports)
        if not reports:
            reason = self.session.suite.reason_of(item.nodeid)
            for each in self.session.not_run:
                if each.nodeid == item.nodeid:
                    reason = each.reason
            item.user_properties += [(_VERDICT_PROPERTY, "NOT JUDGED"), (f"{PREFIX}reason", reason)]

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, Any, Any]:
        """Make a perf test's benchmark fixture repeat its timing until a pass is sound."""
        item = request.node
        if fixturedef.argname != _BENCHMARK or not isinstance(item, pytest.Item) or not is_perf(item):
            return (yield)
        if not _uses_benchmark(item):  # it is asked for by name, while the test runs
            self._prepare_benchmark(item)
        fixture = yield
        passes = self.perf_of(item).passes(benchmark_case_id(item.nodeid), num_gpus=1)
        repeated = watched(fixture, passes=passes)
        if repeated is not None:
            self._benchmarks[item.nodeid] = repeated
        return fixture

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Judge a benchmark test inside the test; note a failure, since plugins that run it again may report none."""
        try:
            result = yield
            self._finish_call(item)
        except BaseException as exc:
            self._note_failure(exc)
            if isinstance(exc, pytest.skip.Exception) and (problem := self._swallowed(item)):
                raise pytest.fail.Exception(visible_text(problem), pytrace=False) from None
            if isinstance(exc, NemoPerfError):
                _end_at_the_test(exc)
            elif isinstance(exc, Exception) and self._is_priced(item):
                # A dry run's verdict is NO BASELINE for every case: an error that the test raises on it is expected.
                raise pytest.skip.Exception(PRICED) from None
            raise
        return result

    def _finish_call(self, item: pytest.Item) -> None:
        """Judge the timing of a test's benchmark fixture, and check that the test has left nothing unjudged."""
        if self._is_priced(item):
            self.session.suite.finish(item)
            pytest.skip(PRICED)
        benchmark = self._benchmarks.pop(item.nodeid, None)
        caught: Sequence[pytest.ExceptionInfo[BaseException]] = getattr(item, "_excinfo", None) or ()
        for each in caught:  # unittest.TestCase catches the exception and does not raise it again
            self._note_failure(each.value)
        if caught or not is_perf(item):
            return
        if benchmark is not None:
            self._judge_benchmark(item, benchmark=benchmark)
        problem = self._unjudged_problem(item)
        if problem:
            self.session.verdict_failure = pytest.fail.Exception(visible_text(problem), pytrace=False)
            raise self.session.verdict_failure

    def _swallowed(self, item: pytest.Item) -> str:
        """Return the failing verdict that a passing test has caught; empty if none."""
        for report in self.session.judged(item.nodeid):
            if report.result.is_failure:
                verdict = report.result.verdict
                return f"{verdict.kind} {verdict.case}: the test caught this and went on; a verdict fails its test"
        return ""

    def _unjudged_problem(self, item: pytest.Item) -> str:
        """Return the reason why a passing perf test must fail; empty if it need not."""
        if swallowed := self._swallowed(item):
            return swallowed
        problem = ""
        left = self.session.not_compared(item.nodeid)
        if left:
            problem = f"{' and '.join(left)} ran and was not judged: give what perf.run returns to perf.compare"
            self.session.not_run.append(NotRun(nodeid=item.nodeid, reason=problem))
        elif not self.session.judged(item.nodeid):
            problem = NOTHING_JUDGED
        if not problem or not self.session.settings.needs_verdict:
            return ""
        if not left:
            self.session.not_run.append(NotRun(nodeid=item.nodeid, reason=problem))
        return f"{problem} (ini perf_require_verdict)"

    def pytest_report_header(self) -> list[str]:
        """Return the lines on system, baselines and tolerances."""
        session = self.session
        settings = session.settings
        if settings.measure_into is not None:
            return ["perf: measures for another session, and judges nothing"]
        comparing = ""
        if session.ab is not None and settings.ab is not None:
            comparing = ab_header(
                session.ab.revision.label,
                limit_sec=settings.ab.limit_sec,
                tolerances=settings.policy.tolerances,
                finds=settings.policy.finds,
                caution=session.ab.caution,
            )
        return render_header(
            system=settings.system,
            how=_how(settings),
            devices=describe_devices(settings.devices),
            baselines_dir=session.context.baselines_shown,
            num_baselines=session.context.store.num_committed(),
            elsewhere=session.context.elsewhere,
            is_published=settings.against == "published",
            num_local=session.context.store.num_local(),
            tolerances=settings.policy.tolerances,
            finds=settings.policy.finds,
            runs=settings.policy.max_runs,
            inject_pct=settings.inject_pct,
            changes=changes_text(settings.changes),
            frameworks=settings.frameworks,
            is_dry_run=settings.is_dry_run,
            replay_of=session.context.shown(settings.replay_dir),
            comparing=comparing,
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remove the JUnit properties of an attempt that does not count from its last report.

        Plugins that run a test again report the attempts before under an outcome of their own, or not at all.
        """
        if report.when == "setup":
            self._has_outcome = report.outcome in {"failed", "skipped"}
        elif report.when == "call":
            self._has_outcome = report.outcome in _OUTCOMES
        elif not self._has_outcome:
            report.user_properties = _others(report.user_properties)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Return no letter for a judged case: it has a line of its own, but under ``-q``."""
        if (
            self._config.option.verbose < 0
            or report.when != "call"
            or _VERDICT_PROPERTY not in dict(report.user_properties)
        ):
            return None
        outcome = str(report.outcome)
        if hasattr(report, "wasxfail") and report.skipped:
            outcome = "xfailed"
        elif hasattr(report, "wasxfail"):
            outcome = "xpassed"
        return outcome, "", outcome.upper()

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Stop everything and write the files, after Ctrl-C as well."""
        self._end_attempt(problem="the session ended before its test did")
        self.session.close()
        is_failed = self.session.finish(
            is_collect_only=session.config.option.collectonly,
            is_cut_off=_was_cut_off(session, exitstatus=exitstatus),
            has_failed=session.exitstatus != pytest.ExitCode.OK,
        )
        if is_failed and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self._orderly_end.exit_code:  # from here on, since pytest prints no summary for exit codes not its own
            session.exitstatus = self._orderly_end.exit_code

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show all cases, the counts by verdict, and the paths of the files; other plugins' commands may follow."""
        self._summarize(terminalreporter)
        if self._github is not None:
            self._github.resume(terminalreporter)

    def _summarize(self, terminalreporter: pytest.TerminalReporter) -> None:
        session = self.session
        if session.settings.measure_into is not None:
            return
        if session.settings.is_dry_run:
            terminalreporter.section("performance")
            text = render_dry_run(
                session.dry_run,
                written=session.written,
                width=session.progress.width,
                has_ids=terminalreporter.verbosity > 0,
            )
            terminalreporter.write_line(visible_text(text))
        elif not self._config.option.collectonly:
            terminalreporter.section("performance")
            text = render_summary(
                replace(session.results, not_run=self._untold(terminalreporter)),
                reports=session.reports,
                written=session.written,
                width=session.progress.width,
                color=terminalreporter.hasmarkup,
                has_ids=terminalreporter.verbosity > 0,
            )
            terminalreporter.write_line(text.rstrip("\n"))
            if session.settings.is_profiled and not session.num_profiled:
                reason = "no judged case failed"
                if any(report.result.is_failure for report in session.reports):
                    reason = "no judged case failed but INVALID ones"
                terminalreporter.write_line(f"perf: {reason}, so none ran under the profiler (--perf-profile)")
            for line in unprofiled_lines(session.reports):
                terminalreporter.write_line(session.progress.fitted(f"perf: {line}"))
            for caution in self._cautions():
                terminalreporter.write_line(session.progress.fitted(f"perf: {caution}"), yellow=True)
        if session.write_error:
            terminalreporter.write_line(visible_text(f"perf: {session.write_error}"), red=True)

    def _untold(self, reporter: pytest.TerminalReporter) -> tuple[NotRun, ...]:
        """Return the tests that measured nothing, without those that pytest's short summary tells of as skipped."""
        not_run = self.session.results.not_run
        if not reporter.hasopt("skipped"):
            return not_run
        told = {report.nodeid for report in reporter.getreports("skipped")}
        return tuple(each for each in not_run if each.nodeid not in told)

    def _cautions(self) -> Iterator[str]:
        """Yield sentences on losses that this session can't see or does not fail."""
        session = self.session
        left_out = FAILING_BY_DEFAULT - session.settings.fail_on
        num_cases = 0
        for report in session.reports:
            num_cases += report.result.verdict.kind in left_out
        if num_cases:
            words = " and ".join(sorted(left_out))
            yield f"{count_text(num_cases, 'case')} would fail, and does not: perf_fail_on leaves out {words}"
        if session.ab is not None and session.ab.caution:
            yield f"CAUTION: {session.ab.caution}"
        if session.outside:
            yield session.outside

    def _note_failure(self, error: BaseException) -> None:
        """Note a failure, so that the test stores nothing; a verdict, or a skip after one, is none."""
        if error is not self.session.verdict_failure and not isinstance(error, pytest.skip.Exception):
            self._problem = "its test failed for another reason than its speed"

    def _end_attempt(self, *, problem: str) -> None:
        try:
            self.session.end(problem=problem)
        except BaselineError as exc:
            text = visible_text(f"{type(exc).__name__}: {exc}")
            raise pytest.fail.Exception(text, pytrace=False) from None

    def _is_priced(self, item: pytest.Item) -> bool:
        priced = self.session.planner.priced
        return self.session.settings.is_dry_run and any(case.nodeid == item.nodeid for case in priced)

    def _judge_benchmark(self, item: pytest.Item, *, benchmark: WatchedBenchmark) -> None:
        if benchmark.disabled:
            reason = "pytest-benchmark is disabled (--benchmark-disable), so nothing was measured"
            self.session.not_run.append(NotRun(nodeid=item.nodeid, reason=reason))
            pytest.skip(reason)
        perf = self.perf_of(item)
        with perf.as_outcome():
            measurement = measure_benchmark(item, benchmark=benchmark, settings=self.session.settings)
        perf.compare(measurement)


def _write_properties(item: pytest.Item, *, reports: Sequence[CaseReport]) -> None:
    """Replace a test's JUnit properties of an earlier attempt by those of these reports."""
    pairs = _others(item.user_properties)
    for report in reports:
        pairs += properties(report)
    item.user_properties[:] = pairs


def _others(pairs: Sequence[tuple[str, object]]) -> list[tuple[str, object]]:
    """Return JUnit properties without those of cases."""
    return [pair for pair in pairs if not pair[0].startswith(PREFIX)]


def _was_cut_off(session: pytest.Session, *, exitstatus: int) -> bool:
    """Return whether a test without an outcome was cut off: by Ctrl-C, --maxfail or pytest.exit with any exit status.

    Otherwise it was only set up.
    """
    is_stopped = bool(session.shouldfail or session.shouldstop)
    is_interrupted = exitstatus in {pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR}
    return is_stopped or is_interrupted or not session.config.option.setuponly


def _how(settings: Settings) -> str:
    """Return a word for the choice of the system: asked for, detected, or that of the stored runs."""
    if not settings.was_detected:
        return "asked for"
    if settings.replay_dir is not None:
        return "of the stored runs"
    return "detected"


def _at_the_test(skip: tuple[str, int, str], *, item: pytest.Item) -> tuple[str, int, str]:
    """Return path, line and reason of a skip, with those of the test in place of a line of this package."""
    path, _, reason = skip
    if not Path(path).is_relative_to(_PACKAGE):
        return skip
    file, line, _ = item.reportinfo()
    return os.fspath(file), (line or 0) + 1, reason


def _uses_benchmark(item: pytest.Item) -> bool:
    return _BENCHMARK in getattr(item, "fixturenames", ()) and is_perf(item)


def _end_at_the_test(error: NemoPerfError) -> None:
    """Cut this package's own frames off a traceback, so that it ends at the line of the test."""
    frame = error.__traceback__
    last = None
    while frame is not None:
        if not frame.tb_frame.f_globals.get("__name__", "").startswith("pytest_nemoperf."):
            last = frame
        frame = frame.tb_next
    if last is not None:
        last.tb_next = None
