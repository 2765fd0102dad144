"""Checks of a log against itself: rates, TFLOP/s and clocks that do not follow from its step times. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.logs.context import LogContext
from pytest_nemoperf.logs.merge import LoggedStep

_MAX_FACTOR: Final = 2.0
"""Their FLOPs conventions differ from ours by up to 30%; wrong units by far more."""
_MAX_CLOCK_SHARE: Final = 1.5
"""Sum of the step times over the time between the lines' clocks."""
_MIN_CLOCK_SHARE: Final = 0.01
"""The same at least, of most steps: after some there is an evaluation or a checkpoint that takes far longer."""


def check_rates(step: LoggedStep, *, tokens: int, time_sec: float, context: LogContext) -> None:
    """Check that logged tokens per second follow from tokens and time.

    Raises:
        RecordError: If they differ by more than a factor of 2.
    """
    for name, parts in (("tokens_per_sec", 1), ("tokens_per_sec_per_gpu", context.num_gpus)):
        logged = step.values.get(name)
        if logged is None:
            continue
        expected = tokens / (time_sec * parts)
        if not _is_near(logged, expected):
            gpus = f" / {context.num_gpus} GPUs" if parts > 1 else ""
            raise RecordError(
                f"{step.subject(name)}: {name}={logged:.6g} does not follow from {tokens:,} tokens / {time_sec:.6g} s"
                f"{gpus} = {expected:.6g}{guess(logged / expected, num_gpus=context.num_gpus)}"
            )


def check_tflops(step: LoggedStep, *, tokens: int, time_sec: float, context: LogContext) -> None:
    """Check that a logged TFLOP/s/GPU follows from tokens, time and the model; conventions may differ.

    Raises:
        RecordError: If they differ by more than a factor of 2.
    """
    logged = step.values.get("tflops_per_sec_per_gpu")
    if not logged or context.flops_per_token is None or not context.has_exact_tokens:
        return  # 0 is what a program writes that has no formula for its model
    rate = tokens / (time_sec * context.num_gpus)
    expected = context.flops_per_token * rate / 1e12
    resolution = 0.05  # a figure with one decimal says nothing of less
    if abs(logged - expected) <= resolution or _is_near(logged, expected):
        return
    raise RecordError(
        f"{step.subject('tflops_per_sec_per_gpu')}: {logged:.6g} TFLOP/s/GPU does not follow from "
        f"{tokens:,} tokens / {time_sec:.6g} s / {context.num_gpus} GPUs x {context.flops_per_token:.4g} FLOPs per "
        f"token = {expected:.4g} TFLOP/s/GPU (conventions differ by less than {_MAX_FACTOR:g}x)"
        f"{guess(logged / expected, num_gpus=context.num_gpus)}"
    )


def check_clocks(steps: Sequence[LoggedStep], *, times: Mapping[int, float], interval: int) -> None:
    """Check that step times fit the clocks in the lines, if there are any.

    Raises:
        RecordError: If the steps took longer than the time between the lines, or next to nothing of it.
    """
    elapsed, total, resolution = 0.0, 0.0, 0.0
    num_short = 0
    for earlier, later in pairwise(steps):
        before, now = _clock_of(earlier), _clock_of(later)
        if before is None or now is None or now[0] < before[0]:
            return  # no clock, or one that was set back
        resolution = max(before[1], now[1])
        between, taken = now[0] - before[0], times[later.step] * interval
        num_short += taken < _MIN_CLOCK_SHARE * (between - resolution)
        elapsed += between
        total += taken
    is_too_long = total > _MAX_CLOCK_SHARE * (elapsed + resolution)
    if is_too_long or num_short > len(steps) // 2:
        raise RecordError(
            f"{steps[-1].where}: the steps after step {steps[0].step} take {total:.6g} s by their step times, and "
            f"{elapsed:.6g} s by the clock in their lines{guess(total / max(elapsed, resolution), num_gpus=1)}"
        )


def _clock_of(step: LoggedStep) -> tuple[float, float] | None:
    if "end_time_sec" in step.values:
        return step.values["end_time_sec"], 0.001
    return step.clock


def _is_near(logged: float, expected: float) -> bool:
    return expected / _MAX_FACTOR <= logged <= expected * _MAX_FACTOR


def guess(ratio: float, *, num_gpus: int) -> str:
    """Return a guess at the cause of a ratio that should be 1, as the end of a sentence."""
    candidates = [
        (1e3, "1000 times too much: milliseconds where seconds belong, or the reverse?"),
        (1e-3, "1000 times too little: seconds where milliseconds belong, or the reverse?"),
        (1e6, "a million times too much: microseconds, or FLOP/s where TFLOP/s belong?"),
        (1e-6, "a million times too little: seconds where microseconds belong?"),
        (1e12, "10**12 times too much: FLOP/s where TFLOP/s belong?"),
    ]
    if num_gpus > 1:
        candidates += [
            (float(num_gpus), f"{num_gpus} times too much, the number of GPUs: of all of them where one belongs?"),
            (1.0 / num_gpus, f"{num_gpus} times too little, the number of GPUs: of one where all belong?"),
        ]
    for value, text in candidates:
        if ratio > 0 and value / _MAX_FACTOR <= ratio <= value * _MAX_FACTOR and math.isfinite(ratio):
            return f"; it is about {text}"
    return "; check the units, and that the plan's batch, length and GPUs are those of the run"
