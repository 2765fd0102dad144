"""Launches of the yardstick before and after runs of frameworks other than the native engine."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from pytest_nemoperf.errors import LaunchError, RecordError
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.json_codec import read_data, to_json
from pytest_nemoperf.launchers.logs import tail_of
from pytest_nemoperf.launchers.protocol import Launcher, LaunchStatus
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.rules import NATIVE
from pytest_nemoperf.records.step import PLAN_FILE
from pytest_nemoperf.records.yardstick import RUN_YARDSTICKS_FILE, YARDSTICK_FILE, RunYardsticks, Yardstick

_MODULE: Final = "pytest_nemoperf.native.rank.yardstick_entry"
_TIMEOUT_SEC: Final = 120.0  # the workload takes a second; NCCL on a busy node takes most of a minute to start
_ENDINGS: Final = {LaunchStatus.FAILED: "failed", LaunchStatus.TIMED_OUT: "were not done in time"}
_DEVICE_VARIABLES: Final = ("CUDA_VISIBLE_DEVICES",)
"""Variables of a recipe that choose its devices. Others may change the speed of libraries, and a yardstick must not
change with the recipe."""


class YardstickLaunches:
    """Launches as many ranks as a plan has, which time the yardstick and end.

    Args:
        launcher: Starts the ranks.
        report: Shows a sentence to the user; each reason to leave the yardstick out is given once.
    """

    def __init__(self, launcher: Launcher, *, report: Callable[[str], None]) -> None:
        self._launcher = launcher
        self._report = report
        self._reported: set[str] = set()
        self._has_failed = False

    def measure(self, plan: Plan, *, run_dir: Path, on_poll: Callable[[], None]) -> tuple[Yardstick, ...]:
        """Return the yardstick of each rank; empty for ranks that time their own, or if it can't be timed.

        Args:
            plan: Plan of the run beside it.
            run_dir: New directory for the plan, the result and the logs.
            on_poll: Called a few times a second meanwhile.
        """
        if plan.framework == NATIVE or self._has_failed:
            return ()
        if importlib.util.find_spec("torch") is None:
            return self._leave_out("torch is not installed; install it with: pip install 'pytest-nemoperf[torch]'")
        if plan.num_nodes > 1:
            return self._leave_out("a yardstick is timed on one node, and some of them need more")
        run_dir.mkdir(parents=True)
        (run_dir / PLAN_FILE).write_text(to_json(plan), encoding="utf-8")
        command = RankCommand(
            argv=(sys.executable, "-m", _MODULE),
            num_processes=plan.layout.total_gpus,
            entrypoint=f"{_MODULE}:main",
            env=_device_variables(plan),
        )
        try:
            result = self._launcher.launch(command, run_dir=run_dir, timeout_sec=_TIMEOUT_SEC, on_poll=on_poll)
            if result.status is LaunchStatus.OK:
                path = run_dir / YARDSTICK_FILE
                return read_data(tuple[Yardstick, ...], path)
            problem = (
                f"its ranks {_ENDINGS[result.status]}; the log {result.logs[0]} ends with: {tail_of(result.logs[0])}"
            )
        except (LaunchError, RecordError, OSError) as error:
            problem = str(error)
        self._has_failed = True
        return self._leave_out(f"{problem}; --perf-yardstick=off doesn't start it")

    def _leave_out(self, reason: str) -> tuple[Yardstick, ...]:
        """Report once why there is no yardstick, and return none."""
        if reason not in self._reported:
            self._reported.add(reason)
            self._report(f"runs of other frameworks than the native engine have no yardstick: {reason}")
        return ()


def write_yardsticks(run_dir: Path, *, before: tuple[Yardstick, ...], after: tuple[Yardstick, ...]) -> None:
    """Write the yardsticks around a run into its directory."""
    yardsticks = RunYardsticks(before=before, after=after)
    (run_dir / RUN_YARDSTICKS_FILE).write_text(to_json(yardsticks), encoding="utf-8")


def read_yardsticks(run_dir: Path) -> RunYardsticks:
    """Return the yardsticks around a run; none if they were not timed.

    Raises:
        RecordError: If the file can't be read.
    """
    path = run_dir / RUN_YARDSTICKS_FILE
    if not path.exists():
        return RunYardsticks()
    return read_data(RunYardsticks, path)


def _device_variables(plan: Plan) -> Mapping[str, str]:
    return {name: value for name, value in plan.env.items() if name in _DEVICE_VARIABLES}
