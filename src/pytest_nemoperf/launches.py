"""Launches of a plan, one after another, until they say enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.expected import expected_of
from pytest_nemoperf.health import health_problems
from pytest_nemoperf.launchers.local import LocalLauncher
from pytest_nemoperf.measure import Measurement, measure_outputs, unreadable
from pytest_nemoperf.replay import TRY_SUFFIXES
from pytest_nemoperf.runfolders import SessionFolder
from pytest_nemoperf.runner import run_once
from pytest_nemoperf.steadiness import run_drift

if TYPE_CHECKING:
    from pytest_nemoperf.frameworks.protocol import Framework
    from pytest_nemoperf.progress import Progress
    from pytest_nemoperf.recipe import Plan
    from pytest_nemoperf.records import RunOutput


_MAX_UNHEALTHY_TRIES = 2  # what disturbs a machine twice in a row seldom goes away for a third launch


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """What the launches of a case came to.

    Attributes:
        measurement: What was measured.
        folders: Of the launches that count, in order, inside the case's own.
        unreadable: Why the last one's records could not be read; empty if all could.
    """

    measurement: Measurement
    folders: tuple[str, ...]
    unreadable: str = ""


class Launches:
    """Launches plans on this machine.

    Args:
        root: Where this session gets a folder when it first asks for one, with one for each case in it.
    """

    def __init__(self, root: Path) -> None:
        self.session_folder = SessionFolder(root)
        self.launcher = LocalLauncher()

    def until(
        self,
        is_enough: Callable[[Measurement], bool],
        *,
        plan: Plan,
        framework: Framework,
        limit: int,
        progress: Progress,
    ) -> Launched:
        """Launch a plan again and again and return what was measured; unreadable records make it INVALID.

        A run whose steps have not settled, or whose machine was not healthy, is dropped and launched again, twice at
        most: what passes, like other load on the host, is gone then; what stays makes the case INVALID.

        Args:
            is_enough: Asked after each launch.
            plan: What to launch.
            framework: Who trains it.
            limit: Launches at most, for the progress that is shown; is_enough keeps to it.
            progress: Shows what goes on.

        Raises:
            LaunchError: If ranks failed, hung or were killed.
        """
        outputs: list[RunOutput] = []
        folders: list[str] = []
        while True:
            number = len(outputs) + 1
            folders.append("")
            try:
                with progress.run(plan, number=number, num_runs=limit):
                    output = self._sound_run(
                        plan, framework=framework, number=number, folders=folders, progress=progress
                    )
            except RecordError as exc:
                reason = f"run {number}: {exc}"
                measurement = unreadable(plan, reason=reason)
                return Launched(measurement=measurement, folders=tuple(folders), unreadable=reason)
            outputs.append(output)
            measurement = measure_outputs(plan, outputs=outputs)
            if measurement.problems or is_enough(measurement):
                return Launched(measurement=measurement, folders=tuple(folders))

    def _sound_run(
        self, plan: Plan, *, framework: Framework, number: int, folders: list[str], progress: Progress
    ) -> RunOutput:
        """Launch one run until a try of it is sound, and return the last try; its folder ends the list."""
        drifts_pct: list[float | None] = []
        for attempt, suffix in enumerate(TRY_SUFFIXES, start=1):
            folders[-1] = f"run-{number}{suffix}"
            output = self.once(plan, framework=framework, folder=folders[-1], progress=progress)
            drift = run_drift(expected_of(plan), records=output.records)
            unhealthy = health_problems(output.health)
            is_last = attempt == len(TRY_SUFFIXES) or (unhealthy and attempt == _MAX_UNHEALTHY_TRIES)
            if is_last or not (drift or unhealthy):
                break
            problem = drift.text if drift else unhealthy[0]
            progress.say(f"run {number} is dropped and launched again: {problem}")
            if not unhealthy:  # other load is no drift of the workload, nor of a machine at rest
                drifts_pct.append(drift.pct if drift else None)
        return replace(output, earlier_drifts_pct=tuple(drifts_pct))

    def once(self, plan: Plan, *, framework: Framework, folder: str, progress: Progress) -> RunOutput:
        """Launch a plan once, in a folder of its case.

        Raises:
            LaunchError: If ranks failed, hung or were killed.
            RecordError: If they ended well but left an incomplete or impossible record.
        """
        output = run_once(
            plan,
            framework=framework,
            launcher=self.launcher,
            run_dir=self.case_dir(plan.case) / folder,
            on_progress=progress.step,
        )
        progress.finish(output.records)
        return output

    def case_dir(self, case: str) -> Path:
        """Return the folder of a case."""
        return self.session_folder.path / case

    def close(self) -> None:
        """Stop every process; may be called twice."""
        self.launcher.close()
        self.session_folder.release()
