"""Protocol of launchers, and the result of a launch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.recipes.recipe import RANK_VARIABLES

LAUNCHER_VARIABLES: Final = (*RANK_VARIABLES, "NEMOPERF_RUN_DIR")
"""Variables that a launcher sets: those of ranks for ranks only, the folder of the run for each process."""


class LaunchStatus(StrEnum):
    """Outcome of a launch; its cause is in the ranks' error files."""

    OK = "ok"
    FAILED = "failed"
    TIMED_OUT = "timed_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankExit:
    """Failure of a process before the launcher began to stop the others.

    Attributes:
        rank: Rank of the process.
        exit_code: Not 0; negative for a signal, as in subprocess.
    """

    rank: int
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchResult:
    """Result of a launch after all its processes have ended.

    Attributes:
        status: Outcome.
        failures: Processes that failed before they were stopped, in the order of their failures.
        logs: Combined standard output and error of each process, by rank.
    """

    status: LaunchStatus
    failures: tuple[RankExit, ...]
    logs: tuple[Path, ...]


class Launcher(Protocol):
    """Starts the ranks of one run at a time, and ends them all."""

    def launch(
        self, command: RankCommand, *, run_dir: Path, timeout_sec: float, on_poll: Callable[[], None]
    ) -> LaunchResult:
        """Run a command's processes to their end or the time limit; logs go to ``run_dir/logs``.

        Args:
            command: The processes to start.
            run_dir: Working files of the run.
            timeout_sec: Wall-clock limit from start to the end of the last process.
            on_poll: Called a few times a second during the launch, to show progress.

        Raises:
            LaunchError: If nothing could be started, e.g. the program is missing.
        """
        ...

    def close(self) -> None:
        """Stop all processes, the warm server included; may be called twice."""
        ...
