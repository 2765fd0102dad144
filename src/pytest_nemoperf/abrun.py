"""One round of a comparison: both versions of the code run the same plan, by turns or one after the other."""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

from pytest_nemoperf.ablook import ABWatcher
from pytest_nemoperf.abswap import command_of, shared_data, working_directory
from pytest_nemoperf.abtrees import ABTrees
from pytest_nemoperf.errors import NemoPerfError, RevisionError, TurnError
from pytest_nemoperf.frameworks.protocol import Framework, RankCommand
from pytest_nemoperf.launchers.local import LocalLauncher
from pytest_nemoperf.launchers.protocol import LaunchResult
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.records import Progress, RunOutput
from pytest_nemoperf.runner import run_once
from pytest_nemoperf.turn import TURN_FILE, ABTurn
from pytest_nemoperf.worktree import ABSide

_POLL_SEC = 0.2
_CAUSE_SHOWS_SEC = 10.0
"""How long the side at fault may take to end after the other one did: a hanging process is asked to, then killed."""


class NoTurnsError(NemoPerfError, RuntimeError):
    """One side's code does not know turns: it ran by itself while the other waited for it."""


class _StoppedError(Exception):
    """This launch was ended because the other one had ended, or the session does."""


class _Blame(IntEnum):
    """What the failure of one side says of the cause, the most first."""

    CAUSE = 0
    WAITED = 1  # it had not the turn: where both run out of time, the other one hangs
    LEFT_ALONE = 2
    STOPPED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOutput:
    """What both sides left in one round.

    Attributes:
        old: Of the revision.
        new: Of the working tree.
        first: Which of the two began: ``old`` or ``new``.
    """

    old: RunOutput
    new: RunOutput
    first: str


class ABSideRunner:
    """Launches one side's runs, in a thread of its own that lives as long as the side's helper processes.

    Args:
        side: Whose code.
        trees: The working tree and the checkout.

    Raises:
        RevisionError: If the side has no copy of the working directory.
    """

    def __init__(self, side: ABSide, *, trees: ABTrees) -> None:
        self.side = side
        self._trees = trees
        self.shared: list[str] = []
        self._watcher = ABWatcher(side, trees=trees)
        self._launcher = LocalLauncher(cwd=working_directory(side, trees=trees))
        # The kernel takes the end of the thread that started a helper for its parent's death.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"perf-{side.name}")

    def start(
        self, plan: Plan, *, framework: Framework, run_dir: Path, on_progress: Callable[[Progress | None], None]
    ) -> Future[RunOutput]:
        """Start a run; on_progress is called from another thread, and may end the run by raising."""
        return self._thread.submit(
            run_once,
            plan,
            framework=framework,
            launcher=self,
            run_dir=run_dir,
            on_progress=on_progress,
            is_watched=False,  # each side is other load to the other, and what disturbs both cancels
        )

    def launch(
        self, command: RankCommand, *, run_dir: Path, timeout_sec: float, on_poll: Callable[[], None]
    ) -> LaunchResult:
        """Launch a command with this side's code.

        Raises:
            LaunchError: If nothing could be started.
            RevisionError: If the command, or a process it starts, uses files that this side must have of its own.
        """
        self.shared = shared_data(command, trees=self._trees)
        own = self._watcher.instrument(command_of(self.side, command, trees=self._trees), run_dir=run_dir)

        def poll() -> None:
            on_poll()
            self._watcher.check_processes(self._launcher.processes)

        result = self._launcher.launch(own, run_dir=run_dir, timeout_sec=timeout_sec, on_poll=poll)
        self._watcher.check_notes(run_dir)
        return result

    def close(self) -> None:
        """End the helper processes, once a run that was told to stop has; may be called twice."""
        with suppress(RuntimeError):  # the thread has ended already
            self._thread.submit(lambda: None).result()
        self._launcher.close()
        self._thread.shutdown()


