"""Whether a run's steps have settled, from which step on, and how far they scatter.

Three things are told apart. Steps that are still warming up when measuring begins are dropped. Single slow steps (a
checkpoint, a garbage collection) are kept and counted; medians don't see them. A run that gets slower or faster from
its first step to its last has not settled and is measured again. If every try drifts the same way, the workload itself
does (throttling, a leak, too little warm-up) and the run is INVALID: no number stands for it. If not, the machine is
restless: the figures stand, with the noise that was seen.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from pytest_nemoperf.expected import ExpectedRecords
from pytest_nemoperf.records import StepRecord

_MAX_TREND_PCT = 10.0
"""What a run may gain or lose from its first step to its last; its median is off by half of that."""
_MAX_JUMP_PCT = 25.0
"""The same between the halves of a run too short for a trend, whose halves are fully apart."""
_MAX_TREND_Z = 3.3  # one run in a thousand whose steps are independent
_OUTLIER_SIGMA = 5.0
_WARM_SIGMA = 3.0
_LEAST_EXCESS = 0.1
_SIGMA_OF_MAD = 1.4826  # of a normal distribution
_MAX_POINTS = 100  # pairs of points are many, and neighbours tell little that is new


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Steps that have not settled.

    Attributes:
        pct: Change of the step time within the run, percent; positive for slower.
        text: The evidence and what to do, for people.
    """

    pct: float
    text: str


def run_drift(expected: ExpectedRecords, *, records: Sequence[StepRecord]) -> Drift | None:
    """Return how the measured steps of a run drift, or None if they have settled; see find_drift."""
    measured = [record for record in records if record.step >= expected.warmup_steps]
    times = settling_times(measured, has_exact_tokens=expected.has_exact_tokens)
    return find_drift(times[num_still_warming(times) :])


def is_same_drift(drifts_pct: Sequence[float | None]) -> bool:
    """Tell whether every try drifts, and all of them the same way: then the workload does, not the machine."""
    if not drifts_pct or any(pct is None for pct in drifts_pct):
        return False
    slower = [pct for pct in drifts_pct if pct is not None and pct > 0]
    return len(slower) in {0, len(drifts_pct)}


def drift_noise_pct(drifts_pct: Iterable[float | None]) -> float:
    """Return the scatter between runs that their drifts make likely, percent; 0 where all have settled.

    The median of a run that drifts by d may be off by d/2, whichever way.
    """
    halves = [(pct or 0.0) / 2.0 for pct in drifts_pct]
    return math.sqrt(statistics.fmean(half**2 for half in halves)) if halves else 0.0


def settling_times(measured: Sequence[StepRecord], *, has_exact_tokens: bool) -> list[float]:
    """Return the times of which settling is asked: of steps, scaled to equal tokens where these may differ.

    Responses get shorter or longer while a policy learns; that is no drift of the machine's speed. Nor is a short step
    slow because a part of its time is the same for every step.
    """
    times = [record.step_time_sec for record in measured]
    if has_exact_tokens or not measured:
        return times
    tokens = [record.tokens for record in measured]
    per_token = _sec_per_token(times, tokens=tokens)
    per_step = max(statistics.median(time - per_token * count for time, count in zip(times, tokens, strict=True)), 0.0)
    usual = [per_step + per_token * count for count in tokens]
    middle = statistics.median(usual)
    return [time * middle / of_its_tokens for time, of_its_tokens in zip(times, usual, strict=True)]


def _sec_per_token(times: Sequence[float], *, tokens: Sequence[int]) -> float:
    """Return what a token more makes a step longer, at most the time of a token: the rest is the same for every step.

    From neighbouring steps, which a drift hardly moves apart: the slope of least absolute deviations, the median of
    their slopes weighted by how much they differ in tokens. Where no two differ it is the time of a token.
    """
    most = statistics.median(time / count for time, count in zip(times, tokens, strict=True))
    slopes = []
    for (before, after), (fewer, more) in zip(pairwise(times), pairwise(tokens), strict=True):
        if fewer != more:
            slopes.append(((after - before) / (more - fewer), abs(more - fewer)))
    left = sum(weight for _, weight in slopes) / 2.0
    for slope, weight in sorted(slopes):
        left -= weight
        if left <= 0:
            return min(max(slope, 0.0), most)
    return most


