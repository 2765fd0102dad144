"""One round of a comparison: both versions of the code run the same plan, by turns or launch after launch."""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

from pytest_nemoperf.ab.side_launcher import ABSideLauncher
from pytest_nemoperf.ab.source_trees import ABTrees
from pytest_nemoperf.ab.worktree import ABSide
from pytest_nemoperf.errors import NemoPerfError, RevisionError, TurnError
from pytest_nemoperf.frameworks.protocol import Framework, RankCommand
from pytest_nemoperf.launchers.protocol import LaunchResult
from pytest_nemoperf.recipes.ab_turn import TURN_FILE, ABTurn
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import Progress, RunOutput
from pytest_nemoperf.runs.execute import run_once

_POLL_SEC = 0.2
_CAUSE_SHOWS_SEC = 10.0
"""Time that the side at fault may take to end after the other one: a hanging process gets SIGTERM, then SIGKILL."""


class NoTurnsError(NemoPerfError, RuntimeError):
    """One side's code does not implement turns: it ran all steps while the other side waited for it."""


class _StoppedError(Exception):
    """This launch was stopped because the other side's had ended, or the session ends."""


class _FailureKind(IntEnum):
    """Kinds of failures of one side; of two failed sides, the one with the lower value is reported."""

    CAUSE = 0
    WAITING = 1  # it did not hold the turn: if both time out, the other side hangs
    OTHER_ENDED = 2
    STOPPED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOutput:
    """Outputs of both sides in one round.

    Attributes:
        old: Output of the revision.
        new: Output of the working tree.
        first: The side that began: ``old`` or ``new``.
    """

    old: RunOutput
    new: RunOutput
    first: str


