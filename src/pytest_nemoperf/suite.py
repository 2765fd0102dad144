"""Which cases the collected perf tests ask for, and what keeps that from being known for certain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nemoperf.asking import asks_once, perf_files
from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.results import NotRun, Pruned, Unasked

if TYPE_CHECKING:
    from pytest_nemoperf.planner import Planner
    from pytest_nemoperf.store import BaselineStore

_SHOWN = 3


class Suite:
    """Listens to a session; a stored case is an orphan only if the whole suite ran and none of it asks for the case.

    Args:
        config: Of the pytest session.
        planner: Knows the cases tests have asked for.
    """

    def __init__(self, config: pytest.Config, *, planner: Planner) -> None:
        self._config = config
        self._planner = planner
        self._items: list[pytest.Item] = []
        self._left_out: list[str] = []
        self._collected: set[Path] = set()
        self._uncollected: list[str] = []
        self._started: set[str] = set()
        self._outcomes: dict[str, str] = {}
        self._finished: set[str] = set()

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        """Note the perf tests that are left out, by -k, -m or another plugin."""
        self._left_out += [item.nodeid for item in items if item.get_closest_marker("perf")]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note what was collected, and what could not be: there may be perf tests in it."""
        self._collected.add((self._config.rootpath / report.nodeid).resolve())
        if report.outcome != "passed":
            self._uncollected.append(f"{report.nodeid} was {_collected_how(report)}")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note which tests are to run."""
        self._items = [item for item in session.items if item.get_closest_marker("perf")]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note that a test was reached."""
        self._started.add(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how each test ended; what fails after the test itself hides no case."""
        if report.when != "teardown" and (report.when == "call" or report.outcome != "passed"):
            self._outcomes[report.nodeid] = report.outcome

    def finish(self, item: pytest.Item) -> None:
        """Note that a test got to its end, though it counts as skipped in a dry run."""
        self._finished.add(item.nodeid)

    def cut_off(self) -> Iterator[NotRun]:
        """Yield the tests that have no outcome, because the session ended before."""
        for item in self._items:
            if item.nodeid not in self._outcomes:
                was_reached = item.nodeid in self._started
                # lists count tests by reason, and which one was interrupted is worth reading there
                interrupted = f"{item.nodeid} was interrupted before it was judged"
                reason = interrupted if was_reached else "not reached: the session ended before"
                yield NotRun(nodeid=item.nodeid, reason=reason)

    def gaps(self) -> list[str]:
        """Return why there may be more cases than were asked for; nothing if the whole suite was seen."""
        groups = (
            list(self._selections()),
            [f"{nodeid} was left out" for nodeid in self._left_out],
            [f"{path} may hold perf tests and was not collected; collect it as well" for path in self._unseen()],
            self._uncollected,
            [f"{item.nodeid} {problem}" for item in self._items if (problem := self._problem(item))],
        )
        return [gap for group in groups for gap in _shortened(group)]

    def prune(self, store: BaselineStore, *, shown: Callable[[Path], str]) -> Pruned:
        """Delete the committed baselines that no test asks for, unless a test that was not seen may.

        Args:
            store: Of the session.
            shown: Returns a path as people read it.
        """
        asked, why_not = self._planner.asked, [*self.gaps(), *self._sharing(store)]
        if not asked:
            why_not.insert(0, f"no collected perf test has a case on {store.system}")
        deleted: list[str] = []
        try:
            deleted += map(shown, () if why_not else store.prune(asked))
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
        """Return the stored baselines that may be those of cases without one; None if there are none.

        Where a test that was not seen may ask for them, only those are known whose workload is a case's under another
        name of the model.

        Args:
            store: Of the session.
            missing: Workload by case without a committed baseline.
            shown: Returns a path as people read it.
            is_failing: The session is to fail where there are any.
        """
        stored = store.unasked(self._planner.asked) if missing else {}
        if not stored:
            return None
        gaps = [*self.gaps(), *self._sharing(store)]
        renamed = {}
        for case, workload in missing.items():
            for baseline in stored.values():
                if _is_renamed(workload, stored=baseline.workload):
                    renamed[case] = baseline.case
        if gaps:
            stored = {path: baseline for path, baseline in stored.items() if baseline.case in renamed.values()}
        if gaps and not stored and not is_failing:
            return None
        return Unasked(
            missing=tuple(missing),
            stored=tuple(shown(path) for path in stored),
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

    def _unseen(self) -> Iterator[Path]:
        """Yield the files of the project that this session did not look into, for whatever reason."""
        root, ini = self._config.rootpath, self._config.getini
        for path in perf_files(root, names=ini("python_files"), left_out=ini("norecursedirs")):
            if path.resolve() not in self._collected:
                yield path.relative_to(root)

    def _problem(self, item: pytest.Item) -> str:
        """Return why a test may ask for more cases than it did, or nothing."""
        outcome = self._outcomes.get(item.nodeid)
        if outcome == "passed" or item.nodeid in self._finished:
            return ""
        if outcome is None:
            return "did not run"
        is_known = item.nodeid in self._planner.without_case or item.nodeid in {
            asked.nodeid for asked in self._planner.asked.values()
        }
        if not is_known:
            return f"{outcome} before its case was known"
        return "" if _asks_once(item) else f"{outcome}, and may ask for more cases after the first"


def _is_renamed(workload: Mapping[str, Any], *, stored: Mapping[str, Any]) -> bool:
    """Tell whether two workloads train the same architecture in the same way under another name."""
    model, other = workload.get("model"), stored.get("model")
    if not isinstance(model, Mapping) or not isinstance(other, Mapping) or model.get("name") == other.get("name"):
        return False
    return {**workload, "model": {**model, "name": ""}} == {**stored, "model": {**other, "name": ""}}


def _asks_once(item: pytest.Item) -> bool:
    """A benchmark test asks for the one case that is named after it."""
    if "benchmark" in getattr(item, "fixturenames", ()):
        return True
    function = getattr(item, "function", None)
    return function is not None and asks_once(function)


def _collected_how(report: pytest.CollectReport) -> str:
    return "skipped as a whole" if report.skipped else "not collected"


def _shortened(problems: list[str]) -> list[str]:
    if len(problems) <= _SHOWN:
        return problems
    return [*problems[: _SHOWN - 1], f"{problems[_SHOWN - 1]}; and {len(problems) - _SHOWN} more like it"]
