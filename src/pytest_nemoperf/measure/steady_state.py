"""Steady state of a run: steps still warming up, slow steps, drift.

Steps that are still warming up when measuring begins are dropped. Single slow steps (a checkpoint, a garbage
collection) are kept and counted; medians ignore them. A run that gets slower or faster from its first step to its last
has not settled and is measured again. If every try drifts the same way, the workload itself does (throttling, a leak,
too little warm-up) and the run is INVALID, since its median depends on the number of steps. Otherwise the machine is
restless: the figures count, with the noise of the drifts.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from pytest_nemoperf.measure.expected_records import ExpectedRecords
from pytest_nemoperf.records.step import StepRecord, measured_steps

_MAX_TREND_PCT = 10.0
"""Allowed trend from the first step to the last; the median is off by half of it."""
_MAX_JUMP_PCT = 25.0
"""Allowed change between halves that don't overlap, for runs too short for a trend."""
_MAX_TREND_Z = 3.3  # one in a thousand runs of independent steps
_OUTLIER_SIGMA = 5.0
_WARM_SIGMA = 3.0
_MIN_EXCESS = 0.1
SIGMA_OF_MAD = 1.4826  # of a normal distribution
_MAX_POINTS = 100  # limits the pairs of points; neighbours add little information


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Steps that have not settled.

    Attributes:
        pct: Change of the step time within the run, percent; positive for slower.
        text: Evidence and remedy, as a sentence.
    """

    pct: float
    text: str


def run_drift(expected: ExpectedRecords, *, records: Sequence[StepRecord]) -> Drift | None:
    """Return the drift of a run's measured steps, None if they have settled; see find_drift."""
    measured = measured_steps(records, warmup_steps=expected.warmup_steps)
    times = settling_times(measured, has_exact_tokens=expected.has_exact_tokens)
    return find_drift(times[num_still_warming(times) :])


def is_same_drift(drifts: Sequence[Drift | None]) -> bool:
    """Return whether every try drifts, and all of them the same way: then the workload does, not the machine."""
    num_slower = 0
    for drift in drifts:
        if drift is None:
            return False
        num_slower += drift.pct > 0
    return bool(drifts) and num_slower in {0, len(drifts)}


def drift_noise_pct(drifts_pct: Iterable[float | None]) -> float:
    """Return the scatter between runs that follows from their drifts, percent; 0 if all have settled.

    The median of a run that drifts by d may be off by d/2 in either direction.
    """
    squares = []
    for pct in drifts_pct:
        half_pct = (pct or 0.0) / 2.0
        squares.append(half_pct**2)
    if not squares:
        return 0.0
    return math.sqrt(statistics.fmean(squares))


def settling_times(measured: Sequence[StepRecord], *, has_exact_tokens: bool) -> list[float]:
    """Return step times to check for settling, scaled to equal tokens if these may differ.

    Responses get shorter or longer while a policy learns, which is no drift of the machine's speed. The scaling keeps a
    part of the time that is the same for every step, so that short steps don't appear slow.
    """
    if has_exact_tokens or not measured:
        return [record.step_time_sec for record in measured]
    per_token = _sec_per_token(measured)
    rest = [record.step_time_sec - per_token * record.tokens for record in measured]
    per_step = max(statistics.median(rest), 0.0)
    usual = [per_step + per_token * record.tokens for record in measured]
    middle = statistics.median(usual)
    times = []
    for record, usual_time in zip(measured, usual, strict=True):
        times.append(record.step_time_sec * middle / usual_time)
    return times


def _sec_per_token(measured: Sequence[StepRecord]) -> float:
    """Return the time that one more token adds to a step, at most the step time over its tokens.

    From neighbouring steps, which a drift hardly moves apart: the slope of least absolute deviations, that is the
    median of their slopes weighted by their differences in tokens. If no two differ, it is the step time over its
    tokens.
    """
    most = statistics.median([record.step_time_sec / record.tokens for record in measured])
    slopes = []
    whole = 0
    for before, after in pairwise(measured):
        more = after.tokens - before.tokens
        if more:
            slope = (after.step_time_sec - before.step_time_sec) / more
            slopes.append((slope, abs(more)))
            whole += abs(more)
    left = whole / 2.0
    for slope, weight in sorted(slopes):
        left -= weight
        if left <= 0:
            return min(max(slope, 0.0), most)
    return most


