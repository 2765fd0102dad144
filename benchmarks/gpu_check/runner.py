"""Run of the stages: one after another, each within its limit, with the archive kept up to date."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final

from gpu_check.archive import write_archive
from gpu_check.findings import FINDINGS_FILE, read_findings
from gpu_check.process import ENDING_SEC, program_command, run_limited, stage_environment
from gpu_check.programs.program import Exit
from gpu_check.progress import Progress
from gpu_check.stages import SelectionError, Stage
from gpu_check.state import Outcome, StageState, State
from gpu_check.summary import write_summary

LOG_FILE = "log.txt"
_RESERVE_SEC: Final = ENDING_SEC + 5.0
"""Time to end a stage at its limit, and to write the archive."""
_OUTCOMES: Final[Mapping[int, Outcome]] = {
    Exit.PASSED: Outcome.PASSED,
    Exit.FAILED: Outcome.FAILED,
    Exit.NOT_HERE: Outcome.NOT_HERE,
    Exit.NOT_JUDGED: Outcome.NOT_JUDGED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One start of the check.

    Attributes:
        root: Root of the checkout.
        folder: Folder of the state, the stages' folders and the summary.
        archive: Archive of it.
        system: Name of the system that was found.
        is_cpu: Stages take their stand-ins for a machine without GPUs.
        deadline: End of this start by the monotonic clock: stages are cut so that all is written before it.
        nodeids: Perf tests that are there; None if no stage needs one.
        num_gpus: GPUs that can be seen.
        stretch: Factor of the limits of single stages, for a slow or busy machine.
    """

    root: Path
    folder: Path
    archive: Path
    system: str
    is_cpu: bool
    deadline: float
    nodeids: Sequence[str] | None
    num_gpus: int = 0
    stretch: float = 1.0


def run_stages(check: Check, stages: Sequence[Stage], *, state: State, progress: Progress) -> None:
    """Run stages that have no final outcome yet, and keep state, summary and archive after each.

    Raises:
        KeyboardInterrupt: If it was interrupted; the stage that ran is interrupted, and all is kept.
    """
    for number, stage in enumerate(stages, start=1):
        before = state.stages.get(stage.name)
        if before is not None and before.outcome.is_final:
            progress.say(f"{stage.name}: {before.outcome} on {before.date}, not run again (--again)")
            continue
        limit_sec = min(stage.limit_sec * check.stretch, check.deadline - time.monotonic() - _RESERVE_SEC)
        least_sec = stage.least_sec(is_cpu=check.is_cpu)
        if limit_sec < least_sec:
            progress.say(
                f"{stage.name}: left for the next start; it needs {least_sec:.0f} s, and this one has "
                f"{max(0.0, limit_sec):.0f} s left"
            )
            continue
        progress.begin(f"[{number}/{len(stages)}] {stage.name}", limit_sec=limit_sec)
        start = time.monotonic()
        outcome, detail = Outcome.INTERRUPTED, "ended by a signal"
        try:
            outcome, detail = _run_stage(check, stage, limit_sec=limit_sec, progress=progress)
        finally:
            seconds = time.monotonic() - start
            state.stages[stage.name] = StageState(
                outcome=outcome, seconds=seconds, limit_sec=limit_sec, date=_now(), detail=detail
            )
            progress.end(f"{stage.name}: {outcome} in {seconds:.0f} s" + (f"; {detail}" if detail else ""))
            keep(check, state)


def keep(check: Check, state: State) -> None:
    """Write state, summary and archive."""
    state.write(check.folder)
    write_summary(check.folder, state=state)
    write_archive(check.archive, folder=check.folder)


def _run_stage(check: Check, stage: Stage, *, limit_sec: float, progress: Progress) -> tuple[Outcome, str]:
    """Return the outcome of a stage, and its reason unless the findings have it."""
    missing = missing_distributions(stage.distributions)
    if missing:
        return Outcome.NOT_HERE, f"{' and '.join(missing)} is not installed for this interpreter"
    if not check.is_cpu and check.num_gpus < stage.least_gpus:
        return Outcome.NOT_HERE, f"it needs {stage.least_gpus} GPUs, and {check.num_gpus} can be seen"
    folder = check.folder / stage.name
    arguments = [argument.format(folder=folder) for argument in stage.arguments]
    selection = stage.selection(is_cpu=check.is_cpu)
    if selection is not None and check.nodeids is not None:
        try:
            picked = selection.pick(check.nodeids, stage=stage.name)
        except SelectionError as error:
            return Outcome.BROKEN, str(error)
        arguments.extend(f"--test={nodeid}" for nodeid in picked)
    folder.mkdir(exist_ok=True)
    (folder / FINDINGS_FILE).unlink(missing_ok=True)
    log = folder / LOG_FILE
    command = program_command(stage.program, f"--folder={folder}", f"--system={check.system}", *arguments)
    status = run_limited(
        command,
        log=log,
        cwd=check.root,
        env=stage_environment(check.root / "benchmarks"),
        limit_sec=limit_sec,
        on_poll=lambda seconds: progress.show(seconds, log=log),
    )
    if status is None:
        return Outcome.TIMED_OUT, f"ended at its limit of {limit_sec:.0f} s; what it found until then is kept"
    outcome = _OUTCOMES.get(status, Outcome.BROKEN)
    if outcome is Outcome.BROKEN:
        return outcome, f"its program ended with status {status}; see {log}"
    findings = read_findings(folder)
    sentences = [*findings.problems, *findings.unjudged]
    return outcome, sentences[0].splitlines()[0] if sentences else ""


def missing_distributions(names: Sequence[str]) -> list[str]:
    """Return those of some distributions that this interpreter does not have."""
    missing = []
    for name in names:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    return missing


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
