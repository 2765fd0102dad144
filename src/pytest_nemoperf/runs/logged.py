"""Logs of jobs that no session started, each measured as a run of a recipe."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Final

from pytest_nemoperf.errors import RecordError, count_text
from pytest_nemoperf.frameworks.logged import context_of
from pytest_nemoperf.frameworks.steps import read_step_records
from pytest_nemoperf.logs.convert import LogReading
from pytest_nemoperf.logs.event_files import event_files
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.presets import preset_of
from pytest_nemoperf.logs.reading import read_log
from pytest_nemoperf.measure.expected_records import expected_of
from pytest_nemoperf.measure.measurement import MeasuredRun, Measurement, Run, measure_run, measurement_of
from pytest_nemoperf.recipes.recipe import MIN_STEPS, Plan
from pytest_nemoperf.records.health import HEALTH_FILE, HealthReport
from pytest_nemoperf.records.provenance import LogSource
from pytest_nemoperf.records.step import STEPS_FILE, RunOutput, StepRecord
from pytest_nemoperf.runs.log_dates import date_of_log
from pytest_nemoperf.schema import read_contract
from pytest_nemoperf.verdict.judge import LOSS_REL_TOL, is_same_loss, losses_by_step
from pytest_nemoperf.verdict.rollout_bands import is_rl

STEPS_FORMAT: Final = "steps"
"""Name of the format of step records, which is no preset."""
_MIN_TIMES: Final = 4
"""Different step times from which equal records are of one run, and not of a clock too coarse to tell two apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFile:
    """Log of one run.

    Attributes:
        path: File, or folder of event files.
        health: Report on the machine's health meanwhile; None for none.
    """

    path: Path
    health: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedCase:
    """Runs of one case, read from logs.

    Attributes:
        plan: Plan of the first run, with the steps of its log.
        measurement: The numbers of the runs.
        logs: Log of each run.
        notes: Sentences on what the numbers of these logs are.
    """

    plan: Plan
    measurement: Measurement
    logs: tuple[LogSource, ...]
    notes: tuple[str, ...] = ()

    @property
    def date(self) -> str:
        """Date of the newest log."""
        return max(log.date for log in self.logs)

    @property
    def source(self) -> str:
        """Format and names of the logs, for a provenance."""
        names = ", ".join(Path(log.path).name for log in self.logs)
        intervals = {log.steps_per_record for log in self.logs}
        means = ""
        if max(intervals) > 1:
            means = f", means over {' or '.join(map(str, sorted(intervals)))} steps"
        return f"{count_text(len(self.logs), 'log')} ({self.logs[0].log_format}{means}): {names}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _LoggedRun:
    """One log as records.

    Attributes:
        source: Log and its steps.
        plan: Plan with as many steps.
        reading: Records of its steps, with notes.
        measured: The numbers.
        health_beside: Report on health in the folder of the log that was not given with it; None for none.
    """

    source: LogSource
    plan: Plan
    reading: LogReading
    measured: MeasuredRun
    health_beside: Path | None


def measure_logs(plan: Plan, *, log_format: str | LogFormat, logs: Sequence[LogFile], date: str = "") -> LoggedCase:
    """Return the measurement of logs, one run each: the plan's warm-up is dropped, all other steps count.

    Args:
        plan: Plan of the recipe; its number of steps follows from the logs.
        log_format: Name of a preset, ``steps``, or a format.
        logs: The logs.
        date: Date of all logs, ISO 8601; empty for each log's own, see log_dates.

    Raises:
        RecordError: If a log can't be read, is too short, or is another one of them again.
    """
    _check_paths([log.path for log in logs])
    runs: list[_LoggedRun] = []
    for log in logs:
        run = _read(plan, log_format=log_format, log=log, date=date)
        for other in runs:
            _check_is_other_run(run, other=other)
        runs.append(run)
    first = runs[0]
    measurement = measurement_of(first.plan, runs=[run.measured for run in runs])
    if not is_rl(measurement.workload):
        problems = tuple(_loss_problems(measurement.runs))
        measurement = replace(measurement, problems=(*measurement.problems, *problems))
    return LoggedCase(
        plan=first.plan,
        measurement=measurement,
        logs=tuple(run.source for run in runs),
        notes=tuple(_notes(runs)),
    )