def num_still_warming(times: Sequence[float]) -> int:
    """Return the number of first steps that are still warming up, at most half of all.

    Warm-up ends with the first step that is no slower than the second half's median by more than three times its
    scatter (or 10%, if that is more). The scatter is the median absolute deviation, which a stall hardly moves.
    """
    half = len(times) // 2
    if half < 2:  # noqa: PLR2004 (nothing to compare with)
        return 0
    limit = _limit_above(times[-half:], sigmas=_WARM_SIGMA)
    for number, time in enumerate(times[:half]):
        if time <= limit:
            return number
    return half


def num_outliers(times: Sequence[float]) -> int:
    """Return the number of steps slower than the median by more than five times their scatter (or 10%)."""
    limit = _limit_above(times, sigmas=_OUTLIER_SIGMA)
    return sum(time > limit for time in times)


def slow_steps_pct(times: Sequence[float], *, num_dropped: int, is_summed: bool = False) -> float:
    """Return the excess of the mean of all steps over the judged step time, percent.

    Args:
        times: Times of all measured steps, at least one.
        num_dropped: First steps that are dropped, still warming up.
        is_summed: The mean of the other steps is judged instead of their median.
    """
    counted = times[num_dropped:]
    judged = statistics.fmean(counted) if is_summed else statistics.median(counted)
    return 100.0 * (statistics.fmean(times) / judged - 1.0)


def find_drift(times: Sequence[float]) -> Drift | None:
    """Return the drift of step times from first to last, e.g. by throttling or a short warm-up; None without one.

    There is a trend if the median slope between steps (Sen 1968, https://doi.org/10.1080/01621459.1968.10480934)
    makes more than 10% from first to last, and Mann's test for trend (Mann 1945, https://doi.org/10.2307/1907187)
    finds such an order of the steps by chance only once in a thousand. Few steps can't be as rare as that; for them,
    and for a jump, the halves must not overlap and their medians must be 25% apart.
    """
    half = len(times) // 2
    if half < 2:  # noqa: PLR2004 (one step a half shows no trend)
        return None
    first = times[:half]
    second = times[-half:]
    before = statistics.median(first)
    after = statistics.median(second)
    jump_pct = 100.0 * (after - before) / before
    is_apart = min(first) > max(second) or min(second) > max(first)
    trend_pct = _significant_trend_pct(_thinned(times))
    if abs(trend_pct) > _MAX_TREND_PCT:
        pct = trend_pct
        change = f"{trend_pct:+.0f}% from the first to the last, allowed {_MAX_TREND_PCT:.0f}%"
    elif is_apart and abs(jump_pct) > _MAX_JUMP_PCT:
        pct = jump_pct
        change = f"{jump_pct:+.0f}% between the halves, allowed {_MAX_JUMP_PCT:.0f}%"
    else:
        return None
    hint = "raise warmup_steps" if jump_pct < 0 else "look for throttling, a leak or other load"
    text = (
        f"the steps have not settled: median {before:.4g} s in the first half, {after:.4g} s in the second "
        f"({change}); {hint}"
    )
    return Drift(pct=pct, text=text)


def mad_pct(values: Sequence[float]) -> float:
    """Return the median absolute deviation in percent of the median."""
    middle = statistics.median(values)
    return 100.0 * statistics.median(abs(value - middle) for value in values) / middle


def _limit_above(times: Sequence[float], *, sigmas: float) -> float:
    middle = statistics.median(times)
    return middle * (1.0 + max(sigmas * SIGMA_OF_MAD * mad_pct(times) / 100.0, _MIN_EXCESS))


def _thinned(times: Sequence[float]) -> list[float]:
    """Return at most 100 points: medians of groups of steps; first steps that fill no group are left out."""
    size = -(-len(times) // _MAX_POINTS)
    rest = len(times) % size
    points = []
    for start in range(rest, len(times), size):
        points.append(statistics.median(times[start : start + size]))
    return points


def _significant_trend_pct(times: Sequence[float]) -> float:
    """Return the median slope times the length, percent of the median; 0 if it may well be chance."""
    count = len(times)
    slopes = []
    score = 0
    for sooner, later in combinations(range(count), 2):
        rise = times[later] - times[sooner]
        slopes.append(rise / (later - sooner))
        score += (rise > 0) - (rise < 0)
    ties = 0
    for same in Counter(times).values():
        ties += same * (same - 1) * (2 * same + 5)
    variance = (count * (count - 1) * (2 * count + 5) - ties) / 18.0
    if abs(score) - 1.0 <= _MAX_TREND_Z * math.sqrt(variance):
        return 0.0
    return 100.0 * statistics.median(slopes) * (count - 1) / statistics.median(times)