def num_still_warming(times: Sequence[float]) -> int:
    """Return how many of the first steps are still warming up, at most half of them.

    Those are the steps before the first that is no slower than the second half's median by more than three times
    its scatter (or 10%, if that is more). The scatter is the median absolute deviation, so that a stall moves no limit.
    """
    half = len(times) // 2
    if half < 2:  # noqa: PLR2004 (nothing to compare with)
        return 0
    limit = _limit_above(times[-half:], sigmas=_WARM_SIGMA)
    return next((number for number, time in enumerate(times[:half]) if time <= limit), half)


def num_outliers(times: Sequence[float]) -> int:
    """Return how many steps are slower than the median by more than five times their scatter (or 10%)."""
    limit = _limit_above(times, sigmas=_OUTLIER_SIGMA)
    return sum(time > limit for time in times)


def slow_steps_pct(times: Sequence[float], *, num_dropped: int, is_summed: bool = False) -> float:
    """Return how much longer the mean of all steps takes than what is judged, percent.

    Args:
        times: Of all measured steps, at least one.
        num_dropped: Steps at the front that are dropped, still warming up.
        is_summed: The mean of the other steps is judged, and not their median.
    """
    counted = times[num_dropped:]
    judged = statistics.fmean(counted) if is_summed else statistics.median(counted)
    return 100.0 * (statistics.fmean(times) / judged - 1.0)


def find_drift(times: Sequence[float]) -> Drift | None:
    """Return how the steps' speed goes one way from first to last, or None: warm-up too short, or throttling.

    There is a trend if the median slope between steps (Sen 1968, https://doi.org/10.1080/01621459.1968.10480934)
    makes more than 10% from first to last, and Mann's test for trend (Mann 1945, https://doi.org/10.2307/1907187)
    finds such an order of the steps by chance only once in a thousand. In few steps nothing is as rare as that; there,
    and where it jumped, no step of one half is as fast as any of the other, and their medians are 25% apart.
    """
    half = len(times) // 2
    if half < 2:  # noqa: PLR2004 (one step a half shows no trend)
        return None
    first, second = times[:half], times[-half:]
    before, after = statistics.median(first), statistics.median(second)
    jump_pct = 100.0 * (after - before) / before
    is_apart = min(first) > max(second) or min(second) > max(first)
    trend_pct = _significant_trend_pct(_thinned(times))
    if abs(trend_pct) > _MAX_TREND_PCT:
        pct = trend_pct
        what = f"{trend_pct:+.0f}% from the first to the last, allowed {_MAX_TREND_PCT:.0f}%"
    elif is_apart and abs(jump_pct) > _MAX_JUMP_PCT:
        pct = jump_pct
        what = f"{jump_pct:+.0f}% between the halves, allowed {_MAX_JUMP_PCT:.0f}%"
    else:
        return None
    hint = "raise warmup_steps" if jump_pct < 0 else "look for throttling, a leak or other load"
    text = (
        f"the steps have not settled: median {before:.4g} s in the first half, {after:.4g} s in the second "
        f"({what}); {hint}"
    )
    return Drift(pct=pct, text=text)


def mad_pct(values: Sequence[float]) -> float:
    """Return the median absolute deviation in percent of the median."""
    middle = statistics.median(values)
    return 100.0 * statistics.median(abs(value - middle) for value in values) / middle


def _limit_above(times: Sequence[float], *, sigmas: float) -> float:
    middle = statistics.median(times)
    return middle * (1.0 + max(sigmas * _SIGMA_OF_MAD * mad_pct(times) / 100.0, _LEAST_EXCESS))


def _thinned(times: Sequence[float]) -> list[float]:
    """Return medians of as few steps each as leave at most 100 points, without what is left over at the front."""
    size = -(-len(times) // _MAX_POINTS)
    rest = len(times) % size
    return [statistics.median(times[start : start + size]) for start in range(rest, len(times), size)]


def _significant_trend_pct(times: Sequence[float]) -> float:
    """Return what the median slope makes from first to last, percent of the median; 0 if it may well be chance."""
    count = len(times)
    pairs = list(combinations(range(count), 2))
    score = sum((times[later] > times[sooner]) - (times[later] < times[sooner]) for sooner, later in pairs)
    ties = sum(same * (same - 1) * (2 * same + 5) for same in Counter(times).values())
    variance = (count * (count - 1) * (2 * count + 5) - ties) / 18.0
    if abs(score) - 1.0 <= _MAX_TREND_Z * math.sqrt(variance):
        return 0.0
    slope = statistics.median((times[later] - times[sooner]) / (later - sooner) for sooner, later in pairs)
    return 100.0 * slope * (count - 1) / statistics.median(times)
