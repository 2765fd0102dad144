"""Pytest processes of both sides: a test that measures inside its own process runs once more, with a side's code.

Both sides run through this module, the working tree too, so that what a process of its own costs is the same on both.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_nemoperf.ab.measure_request import (
    FOUND,
    MEASURE_INTO_VARIABLE,
    MEASURE_ONLY_PLUGIN,
    STARTED,
    MeasureRequest,
    measured_cases,
    read_measurement,
    read_stage,
    write_request,
)
from pytest_nemoperf.ab.side_launcher import ABSideLauncher
from pytest_nemoperf.ab.source_trees import ABTrees
from pytest_nemoperf.ab.worktree import ABSide
from pytest_nemoperf.errors import LaunchError, RevisionError
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.launchers.logs import tail_of
from pytest_nemoperf.launchers.protocol import LAUNCHER_VARIABLES, LaunchResult, LaunchStatus
from pytest_nemoperf.measure.measurement import Measurement

_USAGE_ERROR: Final = 4  # of pytest.ExitCode, as the next
_NO_TESTS_COLLECTED: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PytestInvocation:
    """Start of the session that asks for measurements; no path is of the checkout.

    Attributes:
        args: Its command line, without ini's addopts, which each side has of its own.
        paths: Those of its arguments that choose tests.
        started_in: Directory in which pytest was started.
        root: Its root directory.
        ini_file: Its ini file; None for none.
        confcutdir: Folder above which no conftest.py counts; None for that of the ini file.
        is_module: It was started as ``python -m ...``, which puts the working directory on ``sys.path``.
        has_cache: Its cache plugin is not disabled.
        system: System name.
    """

    args: tuple[str, ...]
    paths: tuple[str, ...]
    started_in: Path
    root: Path
    ini_file: Path | None
    confcutdir: Path | None
    is_module: bool
    has_cache: bool
    system: str


class ABPytestProcess:
    """Runs tests of one side, each launch in a process of its own.

    Args:
        side: The side whose code and tests are run.
        trees: The working tree and the checkout, once they are set up.
        invocation: How the session was started.

    Raises:
        RevisionError: If the side has no copy of the directory in which pytest was started.
    """

    def __init__(self, side: ABSide, *, trees: ABTrees, invocation: PytestInvocation) -> None:
        self.side = side
        self._trees = trees
        self._invocation = invocation
        self._launcher = ABSideLauncher(side, trees=trees, directory=invocation.started_in)

    def measure(
        self,
        nodeid: str,
        *,
        case: str,
        run_dir: Path,
        timeout_sec: float,
        inject_pct: float = 0.0,
        on_poll: Callable[[], None] = lambda: None,
    ) -> Measurement:
        """Run a test with this side's code, and return its measurement of a case.

        Args:
            nodeid: The test, as the session names it.
            case: Case of a loop or benchmark of that test.
            run_dir: New folder for the files of the launch.
            timeout_sec: Wall-clock limit of the process.
            inject_pct: Self-test delay of each step, percent.
            on_poll: Called a few times a second; what it raises ends the process.

        Raises:
            LaunchError: If the test failed, took too long, or did not measure the case; the text names the side.
            RecordError: If its measurement can't be read.
            RevisionError: If the side has no such test, or its processes use files of the other side.
        """
        run_dir = run_dir.resolve()
        label = self.side.label
        if not (self.side.root / nodeid.partition("::")[0]).is_file():
            raise RevisionError(self._lacks(nodeid))
        variables = {name: os.environ[name] for name in LAUNCHER_VARIABLES if name in os.environ}
        request = MeasureRequest(
            nodeid=nodeid, system=self._invocation.system, inject_pct=inject_pct, variables=variables
        )
        write_request(run_dir, request)
        try:
            result = self._launcher.launch(
                self._command(run_dir),
                run_dir=run_dir,
                timeout_sec=timeout_sec,
                on_poll=on_poll,
                may_be_lacking=self._invocation.paths,
            )
        except (LaunchError, RevisionError) as error:
            raise type(error)(f"{label}: {error}") from error
        self._check(result, nodeid=nodeid, run_dir=run_dir, timeout_sec=timeout_sec)
        measurement = read_measurement(run_dir, case=case)
        if measurement is None:
            others = ", ".join(measured_cases(run_dir)) or "nothing"
            raise LaunchError(
                f"{label}: {nodeid} measured no {case} there, but {others}; its output ends with:\n"
                f"{tail_of(result.logs[0])}"
            )
        return measurement

    def close(self) -> None:
        """Stop all processes; may be called twice."""
        self._launcher.close()

    def _check(self, result: LaunchResult, *, nodeid: str, run_dir: Path, timeout_sec: float) -> None:
        """Check that the test was found and passed.

        Raises:
            LaunchError: If it failed or took too long.
            RevisionError: If there is no such test.
        """
        if result.status is LaunchStatus.OK:
            return
        label = self.side.label
        log = result.logs[0]
        output = f"its output ends with:\n{tail_of(log)}"
        if result.status is LaunchStatus.TIMED_OUT:
            raise LaunchError(f"{label}: {nodeid} was ended after {timeout_sec:g} s, its limit; {output}")
        exit_code = result.failures[0].exit_code
        stage = read_stage(run_dir)
        if exit_code == _NO_TESTS_COLLECTED or (exit_code == _USAGE_ERROR and stage == STARTED):
            raise RevisionError(self._lacks(nodeid))
        failed = "failed" if stage == FOUND else "could not be run"
        raise LaunchError(f"{label}: {nodeid} {failed} there (exit code {exit_code}); see {log}; {output}")

    def _lacks(self, nodeid: str) -> str:
        return f"the perf test {nodeid} is not in {self.side.label}, so there is nothing to compare it with"

    def _command(self, run_dir: Path) -> RankCommand:
        """Return the command of a launch.

        Rootdir, ini file and confcutdir are given: pytest would look for them in folders above, and the checkout lies
        inside the working tree.
        """
        invocation = self._invocation
        flags = [] if invocation.is_module else ["-P"]
        ini_file, confcutdir = self._places(run_dir)
        options = ["-p", MEASURE_ONLY_PLUGIN, "-c", str(ini_file)]
        options += [f"--rootdir={self.side.root}", f"--confcutdir={confcutdir}"]
        if invocation.has_cache:
            options += ["-o", f"cache_dir={run_dir / 'cache'}"]
        args = list(invocation.args)
        end = args.index("--") if "--" in args else len(args)
        args[end:end] = options  # behind the session's own, for the last one of a kind counts
        return RankCommand(
            argv=(sys.executable, *flags, "-m", "pytest", *args),
            num_processes=1,
            is_rank=False,
            env={MEASURE_INTO_VARIABLE: str(run_dir)},
        )

    def _places(self, run_dir: Path) -> tuple[Path, Path]:
        """Return the side's ini file, an empty one if it has none, and its confcutdir."""
        invocation = self._invocation
        confcutdir = self.side.root
        ini_file = None
        if invocation.ini_file is not None:
            ini_file = self._own(invocation.ini_file)
            confcutdir = ini_file.parent
        if invocation.confcutdir is not None:
            confcutdir = self._own(invocation.confcutdir)
        if ini_file is None or not ini_file.is_file():
            ini_file = run_dir / "pytest.ini"
            ini_file.write_text("[pytest]\n", encoding="ascii")
        return ini_file, confcutdir

    def _own(self, path: Path) -> Path:
        """Return a side's copy of a path in the working tree, and any other path as it is."""
        rel_path = self._trees.inside_new(path.resolve())
        if self.side.name != "old" or rel_path is None:
            return path
        return self._trees.old / rel_path