class ABSideRunner:
    """Launches one side's runs, in a thread of its own that lives as long as the side's helper processes.

    Args:
        side: The side that is run.
        trees: The working tree and the checkout.

    Raises:
        RevisionError: If the side has no copy of the working directory.
    """

    def __init__(self, side: ABSide, *, trees: ABTrees) -> None:
        self.side = side
        self._launcher = ABSideLauncher(side, trees=trees)
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
            is_watched=False,  # each side is load to the other, and a disturbance of both cancels
        )

    def launch(
        self, command: RankCommand, *, run_dir: Path, timeout_sec: float, on_poll: Callable[[], None]
    ) -> LaunchResult:
        """Launch a command with this side's code; see ABSideLauncher."""
        return self._launcher.launch(command, run_dir=run_dir, timeout_sec=timeout_sec, on_poll=on_poll)

    def shared(self) -> list[str]:
        """Return data outside git that the last command names; both sides use it."""
        return list(self._launcher.shared)

    def close(self) -> None:
        """End the helper processes after a run that was told to stop; may be called twice."""
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
        self._runners = {"old": ABSideRunner(old, trees=trees), "new": ABSideRunner(new, trees=trees)}
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
            plans: Plan by side; equal but for the delay that a self-test injects.
            framework: A framework that supports turns.
            run_dir: Gets a run directory for each side.
            first: The side that begins.
            block_steps: Steps of a block.
            on_progress: Called from this thread with the new side's steps.

        Raises:
            NoTurnsError: If one side's code does not implement turns.
            LaunchError: If a side failed; the text names it.
            RecordError: If a side left an impossible record.
            RevisionError: If a side uses the other side's files.
        """
        self._stop.clear()
        progress: dict[str, list[Progress]] = {"old": [], "new": []}
        futures: dict[str, Future[RunOutput]] = {}
        # Not in the run directory: it may lie on a network file system, and those have no pipes.
        directory = Path(tempfile.mkdtemp(prefix="nemoperf-turns-"))
        try:
            for name, runner in self._runners.items():
                turn = self._turn(name, directory, first=first, block_steps=block_steps)
                futures[name] = runner.start(
                    replace(plans[name], turn=turn),
                    framework=framework,
                    run_dir=run_dir / name,
                    on_progress=self._append_to(progress[name]),
                )
            token = directory / TURN_FILE
            self._await(futures, progress=progress["new"], on_progress=on_progress, token=token)
            outputs = self._outputs(futures, token=token)
            return RoundOutput(old=outputs["old"], new=outputs["new"], first=first)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def by_launches(
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
        for name in (first, self._other(first).name):
            progress: list[Progress] = []
            future = self._runners[name].start(
                plans[name], framework=framework, run_dir=run_dir / name, on_progress=self._append_to(progress)
            )
            self._await({name: future}, progress=progress, on_progress=on_progress)
            outputs |= self._outputs({name: future})
        return RoundOutput(old=outputs["old"], new=outputs["new"], first=first)

    def shared(self) -> list[str]:
        """Return data outside git that the last command of the old side names; both sides use it."""
        return self._runners["old"].shared()

    def close(self) -> None:
        """Stop all runs and helper processes; may be called twice."""
        self._stop.set()
        for runner in self._runners.values():
            runner.close()

    def _other(self, name: str) -> ABSide:
        return self.sides["new" if name == "old" else "old"]

    def _turn(self, name: str, directory: Path, *, first: str, block_steps: int) -> ABTurn:
        return ABTurn(
            directory=str(directory),
            side=self.sides[name].label,
            other=self._other(name).label,
            is_first=name == first,
            block_steps=block_steps,
        )

    def _append_to(self, progress: list[Progress]) -> Callable[[Progress | None], None]:
        """Return a callback for a side's thread: it appends to a list, and raises to end the run."""

        def on_progress(last: Progress | None) -> None:
            if self._stop.is_set():
                raise _StoppedError
            if last is not None:
                progress.append(last)

        return on_progress

    def _await(
        self,
        futures: Mapping[str, Future[RunOutput]],
        *,
        progress: Sequence[Progress],
        on_progress: Callable[[Progress | None], None],
        token: Path | None = None,
    ) -> None:
        """Wait until all runs have ended; stop a run if the other side failed, or does not implement turns."""
        running = set(futures.values())
        deadline = math.inf
        try:
            while running:
                _, running = wait(running, timeout=_POLL_SEC, return_when=FIRST_COMPLETED)
                deadline = min(deadline, time.monotonic() + self._remaining_sec(futures, token=token))
                if time.monotonic() >= deadline:
                    self._stop.set()
                last = progress[-1] if progress else None
                on_progress(last)
        except BaseException:  # a Ctrl-C too
            self._stop.set()
            wait(running)
            raise

    def _remaining_sec(self, futures: Mapping[str, Future[RunOutput]], *, token: Path | None) -> float:
        """Return the time that unfinished runs still have: no limit unless a side failed or lacks turns."""
        done = [name for name, future in futures.items() if future.done()]
        if done and token is not None and not token.exists():
            return 0.0
        kinds: list[_FailureKind] = []
        for name in done:
            error = futures[name].exception()
            if error is not None:
                kinds.append(self._failure_kind(name, error, token=token))
        if not kinds:
            return math.inf
        if min(kinds) is _FailureKind.CAUSE:
            return 0.0
        return _CAUSE_SHOWS_SEC

    def _failure_kind(self, name: str, error: BaseException, *, token: Path | None) -> _FailureKind:
        if isinstance(error, _StoppedError):
            return _FailureKind.STOPPED
        if isinstance(error, TurnError):
            return _FailureKind.OTHER_ENDED
        if isinstance(error, RevisionError) or token is None or not token.exists():
            return _FailureKind.CAUSE
        holder = token.read_text(encoding="utf-8")
        if holder in ("", self.sides[name].label):
            return _FailureKind.CAUSE
        return _FailureKind.WAITING

    def _outputs(self, futures: Mapping[str, Future[RunOutput]], *, token: Path | None = None) -> dict[str, RunOutput]:
        """Return the output of each run.

        Raises:
            NoTurnsError: If one run succeeded without a turn.
            NemoPerfError: The error of the side at fault, with the side's label before its text.
        """
        outputs: dict[str, RunOutput] = {}
        errors: dict[str, BaseException] = {}
        for name, future in futures.items():
            error = future.exception()
            if error is None:
                outputs[name] = future.result()
            else:
                errors[name] = error
        if not errors:
            return outputs
        name = min(errors, key=lambda name: self._failure_kind(name, errors[name], token=token))
        error = errors[name]
        label = self.sides[name].label
        if isinstance(error, _StoppedError):
            other = self._other(name).label
            raise NoTurnsError(f"{other} does not know turns: it ran by itself while {label} waited for it")
        if isinstance(error, NemoPerfError):
            raise type(error)(f"{label}: {error}") from error
        raise error