def _check_paths(paths: Sequence[Path]) -> None:
    """Check that every log is there, and named once.

    Raises:
        RecordError: If one is not.
    """
    seen: dict[Path, Path] = {}
    for path in paths:
        try:
            real = path.resolve(strict=not path.exists())
        except (OSError, RuntimeError) as exc:  # RuntimeError: links in a circle
            reason = exc.strerror if isinstance(exc, OSError) else "its links lead in a circle"
            raise RecordError(f"{path}: cannot be read: {reason}; give the log of a run, a file or a folder") from None
        if not (path.is_file() or path.is_dir()):
            raise RecordError(f"{path}: is neither a file nor a folder; write what it holds to a file first")
        if real in seen:
            raise RecordError(f"{path}: is {seen[real]} again; give each run's log once, for a verdict counts runs")
        seen[real] = path


def _read(plan: Plan, *, log_format: str | LogFormat, log: LogFile, date: str) -> _LoggedRun:
    """Return a log as the records of a run.

    Raises:
        RecordError: If it can't be read, or has too few steps.
    """
    try:
        files = _files_of(log.path, log_format=log_format, log_file=plan.log_file)
        reading = _reading(files, log_format=log_format, plan=plan)
        day = date or date_of_log(files)
    except OSError as exc:
        raise RecordError(f"{log.path}: cannot be read: {exc.strerror or exc}; give a log that you may read") from None
    records = reading.records
    steps_per_record = reading.steps_per_record
    num_warmup = math.ceil(plan.warmup_steps / steps_per_record)
    num_records = records[-1].step + 1
    if num_records < num_warmup + MIN_STEPS:
        raise RecordError(
            f"{log.path}: has {count_text(num_records, 'record')} of steps, and needs {num_warmup} of warm-up and "
            f"{MIN_STEPS} more at least, for fewer show neither median nor drift; log more steps, or more often"
        )
    expected = expected_of(replace(plan, warmup_steps=num_warmup, steps=num_records - num_warmup))
    health = _read_health(log.health)
    beside = files[0].with_name(HEALTH_FILE)
    measured = measure_run(expected, RunOutput(records=records, health=health))
    if measured.run is not None:
        run = replace(
            measured.run,
            session=day.partition("T")[0],
            last_step=_own_number(records[-1], reading=reading),
        )
        measured = replace(measured, run=run)
    return _LoggedRun(
        source=LogSource(
            path=str(log.path),
            log_format=_format_name(log_format),
            date=day,
            first_step=reading.first_step,
            num_records=num_records,
            num_warmup=num_warmup,
            steps_per_record=steps_per_record,
            has_health=health is not None,
        ),
        plan=replace(
            plan, warmup_steps=num_warmup * steps_per_record, steps=(num_records - num_warmup) * steps_per_record
        ),
        reading=reading,
        measured=measured,
        health_beside=beside if health is None and beside.is_file() else None,
    )


def _reading(files: Sequence[Path], *, log_format: str | LogFormat, plan: Plan) -> LogReading:
    """Return the steps of one run's log.

    Raises:
        RecordError: If it can't be read, or has none.
    """
    if log_format != STEPS_FORMAT:
        reading = read_log(files, log_format=log_format, context=context_of(plan, log_format=log_format))
        if not reading.records:
            raise RecordError(f"{'; '.join([f'{files[0]}: tells no whole step', *reading.notes])}; give a whole log")
        return reading
    if len(files) > 1:
        names = " and ".join(map(str, files[:2]))
        raise RecordError(f"{names} are of two runs; give the step records of each as a log")
    (path,) = files
    records = read_step_records(path, total_steps=None)
    if not records:
        raise RecordError(f"{path}: is empty; give the log of a run that has trained")
    return LogReading(records=records, steps_per_record=1, first_step=0)


