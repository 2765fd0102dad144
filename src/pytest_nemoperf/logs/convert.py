"""Step records from the rows of a log, under our definitions. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import pairwise
from typing import Any, Final, get_args, get_type_hints

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.logs.context import LogContext
from pytest_nemoperf.logs.evidence import check_clocks, check_rates, check_tflops
from pytest_nemoperf.logs.log_format import RAW
from pytest_nemoperf.logs.merge import LoggedStep, merge_rows
from pytest_nemoperf.logs.rows import LogRow
from pytest_nemoperf.records.figures import Count
from pytest_nemoperf.records.step import RolloutStats, StepRecord

Convert = Callable[[Mapping[str, float]], Mapping[str, float]]
ConvertSteps = Callable[[Sequence[LoggedStep], LogContext], None]

_TIMES: Final = ("step_time_sec", "step_time_ms")
_RATES: Final = ("tokens_per_sec", "tokens_per_sec_per_gpu")
_CLOCK: Final = "end_time_sec"
_START: Final = "start_time_sec"
_PHASE: Final = "phase."
_ROLLOUT: Final = "rollout."
_BYTES: Final = {
    "peak_memory_bytes": 1.0,
    "peak_memory_mib": 2.0**20,
    "peak_memory_gb": 1e9,
    "peak_memory_gib": 2.0**30,
}
_PHASE_REL_TOL: Final = 1e-3
_MAX_NUMBER: Final = 1e30
"""Far above any number of a real step, yet small enough that no product of them overflows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogReading:
    """Steps of a log.

    Attributes:
        records: One a logged step, counted from 0.
        steps_per_record: Steps that a record is the mean of; above 1 if the log has a line for several.
        first_step: Number of the first record's step in the log.
        notes: What was left out, and why.
    """

    records: tuple[StepRecord, ...]
    steps_per_record: int
    first_step: int
    notes: tuple[str, ...] = ()


def records_of(
    rows: Iterable[LogRow],
    *,
    context: LogContext,
    convert: Convert | None = None,
    convert_steps: ConvertSteps | None = None,
) -> LogReading:
    """Return the records of a log's rows.

    Args:
        rows: In the order of the log.
        context: Plan of the run.
        convert: Quantities of a step as logged to ours; None if they are.
        convert_steps: The same for all steps in order, afterwards.

    Raises:
        RecordError: If steps are missing, told twice or impossible, or their numbers contradict each other.
    """
    steps = merge_rows(rows)
    notes: list[str] = []
    for step in steps:
        step.values = step.values if convert is None else dict(convert(step.values))
    if convert_steps is not None:
        convert_steps(steps, context)
    for step in steps:
        _check_numbers(step)
    steps = _without_timeless_ends(steps, notes=notes)
    if not steps:
        return LogReading(records=(), steps_per_record=1, first_step=0, notes=tuple(notes))
    interval = _interval(steps)
    if len(steps) > 2 and steps[1].step - steps[0].step != interval:  # noqa: PLR2004 (the first and a gap)
        left_out = steps[0]
        notes.append(
            f"{left_out.where}: step {left_out.step} was left out: the lines after it are {interval} steps apart"
        )
        steps = steps[1:]
    tokens = _tokens_of_steps(steps, interval=interval, context=context)
    times = _times_of_steps(steps, interval=interval, tokens=tokens, context=context, notes=notes)
    timed = [step for step in steps if step.step in times]
    for step in timed:
        check_rates(step, tokens=tokens[step.step], time_sec=times[step.step], context=context)
    for step in timed[context.warmup_steps :]:  # of a run that was continued, a first TFLOP/s may count the run before
        check_tflops(step, tokens=tokens[step.step], time_sec=times[step.step], context=context)
    check_clocks(timed, times=times, interval=interval)
    records = []
    for at, step in enumerate(timed):
        records.append(_record(step, at=at, tokens=tokens[step.step], time_sec=times[step.step], context=context))
    return LogReading(records=tuple(records), steps_per_record=interval, first_step=timed[0].step, notes=tuple(notes))


def step_seconds(values: Mapping[str, float], *, context: LogContext) -> float | None:
    """Return the seconds that one line says of its step, for show; None if it says none."""
    step = LoggedStep(step=0, values=dict(values))
    try:
        seconds = _time_of(step, tokens=round(values.get("tokens", context.tokens_per_step)), num_gpus=context.num_gpus)
    except (RecordError, ValueError, OverflowError):
        return None
    return seconds if seconds is not None and math.isfinite(seconds) and seconds > 0 else None


