"""Output of a run that its log tells: found, read, and kept as step records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from pytest_nemoperf.errors import RecordError, count_text
from pytest_nemoperf.flops.conventions import find_convention
from pytest_nemoperf.flops.count import num_flops_per_token
from pytest_nemoperf.frameworks.launch import noted_environment, noted_launch
from pytest_nemoperf.frameworks.protocol import Framework, LogWriter
from pytest_nemoperf.frameworks.steps import read_step_records
from pytest_nemoperf.json_codec import to_json_line
from pytest_nemoperf.logs.context import LogContext
from pytest_nemoperf.logs.convert import LogReading
from pytest_nemoperf.logs.log_format import LogFormat
from pytest_nemoperf.logs.presets import preset_of
from pytest_nemoperf.logs.reading import find_log_files, read_log
from pytest_nemoperf.logs.tail import LogTail
from pytest_nemoperf.measure.expected_records import expected_of
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import STEPS_FILE, RunOutput

_OWN_OUTPUT: Final = "{run_dir}/logs/rank0.log"
_OUTPUT_OF_RANKS: Final = "{run_dir}/logs/rank*.log"


def context_of(plan: Plan, *, log_format: str | LogFormat) -> LogContext:
    """Return a plan as far as a log of a format is read against it."""
    expected = expected_of(plan)
    logged_flops_per_token = None
    convention = preset_of(log_format).flops_convention
    if convention and expected.flops_per_token is not None:
        logged_flops_per_token = num_flops_per_token(
            plan.model, seq_len=plan.seq_len, convention=find_convention(convention), tp=plan.layout.tp
        )
    return LogContext(
        num_gpus=plan.layout.total_gpus,
        tokens_per_step=plan.tokens_per_step,
        seq_len=plan.seq_len,
        has_exact_tokens=expected.has_exact_tokens,
        is_rl=plan.rl is not None,
        flops_per_token=expected.flops_per_token,
        logged_flops_per_token=logged_flops_per_token,
        warmup_steps=plan.warmup_steps,
        num_samples=0 if plan.rl is None else plan.rl.num_samples,
        num_updates=plan.num_updates,
    )


def read_logged_output(
    plan: Plan, *, run_dir: Path, log_format: str | LogFormat | None = None, log_file: str | None = None
) -> RunOutput:
    """Return the output of a run that ended well, as its log tells it; afterwards its step records are in run_dir.

    Args:
        plan: Plan of the run.
        run_dir: Directory of the run.
        log_format: Name of a preset, or a format; None for the plan's.
        log_file: Pattern of the log's files; None for the plan's, empty for the preset's.

    Raises:
        RecordError: If the log is missing, can't be read, or does not tell every step of the plan.
    """
    path = run_dir / STEPS_FILE
    if not path.exists():
        log_format = plan.log_format if log_format is None else log_format
        pattern = log_pattern(plan, log_format=log_format, log_file=plan.log_file if log_file is None else log_file)
        files = _find_files(pattern, run_dir=run_dir, how=preset_of(log_format).how)
        reading = read_log(
            files,
            log_format=log_format,
            context=context_of(plan, log_format=log_format),
            num_old_bytes=_old_bytes(files, run_dir=run_dir),
        )
        if preset_of(log_format).log_format.is_clocked and len(reading.records) == plan.total_steps + 1:
            reading = _without_first(reading)
        _check_steps(reading, plan=plan, files=files, how=preset_of(log_format).how)
        lines = map(to_json_line, reading.records)
        path.write_text("".join(lines), encoding="utf-8")
    records = read_step_records(path, total_steps=plan.total_steps)
    return RunOutput(records=records, environment=noted_environment(run_dir))


def log_pattern(plan: Plan, *, log_format: str | LogFormat, log_file: str) -> str:
    """Return the pattern of a log's files: as given, else the preset's, else that of the command's own output."""
    pattern = log_file or preset_of(log_format).file
    if pattern:
        return pattern
    return _OUTPUT_OF_RANKS if plan.is_command_per_rank else _OWN_OUTPUT


def _find_files(pattern: str, *, run_dir: Path, how: str) -> list[Path]:
    launch = noted_launch(run_dir)
    cwd = Path.cwd() if launch is None else Path(launch.directory)
    advice = f"; {how}" if how else ""
    try:
        found = find_log_files(pattern, run_dir=run_dir, cwd=cwd)
    except RecordError as error:
        raise RecordError(f"the command exited with 0, but there is {error}{advice}") from None
    new = [path for path in found if launch is None or launch.has_changed(path)]
    if not new:
        raise RecordError(
            f"the command exited with 0, but did not write its log: {', '.join(map(str, found))} is as it was before "
            f"the launch; let it write there, or name its log in log_file{advice}"
        )
    return new


def _old_bytes(files: Sequence[Path], *, run_dir: Path) -> dict[Path, int]:
    """Return the bytes that earlier runs wrote, by file."""
    launch = noted_launch(run_dir)
    if launch is None:
        return dict.fromkeys(files, 0)
    return {path: launch.num_old_bytes(path) for path in files}


def _without_first(reading: LogReading) -> LogReading:
    """Return the steps without the first, which was run to start the clock but has a time all the same."""
    records = [replace(record, step=record.step - 1) for record in reading.records[1:]]
    return replace(reading, records=tuple(records), first_step=reading.first_step + 1)


def _check_steps(reading: LogReading, *, plan: Plan, files: Sequence[Path], how: str) -> None:
    subject = f"the log {', '.join(map(str, files))}"
    notes = "".join(f"; {note}" for note in reading.notes)
    if reading.steps_per_record > 1:
        raise RecordError(
            f"{subject} has a line every {reading.steps_per_record} steps, and a verdict needs each step; "
            f"{how or 'let the program log every step'}"
        )
    found = len(reading.records)
    if found < plan.total_steps:
        raise RecordError(
            f"{subject} has {found} of the plan's {count_text(plan.total_steps, 'step')} ({plan.warmup_steps} "
            f"warm-up and {plan.steps} measured), the first is its step {reading.first_step}; let the program run "
            f"as many, e.g. by {{total_steps}} in command{notes}"
        )
    if found > plan.total_steps:
        raise RecordError(
            f"{subject} has {count_text(found, 'step')} and the plan only {plan.total_steps} ({plan.warmup_steps} "
            f"warm-up and {plan.steps} measured); give the recipe steps={found - plan.warmup_steps}, or let the "
            f"program run as many as planned, e.g. by {{total_steps}} in command{notes}"
        )


def tail_of_log(plan: Plan, *, framework: Framework, run_dir: Path) -> LogTail | None:
    """Return the tail of the log that a plan names or its framework writes, for progress; None without a log."""
    log_format = plan.log_format
    log_file = plan.log_file
    if not log_format and isinstance(framework, LogWriter):
        log_format = framework.log_format(plan)
        log_file = framework.log_file(plan)
    if not log_format:
        return None
    pattern = log_pattern(plan, log_format=log_format, log_file=log_file)

    def find_files() -> Mapping[Path, int]:
        return _old_bytes(_find_files(pattern, run_dir=run_dir, how=""), run_dir=run_dir)

    return LogTail(find_files, log_format=log_format, context=context_of(plan, log_format=log_format))