def _files_of(path: Path, *, log_format: str | LogFormat, log_file: str) -> list[Path]:
    """Return the files of one run's log: the file, or those in the folder with the names that the format has.

    Raises:
        RecordError: If the folder has none, or the format does not say their names.
    """
    if not path.is_dir():
        return [path]
    pattern = STEPS_FILE
    if log_format != STEPS_FORMAT:
        preset = preset_of(log_format)
        if preset.log_format.kind is LogKind.TENSORBOARD:
            return event_files([path])
        pattern = PurePath(log_file or preset.file).name
    if not pattern:
        raise RecordError(
            f"{path}: is a folder, and a log of {_format_name(log_format)} is a file; give the file in it"
        )
    for candidates in (path.glob(pattern), path.rglob(pattern)):
        found = sorted(each for each in candidates if each.is_file())
        if found:
            return found
    raise RecordError(
        f"{path}: has no file {pattern}, as a log of {_format_name(log_format)} is called; give the file itself"
    )


def _format_name(log_format: str | LogFormat) -> str:
    return log_format if isinstance(log_format, str) else f"own {log_format.kind}"


def _own_number(record: StepRecord, *, reading: LogReading) -> int:
    """Return the number of a record's last step in the whole job, from 0; the log may be of a continued job."""
    return max(reading.first_step - 1, 0) + record.step * reading.steps_per_record


def _read_health(path: Path | None) -> HealthReport | None:
    if path is None:
        return None
    return read_contract(HealthReport, path, error=RecordError, unreadable_hint="give the health.json of the run")


def _check_is_other_run(run: _LoggedRun, *, other: _LoggedRun) -> None:
    """Check that a log is not of the run that another one is of: a copy or a part of it.

    Raises:
        RecordError: If it is.
    """
    own = _times_by_number(run.reading)
    others = _times_by_number(other.reading)
    shared = own.keys() & others.keys()
    if len({own[number] for number in shared}) < _MIN_TIMES:
        return
    if all(own[number] == others[number] for number in shared):
        raise RecordError(
            f"{run.source.path}: {len(shared)} of its steps are those of {other.source.path}, times and all; give one "
            "log a run, for a verdict counts runs"
        )


def _times_by_number(reading: LogReading) -> dict[int, float]:
    return {_own_number(record, reading=reading): record.step_time_sec for record in reading.records}


def _loss_problems(runs: Sequence[Run]) -> Iterator[str]:
    """Yield a sentence if runs have other losses at the same step: logs of one recipe are of one computation."""
    for last_step, losses in losses_by_step(runs).items():
        if last_step is None or len(losses) == 1:
            continue
        low, high = min(losses), max(losses)
        if not is_same_loss(high, expected=low):
            yield (
                f"losses at step {last_step:,} are from {low:g} to {high:g} (allowed {LOSS_REL_TOL:.0%} apart): these "
                "logs are not of one recipe, or their data differ"
            )


def _notes(runs: Sequence[_LoggedRun]) -> Iterator[str]:
    for run in runs:
        yield from run.reading.notes
        if run.health_beside is not None:
            yield f"{run.health_beside} lies beside a log and was not read; --health {run.health_beside} lets it count"
    intervals = {run.source.steps_per_record for run in runs}
    if max(intervals) > 1:
        means = " or ".join(map(str, sorted(intervals)))
        yield (
            f"each time is the mean over {means} steps, as logged: slow steps are part of it, which medians over "
            "single steps leave out"
        )
    counts = [run.source.num_records * run.source.steps_per_record for run in runs]
    if min(counts) < max(counts):
        yield (
            f"the logs have from {min(counts):,} to {max(counts):,} steps; one that ended early may be of a job that "
            "failed"
        )
