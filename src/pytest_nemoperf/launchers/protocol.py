"""What a launcher must be able to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from pytest_nemoperf.frameworks.protocol import RankCommand


class LaunchStatus(StrEnum):
    """How a launch ended; never its cause, which the ranks' error files name."""

    OK = "ok"
    FAILED = "failed"
    TIMED_OUT = "timed_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankExit:
    """A process that did not end by itself with 0, before the launcher began to stop the others.

    Attributes:
        rank: Which.
        exit_code: Negative for a signal, as in subprocess.
    """

    rank: int
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchResult:
    """What is left of a launch when none of its processes lives any more.

    Attributes:
        status: How it ended.
        failures: Processes that failed by themselves, first one first.
        logs: Combined standard output and error of each process, by rank.
    """

    status: LaunchStatus
    failures: tuple[RankExit, ...]
    logs: tuple[Path, ...]


class Launcher(Protocol):
    """Starts the ranks of one run at a time and leaves none behind."""

    def launch(
        self, command: RankCommand, *, run_dir: Path, timeout_sec: float, on_poll: Callable[[], None]
    ) -> LaunchResult:
        """Start, wait, time out, stop; logs go to ``run_dir/logs``.

        Args:
            command: What to start.
            run_dir: Working files of the run.
            timeout_sec: Wall-clock limit from start to the end of the last process.
            on_poll: Called a few times a second meanwhile, to show progress.

        Raises:
            LaunchError: If nothing could be started, e.g. the program is missing.
        """
        ...

    def close(self) -> None:
        """Stop whatever runs, the warm server included; may be called twice."""
        ...
