"""Checks of a log against itself: rates, TFLOP/s and clocks that do not follow from its step times. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from pytest_nemoperf.errors import RecordError, count_text
from pytest_nemoperf.logs.context import LogContext
from pytest_nemoperf.logs.merge import LoggedStep

_MAX_FACTOR: Final = 2.0
"""Their FLOPs conventions differ from ours by up to 30%; wrong units by far more."""
_MAX_OWN_FACTOR: Final = 1.3
"""The same where FLOPs are counted as the program that logs counts them: it may pad the vocabulary."""
_MAX_CLOCK_SHARE: Final = 1.5
"""Sum of the step times over the time between the lines' clocks."""
_MIN_CLOCK_SHARE: Final = 0.01
"""The same at least, of most steps: after some there is an evaluation or a checkpoint that takes far longer."""

_Causes = Sequence[tuple[float, str]]

_OF_TIMES: Final = (
    (1e3, "1000 times too much: milliseconds where seconds belong, or the reverse?"),
    (1e-3, "1000 times too little: seconds where milliseconds belong, or the reverse?"),
    (1e6, "a million times too much: microseconds where seconds belong?"),
    (1e-6, "a million times too little: seconds where microseconds belong?"),
)
_OF_RATES: Final = (
    (1e3, "1000 times too much: a rate of other than tokens, or a step time in another unit than its name says?"),
    (1e-3, "1000 times too little: thousands of tokens per second, or a step time in another unit than its name says?"),
    (1e6, "a million times too much: a rate of other than tokens?"),
    (1e-6, "a million times too little: millions of tokens per second?"),
)
_OF_TFLOPS: Final = (
    (1e3, "1000 times too much: milliseconds where seconds belong, or GFLOP/s where TFLOP/s belong?"),
    (1e-3, "1000 times too little: PFLOP/s where TFLOP/s belong, or a step time in another unit than its name says?"),
    (1e6, "a million times too much: MFLOP/s where TFLOP/s belong?"),
    (1e12, "10**12 times too much: FLOP/s where TFLOP/s belong?"),
)
"""Causes by the ratio of a figure to what it should be."""


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
                f"{gpus} = {expected:.6g}{guess(logged / expected, causes=_OF_RATES, num_gpus=context.num_gpus)}"
            )


def check_tflops(step: LoggedStep, *, tokens: int, time_sec: float, context: LogContext) -> None:
    """Check that a logged TFLOP/s/GPU follows from tokens, time and the model; conventions may differ.

    Raises:
        RecordError: If they differ by more than padding, or another convention, explains.
    """
    logged = step.values.get("tflops_per_sec_per_gpu")
    if not logged or context.flops_per_token is None or not context.has_exact_tokens:
        return  # 0 is what a program writes that has no formula for its model
    flops_per_token = context.flops_per_token
    factor = _MAX_FACTOR
    differ = "conventions differ by less"
    if context.logged_flops_per_token is not None:
        flops_per_token = context.logged_flops_per_token
        factor = _MAX_OWN_FACTOR
        differ = "counted as the program that logs counts them; padding makes less of a difference"
    rate = tokens / (time_sec * context.num_gpus)
    expected = flops_per_token * rate / 1e12
    resolution = 0.05  # a figure with one decimal says nothing of less
    if abs(logged - expected) <= resolution or expected / factor <= logged <= expected * factor:
        return
    raise RecordError(
        f"{step.subject('tflops_per_sec_per_gpu')}: {logged:.6g} TFLOP/s/GPU does not follow from "
        f"{tokens:,} tokens / {time_sec:.6g} s / {context.num_gpus} GPUs x {flops_per_token:.4g} FLOPs per "
        f"token = {expected:.4g} TFLOP/s/GPU ({differ} than {factor:g}x)"
        f"{guess(logged / expected, causes=_OF_TFLOPS, num_gpus=context.num_gpus)}"
    )


def check_clocks(steps: Sequence[LoggedStep], *, times: Mapping[int, float], interval: int) -> None:
    """Check that step times fit the clocks in the lines, if there are any.

    Raises:
        RecordError: If the steps took longer than the time between the lines, or next to nothing of it.
    """
    elapsed, total, resolution = 0.0, 0.0, 0.0
    num_pairs, num_short, num_left_out = 0, 0, 0
    for earlier, later in pairwise(steps):
        before, now = _clock_of(earlier), _clock_of(later)
        if before is None or now is None or now[0] < before[0]:
            num_left_out += 1  # no clock, or one that was set back
            continue
        num_pairs += 1
        of_pair = max(before[1], now[1])
        between, taken = now[0] - before[0], times[later.step] * interval
        num_short += taken < _MIN_CLOCK_SHARE * (between - of_pair)
        resolution = max(resolution, of_pair)
        elapsed += between
        total += taken
    # A clock that is set back ends a stretch of time, and each stretch is off by the resolution.
    is_too_long = total > _MAX_CLOCK_SHARE * (elapsed + resolution * (num_left_out + 1))
    if num_pairs == 0 or not (is_too_long or num_short > (num_pairs + 1) // 2):
        return
    left_out = ""
    if num_left_out:
        left_out = f" (without {count_text(num_left_out, 'step')} before which it was set back, or that lack it)"
    subject = (
        f"{steps[-1].where}: the steps after step {steps[0].step}{left_out} take {total:.6g} s by their step times"
    )
    if elapsed == 0:
        raise RecordError(
            f"{subject}, and their lines all have the same clock, which is exact to {resolution:g} s: they were "
            "written at once, or the clock stands; let the line of a step be written when it ends"
        )
    raise RecordError(
        f"{subject}, and {elapsed:.6g} s by the clock in their lines{guess(total / elapsed, causes=_OF_TIMES)}"
    )


def _clock_of(step: LoggedStep) -> tuple[float, float] | None:
    if "end_time_sec" in step.values:
        return step.values["end_time_sec"], 0.001
    return step.clock


def _is_near(logged: float, expected: float) -> bool:
    return expected / _MAX_FACTOR <= logged <= expected * _MAX_FACTOR


def guess(ratio: float, *, causes: _Causes, num_gpus: int = 1) -> str:
    """Return a guess at the cause of a ratio that should be 1, as the end of a sentence."""
    candidates = list(causes)
    if num_gpus > 1:
        candidates += [
            (float(num_gpus), f"{num_gpus} times too much, the number of GPUs: of all of them where one belongs?"),
            (1.0 / num_gpus, f"{num_gpus} times too little, the number of GPUs: of one where all belong?"),
        ]
    for value, text in candidates:
        if ratio > 0 and value / _MAX_FACTOR <= ratio <= value * _MAX_FACTOR and math.isfinite(ratio):
            return f"; it is about {text}"
    return "; check the units, and that the plan's batch, length and GPUs are those of the run"