class ABRunner:
    """Runs rounds of a plan on two sides.

    Args:
        old: The revision.
        new: The working tree.
        trees: The working tree and the checkout, once they are set up.

    Raises:
        RevisionError: If the old side has no copy of the working directory.
    """

    def __init__(self, old: ABSide, new: ABSide, *, trees: ABTrees) -> None:
        self.sides: Mapping[str, ABSide] = {"old": old, "new": new}
        self._runners = {side.name: ABSideRunner(side, trees=trees) for side in (old, new)}
        self._stop = threading.Event()

    def by_turns(
        self,
        plans: Mapping[str, Plan],
        *,
        framework: Framework,
        run_dir: Path,
        first: str,
        block_steps: int,
        on_progress: Callable[[Progress | None], None],
    ) -> RoundOutput:
        """Run both sides at the same time, by turns.

        Args:
            plans: By side; alike but for what a self-test changes.
            framework: Whose ranks know turns.
            run_dir: Takes a run directory for each side.
            first: The side that begins.
            block_steps: Steps of a block.
            on_progress: Called from this thread with the new side's steps.

        Raises:
            NoTurnsError: If one side's code is older than turns.
            LaunchError: If a side failed; the text names it.
            RecordError: If a side left an impossible record.
            RevisionError: If a side uses the other side's files.
        """
        self._stop.clear()
        seen: list[Progress] = []
        # Pipes have no business in a run directory that may lie on a network file system.
        directory = Path(tempfile.mkdtemp(prefix="nemoperf-turns-"))
        try:
            futures = {
                name: runner.start(
                    replace(plans[name], turn=self._turn(name, directory, first=first, block_steps=block_steps)),
                    framework=framework,
                    run_dir=run_dir / name,
                    on_progress=self._follow(seen if name == "new" else []),
                )
                for name, runner in self._runners.items()
            }
            self._await(futures, seen=seen, on_progress=on_progress, token=directory / TURN_FILE)
            outputs = self._outputs(futures, token=directory / TURN_FILE)
            return RoundOutput(old=outputs["old"], new=outputs["new"], first=first)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def one_after_the_other(
        self,
        plans: Mapping[str, Plan],
        *,
        framework: Framework,
        run_dir: Path,
        first: str,
        on_progress: Callable[[Progress | None], None],
    ) -> RoundOutput:
        """Launch one side, then the other; see by_turns."""
        self._stop.clear()
        outputs: dict[str, RunOutput] = {}
        for name in (first, *(name for name in self._runners if name != first)):
            seen: list[Progress] = []
            future = self._runners[name].start(
                plans[name], framework=framework, run_dir=run_dir / name, on_progress=self._follow(seen)
            )
            self._await({name: future}, seen=seen, on_progress=on_progress)
            outputs |= self._outputs({name: future})
        return RoundOutput(old=outputs["old"], new=outputs["new"], first=first)

    def shared(self) -> list[str]:
        """Return data that git does not have and the last command of the old side named: both sides use it."""
        return list(self._runners["old"].shared)

    def close(self) -> None:
        """Stop whatever runs; may be called twice."""
        self._stop.set()
        for runner in self._runners.values():
            runner.close()

    def _turn(self, name: str, directory: Path, *, first: str, block_steps: int) -> ABTurn:
        (other,) = (side for side in self.sides.values() if side.name != name)
        return ABTurn(
            directory=str(directory),
            side=self.sides[name].label,
            other=other.label,
            is_first=name == first,
            block_steps=block_steps,
        )

    def _follow(self, seen: list[Progress]) -> Callable[[Progress | None], None]:
        def on_progress(last: Progress | None) -> None:
            if self._stop.is_set():
                raise _StoppedError
            if last is not None:
                seen.append(last)

        return on_progress

    def _await(
        self,
        futures: Mapping[str, Future[RunOutput]],
        *,
        seen: list[Progress],
        on_progress: Callable[[Progress | None], None],
        token: Path | None = None,
    ) -> None:
        """Wait until none runs; a run is stopped whose other side failed, or does not know turns."""
        running = set(futures.values())
        deadline = math.inf
        try:
            while running:
                _, running = wait(running, timeout=_POLL_SEC, return_when=FIRST_COMPLETED)
                patience_sec = self._patience_sec(futures, token=token)
                deadline = min(deadline, time.monotonic() + patience_sec)
                if time.monotonic() >= deadline:
                    self._stop.set()
                on_progress(seen[-1] if seen else None)
        except BaseException:  # a Ctrl-C too
            self._stop.set()
            wait(running)
            raise

    def _patience_sec(self, futures: Mapping[str, Future[RunOutput]], *, token: Path | None) -> float:
        """Return how long a run may go on, now that its other side has ended: forever if that ended well."""
        done = {name: future.exception() for name, future in futures.items() if future.done()}
        if done and token is not None and not token.exists():
            return 0.0
        blames = [self._blame(name, error, token=token) for name, error in done.items() if error is not None]
        if not blames:
            return math.inf
        return 0.0 if min(blames) is _Blame.CAUSE else _CAUSE_SHOWS_SEC

    def _blame(self, name: str, error: BaseException, *, token: Path | None) -> _Blame:
        if isinstance(error, _StoppedError):
            return _Blame.STOPPED
        if isinstance(error, TurnError):
            return _Blame.LEFT_ALONE
        if isinstance(error, RevisionError):
            return _Blame.CAUSE
        has_turn = token.read_text(encoding="utf-8") if token is not None and token.exists() else ""
        return _Blame.CAUSE if has_turn in ("", self.sides[name].label) else _Blame.WAITED

    def _outputs(self, futures: Mapping[str, Future[RunOutput]], *, token: Path | None = None) -> dict[str, RunOutput]:
        """Return what all runs left.

        Raises:
            NoTurnsError: If one run ended well before the two had met.
            NemoPerfError: Of the type that the side at fault has met; the text names it.
        """
        errors = {name: error for name, future in futures.items() if (error := future.exception()) is not None}
        if not errors:
            return {name: future.result() for name, future in futures.items()}
        name = min(errors, key=lambda name: self._blame(name, errors[name], token=token))
        error, label = errors[name], self.sides[name].label
        if isinstance(error, _StoppedError):
            (other,) = (side.label for side in self.sides.values() if side.name != name)
            raise NoTurnsError(f"{other} does not know turns: it ran by itself while {label} waited for it")
        if isinstance(error, NemoPerfError):
            raise type(error)(f"{label}: {error}") from error
        raise error