def _check_numbers(step: LoggedStep) -> None:
    """Refuse numbers beyond all reason, and drop those that only a preset knows."""
    for name, value in step.values.items():
        if math.isfinite(value) and abs(value) > _MAX_NUMBER:
            raise RecordError(f"{step.subject(name)}: {name}={value:g} is beyond {_MAX_NUMBER:g}; no step has so much")
    step.values = {name: value for name, value in step.values.items() if not name.startswith(RAW)}


def _without_timeless_ends(steps: list[LoggedStep], *, notes: list[str]) -> list[LoggedStep]:
    """Return the steps without those after the last that has a time: their lines are not there yet.

    Raises:
        RecordError: If no step has a time, or one between others has none.
    """
    sources = (*_TIMES, *_RATES, _CLOCK)
    with_time = [at for at, step in enumerate(steps) if any(name in step.values for name in sources)]
    if not with_time:
        if not steps:
            return []
        raise RecordError(
            f"{steps[0].where}: no time in the log: it tells {_names(steps[0].values)}, but neither {_or(_TIMES)} nor "
            f"{_or(_RATES)} nor {_CLOCK}; name one of them in the format"
        )
    timed = frozenset(with_time)
    for at, step in enumerate(steps[: with_time[-1]]):
        if at not in timed:
            raise RecordError(
                f"{step.where}: step {step.step} has no time, though others have one; a line of it is missing or torn"
            )
    for step in steps[with_time[-1] + 1 :]:
        notes.append(f"{step.where}: step {step.step} was left out: its line with a time is missing at the end")
    return steps[: with_time[-1] + 1]


def _interval(steps: Sequence[LoggedStep]) -> int:
    """Return the steps from one line to the next.

    Raises:
        RecordError: If it changes, but for the first line: trainers log the first step as well as every k-th.
    """
    gaps = [later.step - earlier.step for earlier, later in pairwise(steps)]
    if not gaps:
        return 1
    rest = gaps[1:] or gaps
    interval = min(rest)
    for at, gap in enumerate(gaps):
        if gap == interval or (at == 0 and len(gaps) > 1 and 0 < gap < interval):
            continue
        before, after = steps[at], steps[at + 1]
        raise RecordError(
            f"steps {before.step + interval} to {after.step - 1} are missing between {before.where} "
            f"(step {before.step}) and {after.where} (step {after.step}): their lines are torn, or were not written; "
            "look at the lines between"
        )
    return interval


def _tokens_of_steps(steps: Sequence[LoggedStep], *, interval: int, context: LogContext) -> dict[int, int]:
    tokens = {}
    total: float | None = None
    for step in steps:
        values = step.values
        count: float | None = values.get("tokens")
        if count is None and "tokens_total" in values:
            count = _difference(step, total=total, interval=interval, context=context)
        total = values.get("tokens_total", total)
        if count is None and "rollout.num_response_tokens" in values and "rollout.num_prompt_tokens" in values:
            count = values["rollout.num_response_tokens"] + values["rollout.num_prompt_tokens"]
        if count is None:
            count = _planned_tokens(step, context=context)
        if not (math.isfinite(count) and count >= 1):
            raise RecordError(f"{step.subject('tokens', 'tokens_total', 'sequences')}: tokens={count:g} must be >= 1")
        tokens[step.step] = round(count)
    return tokens


def _difference(step: LoggedStep, *, total: float | None, interval: int, context: LogContext) -> float | None:
    """Return the tokens of a step from those since the start; None for a first line after unknown steps."""
    now = step.values["tokens_total"]
    if total is not None:
        if not now > total:
            raise RecordError(
                f"{step.subject('tokens_total')}: tokens_total={now:g} after {total:g}; it must grow with each step"
            )
        return (now - total) / interval
    if context.has_exact_tokens:
        return None
    num_steps = interval if step.step + 1 >= interval else 1  # a first line before the interval is of the first step
    return now / num_steps  # of a run that was continued it is more than a step can have


def _planned_tokens(step: LoggedStep, *, context: LogContext) -> float:
    if not context.has_exact_tokens:
        raise RecordError(
            f"{step.where}: step {step.step}: the log does not tell its tokens, and the plan says only that they are "
            f"at most {context.tokens_per_step:,}; name tokens or tokens_total in the format"
        )
    if "sequences" in step.values and not context.is_rl:
        return step.values["sequences"] * context.seq_len
    return context.tokens_per_step


