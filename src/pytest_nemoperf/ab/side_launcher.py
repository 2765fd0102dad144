"""Launcher of one side of a comparison: commands run that side's code, and are watched for the other side's files."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from pytest_nemoperf.ab.commands import command_of, shared_data, working_directory
from pytest_nemoperf.ab.opened_files import ABWatcher
from pytest_nemoperf.ab.source_trees import ABTrees
from pytest_nemoperf.ab.worktree import ABSide
from pytest_nemoperf.frameworks.launch import move_launch
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.launchers.local import LocalLauncher
from pytest_nemoperf.launchers.protocol import LaunchResult


class ABSideLauncher:
    """Launches commands with one side's code; keeps its helper processes until it is closed.

    Args:
        side: The side that is run.
        trees: The working tree and the checkout.
        directory: Working directory of the commands in the working tree; None for this process's own.

    Attributes:
        shared: Data outside git that the last command names; both sides use it.

    Raises:
        RevisionError: If the side has no copy of the working directory.
    """

    def __init__(self, side: ABSide, *, trees: ABTrees, directory: Path | None = None) -> None:
        self._side = side
        self._trees = trees
        self._directory = directory
        self._watcher = ABWatcher(side, trees=trees)
        self._working_directory = working_directory(side, trees=trees, directory=directory)
        self._launcher = LocalLauncher(cwd=self._working_directory)
        self.shared: list[str] = []

    def launch(
        self,
        command: RankCommand,
        *,
        run_dir: Path,
        timeout_sec: float,
        on_poll: Callable[[], None],
        may_be_lacking: Collection[str] = (),
    ) -> LaunchResult:
        """Launch a command with this side's code; see Launcher.

        Args:
            command: The processes to start.
            run_dir: Working files of the run.
            timeout_sec: Wall-clock limit.
            on_poll: Called a few times a second during the launch.
            may_be_lacking: Arguments that may name what the old side lacks.

        Raises:
            LaunchError: If nothing could be started.
            RevisionError: If the command, or a process it starts, uses files of the other side.
        """
        self.shared = shared_data(command, trees=self._trees)
        own = command_of(
            self._side, command, trees=self._trees, directory=self._directory, may_be_lacking=may_be_lacking
        )
        move_launch(run_dir, directory=self._working_directory)
        own = self._watcher.instrument(own, run_dir=run_dir)

        def poll() -> None:
            on_poll()
            self._watcher.check_processes(self._launcher.processes)

        result = self._launcher.launch(own, run_dir=run_dir, timeout_sec=timeout_sec, on_poll=poll)
        self._watcher.check_notes(run_dir)
        return result

    def close(self) -> None:
        """Stop all processes, the helpers included; may be called twice."""
        self._launcher.close()
