"""Perf tests of a session: cases they ask for, tests that judged nothing, baselines that no test asks for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_nemoperf.errors import BaselineError, count_text
from pytest_nemoperf.lint.static_analysis import asks_once, names_perf, perf_files
from pytest_nemoperf.options.selection import PERF_TESTPATHS
from pytest_nemoperf.published.recipes import is_published_case
from pytest_nemoperf.results.cases import NotRun, Pruned, Unasked

if TYPE_CHECKING:
    from pytest_nemoperf.baselines.store import BaselineStore
    from pytest_nemoperf.session.planning import Planner
    from pytest_nemoperf.verdict.judge import Verdict

NOTHING_JUDGED: Final = "the test judged nothing: call perf.check, perf.compare or perf.measure, or use benchmark"
FIXTURE: Final = "perf"
_GIVEN = pytest.Config.ArgsSource.ARGS
_MAX_SHOWN = 3


class Suite:
    """Record of a session's perf tests, from pytest's hooks.

    A stored case is an orphan only if the whole suite ran and none of its tests asks for the case.

    Args:
        config: Config of the pytest session.
        planner: Has the cases that tests have asked for.
    """

    def __init__(self, config: pytest.Config, *, planner: Planner) -> None:
        self._config = config
        self._planner = planner
        self._items: list[pytest.Item] = []
        self._left_out: list[str] = []
        self._unmarked: list[pytest.Item] = []
        self._dropped: list[str] = []
        self._collected: set[Path] = set()
        self._uncollected: list[str] = []
        self._started: set[str] = set()
        self._outcomes: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self._xfailed: set[str] = set()
        self._skipped: dict[str, str] = {}
        self._finished: set[str] = set()

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        """Note the perf tests that are left out, by -k, -m or another plugin."""
        for item in items:
            if item.get_closest_marker("perf"):
                self._left_out.append(item.nodeid)
            else:
                self._unmarked.append(item)

    def note_dropped(self, collected: Sequence[pytest.Item], *, kept: Sequence[pytest.Item]) -> None:
        """Note the perf tests that a hook took out of the collected ones without deselecting them."""
        known = {item.nodeid for item in kept} | set(self._left_out)
        for item in collected:
            if item.get_closest_marker("perf") is not None and item.nodeid not in known:
                self._dropped.append(item.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a collected file, and one that could not be: there may be perf tests in it."""
        self._collected.add((self._config.rootpath / report.nodeid).resolve())
        if report.skipped:
            self._skipped[report.nodeid] = _skip_reason(report)
        if report.outcome != "passed":
            how = "skipped as a whole" if report.skipped else "not collected"
            self._uncollected.append(f"{report.nodeid} was {how}")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note the tests that are to run."""
        self._items = [item for item in session.items if item.get_closest_marker("perf")]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note that a test was reached."""
        self._started.add(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the outcome of each test, its teardown apart: that hides no case."""
        if report.when != "teardown" and (report.when == "call" or report.outcome != "passed"):
            self._outcomes[report.nodeid] = report.outcome
            self._reasons[report.nodeid] = _why_unjudged(report)
            if hasattr(report, "wasxfail"):
                self._xfailed.add(report.nodeid)

    def finish(self, item: pytest.Item) -> None:
        """Note that a test reached its end, though it counts as skipped in a dry run."""
        self._finished.add(item.nodeid)

    def not_called(self, *, is_cut_off: bool) -> Iterator[NotRun]:
        """Yield the tests that have no outcome: the session was cut off before, or only set them up."""
        for item in self._items:
            if item.nodeid in self._outcomes:
                continue
            if not is_cut_off:
                reason = "set up and not called (--setup-only, --setup-plan)"
            elif item.nodeid in self._started:
                # With its name: lists count tests by reason.
                reason = f"{item.nodeid} was interrupted before it was judged"
            else:
                reason = "not reached: the session ended before"
            yield NotRun(nodeid=item.nodeid, reason=reason)

    def skipped_files(self) -> Iterator[NotRun]:
        """Yield the files that may hold perf tests and were skipped as a whole, as by pytest.importorskip."""
        if not self._skipped:
            return
        for path in self._perf_files():
            nodeid = path.relative_to(self._config.rootpath).as_posix()
            if nodeid in self._skipped:
                yield NotRun(nodeid=nodeid, reason=f"skipped as a whole: {self._skipped[nodeid]}")

    def lost(self) -> Iterator[NotRun]:
        """Yield the tests that would have been perf tests: dropped by a hook, or not marked."""
        for nodeid in self._dropped:
            yield NotRun(nodeid=nodeid, reason="taken out of the collected tests by a hook of a conftest.py or plugin")
        for item in self._unmarked:
            if FIXTURE in getattr(item, "fixturenames", ()):
                reason = f"takes the fixture {FIXTURE} and is not marked perf, so -m left it out"
                yield NotRun(nodeid=item.nodeid, reason=reason)

    def has_passed(self, nodeid: str) -> bool:
        """Return whether a test has passed, an expected failure apart."""
        return self._outcomes.get(nodeid) == "passed" and nodeid not in self._xfailed

    def expected_to_fail(self, failing: Mapping[str, Verdict]) -> Iterator[NotRun]:
        """Yield the tests that are marked xfail, so that their failing verdict fails nothing.

        Args:
            failing: Verdict by test.
        """
        for nodeid, verdict in failing.items():
            if nodeid in self._xfailed:
                reason = (
                    f"{verdict.kind}, which fails nothing, for the test is marked xfail; perf_waive lets a known loss "
                    "pass until a day or release"
                )
                yield NotRun(nodeid=nodeid, reason=reason)

    def reason_of(self, nodeid: str) -> str:
        """Return the reason of a test that has ended and judged no case."""
        return self._reasons.get(nodeid, "")

    def unjudged(self) -> Iterator[NotRun]:
        """Yield the tests that have an outcome, with the reason that counts if they judged no case."""
        for item in self._items:
            if item.nodeid in self._outcomes:
                yield NotRun(nodeid=item.nodeid, reason=self._reasons[item.nodeid])

    def why_none(self) -> str:
        """Return the reason why the session has judged no case."""
        if self._items:
            return f"no case was judged: {count_text(len(self._items), 'perf test')} selected, each of them is below"
        if self._left_out:
            option = self._config.option
            selection = f"-m {option.markexpr!r}"
            if option.keyword:
                selection += f" and -k {option.keyword!r}"
            collected = f"{count_text(len(self._left_out), 'perf test')} collected"
            return f"no perf test ran: {collected}, all left out by {selection}"
        places = [os.path.relpath(argument, self._config.rootpath) for argument in self._config.args]
        unseen = _shortened([f"{path} may hold perf tests" for path in self._unseen()])
        hint = f"give its folder, or name it in ini {PERF_TESTPATHS}"
        if self._config.args_source is pytest.Config.ArgsSource.INVOCATION_DIR and self._config.getini(PERF_TESTPATHS):
            hint = f"ini {PERF_TESTPATHS} holds where pytest is started in {self._config.rootpath}: start it there"
        if unseen:
            unseen.append(hint)
        return "; ".join([f"no perf test ran: none was collected in {' and '.join(places)}", *unseen])

    def outside(self) -> str:
        """Return a note on files with perf tests that were not collected, though the session was given no path."""
        config = self._config
        root = config.rootpath
        folders: list[str] = config.getini(PERF_TESTPATHS)
        is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
        if not is_whole and (folders or config.invocation_params.dir != root or config.args_source is _GIVEN):
            return ""
        collected: list[Path] = []
        if folders:
            collected = [Path(argument).resolve() for argument in config.args]
        outside: list[str] = []
        for path in self._unseen(follows_links=False):
            is_inside = any(map((root / path).resolve().is_relative_to, collected))
            if not is_inside and names_perf(root / path):
                outside.append(str(path))
        if not outside:
            return ""
        files = "; ".join(_shortened(outside))
        if not folders:
            return f"files that hold perf tests were not collected: {files}"
        return (
            f"perf tests outside of ini {PERF_TESTPATHS} ({', '.join(folders)}) did not run: {files}; name their "
            "folders there, or move them"
        )

    def gaps(self) -> list[str]:
        """Return reasons why there may be more cases than were asked for; none if the whole suite was seen."""
        left_out = [f"{nodeid} was left out" for nodeid in self._left_out]
        unseen = [f"{path} may hold perf tests and was not collected; collect it as well" for path in self._unseen()]
        problems: list[str] = []
        for item in self._items:
            if problem := self._problem(item):
                problems.append(f"{item.nodeid} {problem}")
        gaps: list[str] = []
        for kind in (list(self._selections()), left_out, unseen, self._uncollected, problems):
            gaps += _shortened(kind)
        return gaps

    def prune(self, store: BaselineStore, *, shown: Callable[[Path], str]) -> Pruned:
        """Delete the committed baselines that no test asks for, unless a test that was not seen may.

        Args:
            store: Baseline store of the session.
            shown: Returns a path as people read it.
        """
        asked = [*self._planner.asked, *_published_cases(store)]
        why_not = [*self.gaps(), *self._sharing(store)]
        if not self._planner.asked:
            why_not.insert(0, f"no collected perf test has a case on {store.system}")
        deleted: list[str] = []
        if not why_not:
            try:
                for path in store.prune(asked):
                    deleted.append(shown(path))
            except BaselineError as exc:
                why_not.append(str(exc))
        return Pruned(deleted=tuple(deleted), why_not=tuple(why_not))

    def unasked(
        self,
        store: BaselineStore,
        *,
        missing: Mapping[str, Mapping[str, Any]],
        shown: Callable[[Path], str],
        is_failing: bool,
    ) -> Unasked | None:
        """Return the stored baselines that no test asks for: of renamed cases, or of tests that are lost; None if none.

        If a test that was not seen may ask for them, only baselines count that have the workload of a case under
        another name of the model.

        Args:
            store: Baseline store of the session.
            missing: Workload by case without a committed baseline.
            shown: Returns a path as people read it.
            is_failing: The session is to fail where there are any.
        """
        stored = store.unasked([*self._planner.asked, *_published_cases(store)])
        if not stored:
            return None
        gaps = [*self.gaps(), *self._sharing(store)]
        renamed = {}
        for case, workload in missing.items():
            for baseline in stored.values():
                if _is_renamed(workload, stored=baseline.workload):
                    renamed[case] = baseline.case
        unwanted = []
        for path, baseline in stored.items():
            if not gaps or baseline.case in renamed.values():
                unwanted.append(shown(path))
        if gaps and not unwanted and not (is_failing and missing):
            return None
        return Unasked(
            missing=tuple(missing),
            stored=tuple(unwanted),
            renamed=renamed,
            gaps=tuple(gaps),
            is_failure=is_failing and not gaps,
        )

    def _sharing(self, store: BaselineStore) -> Iterator[str]:
        root = self._config.rootpath
        if not store.committed_dir.resolve().is_relative_to(root.resolve()):
            yield f"{store.committed_dir} lies outside the root directory {root}: others may use it too"

    def _selections(self) -> Iterator[str]:
        config = self._config
        if config.args_source is pytest.Config.ArgsSource.ARGS:
            for argument in config.args:
                if not (config.invocation_params.dir / argument).is_dir():
                    yield f"{argument} is a part of the suite; give its folder"
        elif (
            config.args_source is pytest.Config.ArgsSource.INVOCATION_DIR
            and config.invocation_params.dir != config.rootpath
        ):
            yield f"{config.invocation_params.dir.name}/ is a part of the suite; start in the root directory"
        if getattr(config.option, "lf", False):
            yield "--last-failed leaves files out"

    def _unseen(self, *, follows_links: bool = True) -> Iterator[Path]:
        """Yield the files of the project that this session did not collect."""
        for path in self._perf_files(follows_links=follows_links):
            if path.resolve() not in self._collected:
                yield path.relative_to(self._config.rootpath)

    def _perf_files(self, *, follows_links: bool = True) -> Iterator[Path]:
        ini = self._config.getini
        return perf_files(
            self._config.rootpath,
            names=ini("python_files"),
            left_out=ini("norecursedirs"),
            follows_links=follows_links,
        )

    def _problem(self, item: pytest.Item) -> str:
        """Return the reason why a test may ask for more cases than it did; empty for none."""
        outcome = self._outcomes.get(item.nodeid)
        if outcome == "passed" or item.nodeid in self._finished:
            return ""
        if outcome is None:
            return "did not run"
        has_asked = any(asked.nodeid == item.nodeid for asked in self._planner.asked.values())
        if not has_asked and item.nodeid not in self._planner.without_case:
            return f"{outcome} before its case was known"
        if _asks_once(item):
            return ""
        return f"{outcome}, and may ask for more cases after the first"


def _published_cases(store: BaselineStore) -> Iterator[str]:
    """Yield the stored cases of published rows: a suite leaves their tests out unless asked."""
    for baseline in store.unasked(()).values():
        if is_published_case(baseline.case):
            yield baseline.case


def _is_renamed(workload: Mapping[str, Any], *, stored: Mapping[str, Any]) -> bool:
    """Return whether two workloads train the same architecture in the same way under another name."""
    model = workload.get("model")
    other = stored.get("model")
    if not isinstance(model, Mapping) or not isinstance(other, Mapping) or model.get("name") == other.get("name"):
        return False
    return {**workload, "model": {**model, "name": ""}} == {**stored, "model": {**other, "name": ""}}


def _asks_once(item: pytest.Item) -> bool:
    """Return whether a test asks for one case at most; a benchmark test does, for the one named after it."""
    if "benchmark" in getattr(item, "fixturenames", ()):
        return True
    function = getattr(item, "function", None)
    return function is not None and asks_once(function)


def _why_unjudged(report: pytest.TestReport) -> str:
    """Return the reason why a test with this outcome has judged no case, if it has judged none."""
    if hasattr(report, "wasxfail"):
        reason = report.wasxfail.removeprefix("reason: ")  # pytest below 8.4 puts that before it
        return f"xfail, and no case was judged: {reason or 'no reason given'}"
    if report.failed:
        return "failed before a case was judged"
    if report.skipped:
        return _skip_reason(report)
    return NOTHING_JUDGED


def _skip_reason(report: pytest.CollectReport | pytest.TestReport) -> str:
    reason = report.longreprtext
    if isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
    return reason.removeprefix("Skipped: ")


def _shortened(problems: list[str]) -> list[str]:
    if len(problems) <= _MAX_SHOWN:
        return problems
    return [*problems[: _MAX_SHOWN - 1], f"{problems[_MAX_SHOWN - 1]}; and {len(problems) - _MAX_SHOWN} more like it"]
