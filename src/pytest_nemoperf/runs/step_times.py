"""Check of recorded step times against the clock outside: the run's length, and when its records appeared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.records.step import StepRecord

_MAX_RECORDED_SHARE: Final = 1.5
"""Sum of the step times over the time that they took; above 1 only where ranks take turns in being the slowest."""
_MIN_RECORDED_SHARE: Final = 0.01
"""The same where it is too small: a script may evaluate between its steps, but not for a hundred times as long."""
_SHORTEST_SEC: Final = 0.05
"""Time of all steps together below which a run shows no speed: a hiccup of the system takes as long."""
_MIN_LIVED_SHARE: Final = 0.005
"""Share of a run that so short steps must take at least; the rest is imports and set-up."""
_SURE_SPAN_SEC: Final = 0.6
"""Time between two sightings of records that is long beside the time between two looks."""
_SMALLER_UNITS: Final = ((1e3, "milliseconds"), (1e6, "microseconds"), (1e9, "nanoseconds"))
_MIN_UNIT_RATIO: Final = 3.0
"""Times that are only a little too long are not in another unit."""
_SAME_ORDER: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """First sight of a step's record while the run goes on.

    Attributes:
        step: Counted from 0.
        time_sec: Monotonic clock.
    """

    step: int
    time_sec: float


def check_step_times(
    records: Sequence[StepRecord], *, lived_sec: float, arrivals: Sequence[Arrival], is_foreign: bool = True
) -> None:
    """Check that recorded steps took about as long as a clock outside says.

    Args:
        records: Every step of the run.
        lived_sec: Time from the start of the run to its end.
        arrivals: Sightings of its steps; records that were written all at once show nothing.
        is_foreign: The times are another program's, which may be in another unit; the native engine has its own.

    Raises:
        RecordError: If they took longer than the run, or their records came far apart for so short steps; the
            message guesses the unit.
    """
    recorded_sec = math.fsum(record.step_time_sec for record in records)
    if recorded_sec > _MAX_RECORDED_SHARE * lived_sec:
        raise RecordError(
            f"the recorded steps took {recorded_sec:.3g} s, but the run only {lived_sec:.3g} s from its start to its "
            f"end: {_reason_for_more(recorded_sec / lived_sec, recorded_sec=recorded_sec)}; write the times of its own "
            "steps, in seconds"
        )
    if not is_foreign:
        return
    _check_arrivals(records, arrivals=arrivals)
    is_short = recorded_sec < min(_SHORTEST_SEC, _MIN_LIVED_SHARE * lived_sec)
    if is_short and lived_sec > _SURE_SPAN_SEC:
        raise RecordError(
            f"the recorded steps took {recorded_sec:.3g} s together, in a run of {lived_sec:.3g} s from its start to "
            "its end: either seconds are read as milliseconds, or there is too little to measure; write the time of "
            "the whole step, in seconds, and let steps take longer"
        )


def _check_arrivals(records: Sequence[StepRecord], *, arrivals: Sequence[Arrival]) -> None:
    """Check that records that came one after the other are not of far shorter steps.

    Raises:
        RecordError: If they are.
    """
    if not arrivals:
        return
    first = arrivals[0]
    for arrival in arrivals:  # the last of the steps that were seen together
        if arrival.time_sec == first.time_sec:
            first = arrival
    last = arrivals[-1]
    span_sec = last.time_sec - first.time_sec
    if span_sec < _SURE_SPAN_SEC:
        return
    between = [record.step_time_sec for record in records if first.step < record.step <= last.step]
    recorded_sec = math.fsum(between)
    if between and recorded_sec < _MIN_RECORDED_SHARE * span_sec:
        steps = f"steps {first.step + 1} to {last.step}" if len(between) > 1 else f"step {last.step}"
        raise RecordError(
            f"{steps} took {recorded_sec:.3g} s by the records, which came "
            f"{span_sec:.3g} s apart: {_reason_for_less(recorded_sec / span_sec)}; write the time of the whole step, "
            "in seconds, with the device synchronised at both ends"
        )


def _reason_for_more(ratio: float, *, recorded_sec: float) -> str:
    """Return possible reasons of times that are longer than the run, from their ratio to its length."""
    for factor, unit in _SMALLER_UNITS:
        if _MIN_UNIT_RATIO < ratio <= _MAX_RECORDED_SHARE * factor:
            fitting = f"{recorded_sec / factor:.3g} s"
            return f"either they are in {unit} ({fitting} would fit), or they were not measured in this run"
    return "they were not measured in this run"


def _reason_for_less(ratio: float) -> str:
    """Return possible reasons of times that are shorter than the time between their records."""
    for factor, unit in _SMALLER_UNITS:
        if 1 / _SAME_ORDER < ratio * factor < _SAME_ORDER:
            return f"seconds seem to be read as {unit}"
    return "they leave most of each step out, or the device was not synchronised"