def _times_of_steps(
    steps: Sequence[LoggedStep], *, interval: int, tokens: Mapping[int, int], context: LogContext, notes: list[str]
) -> dict[int, float]:
    """Return seconds by step; a first step that only has a clock's reading at its end has none."""
    times: dict[int, float] = {}
    before: float | None = None
    for step in steps:
        seconds = _time_of(step, tokens=tokens[step.step], num_gpus=context.num_gpus)
        clock = step.values.get(_CLOCK)
        before = step.values.get(_START, before)
        if seconds is None and clock is not None and before is not None:
            seconds = (clock - before) / interval
        before = clock if clock is not None else before
        if seconds is None:
            if times:
                raise RecordError(f"{step.where}: step {step.step} has no time, though others have one")
            notes.append(f"{step.where}: step {step.step} was left out: it only starts the clock")
            continue
        if not (math.isfinite(seconds) and seconds > 0):
            name = next((name for name in (*_TIMES, *_RATES, _CLOCK) if name in step.values), _CLOCK)
            raise RecordError(
                f"{step.subject(name)}: {name}={step.values[name]:g} makes a step time of {seconds:g} s, which must be "
                "positive and finite"
            )
        times[step.step] = seconds
    if not times:
        raise RecordError(f"{steps[0].where}: one reading of a clock makes no step time; let the run log more steps")
    return times


def _time_of(step: LoggedStep, *, tokens: int, num_gpus: int) -> float | None:
    values = step.values
    if "step_time_sec" in values:
        return values["step_time_sec"]
    if "step_time_ms" in values:
        return values["step_time_ms"] / 1000.0
    for name, parts in (("tokens_per_sec", 1), ("tokens_per_sec_per_gpu", num_gpus)):
        if name in values:
            rate = values[name] * parts
            if not (math.isfinite(rate) and rate > 0):
                raise RecordError(f"{step.subject(name)}: {name}={values[name]:g} must be positive and finite")
            return tokens / rate
    return None


def _record(step: LoggedStep, *, at: int, tokens: int, time_sec: float, context: LogContext) -> StepRecord:
    values = step.values
    loss = values.get("loss")
    if values.get("skipped_updates", 0) > 0:
        if at >= context.warmup_steps:
            raise RecordError(
                f"{step.subject('skipped_updates')}: {values['skipped_updates']:g} optimizer updates were skipped (its "
                "gradients were not finite, or the loss scale still falls): a measured step must do its whole work; "
                "raise warmup_steps, or mend the run"
            )
        loss = None
    return StepRecord(
        step=at,
        step_time_sec=time_sec,
        tokens=tokens,
        phases=_phases(step, time_sec=time_sec),
        loss=loss,
        grad_norm=values.get("grad_norm"),
        peak_memory_bytes=_peak_memory(step),
        rollout=_rollout(step),
    )


def _peak_memory(step: LoggedStep) -> int | None:
    """Return the peak in bytes, or None; programs without a GPU write 0."""
    for name, size in _BYTES.items():
        value = step.values.get(name)
        if value is None:
            continue
        if not (math.isfinite(value) and value >= 0):
            raise RecordError(f"{step.subject(name)}: {name}={value:g} must be finite and not negative")
        return round(value * size) or None
    return None


def _phases(step: LoggedStep, *, time_sec: float) -> dict[str, float]:
    phases = {}
    for name, value in step.values.items():
        if name.startswith(_PHASE):
            if not (math.isfinite(value) and value >= 0):
                raise RecordError(f"{step.subject(name)}: {name}={value:g} must be finite and not negative")
            phases[name.removeprefix(_PHASE).removesuffix("_sec")] = value
    if not phases:
        return {}
    total = math.fsum(phases.values())
    rest = time_sec - total
    if rest < -_PHASE_REL_TOL * time_sec:
        raise RecordError(
            f"{step.where}: step {step.step}: its phases {', '.join(phases)} sum to {total:.6g} s, and the step took "
            f"{time_sec:.6g} s; name phases that don't overlap, all in seconds"
        )
    if rest > 0:
        phases["other"] = phases.get("other", 0.0) + rest
    return phases


@cache
def _counts() -> frozenset[str]:
    """Return the fields of a rollout that are whole numbers."""
    kinds = get_type_hints(RolloutStats, include_extras=True)
    return frozenset(name for name, kind in kinds.items() if Count in (kind, *get_args(kind)))


def _rollout(step: LoggedStep) -> RolloutStats | None:
    found: dict[str, Any] = {}
    for item in fields(RolloutStats):
        value = step.values.get(f"{_ROLLOUT}{item.name}")
        if value is None:
            continue
        if item.name in _counts():
            if not math.isfinite(value):
                raise RecordError(f"{step.subject(_ROLLOUT + item.name)}: {item.name}={value:g} must be finite")
            value = round(value)
        found[item.name] = value
    return RolloutStats(**found) if "num_response_tokens" in found else None


def _names(values: Mapping[str, float]) -> str:
    return ", ".join(values) or "nothing else"


def _or(names: Sequence[str]) -> str:
    return " or ".join(names)
