"""From the steps of one round on two sides to ratios: how much more the new side costs, and how sure that is. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import combinations_with_replacement

from pytest_nemoperf.records import StepRecord
from pytest_nemoperf.steadiness import find_drift

_QUARTERS = 4  # the least number of measured steps


def turns_ratio(old: Sequence[StepRecord], new: Sequence[StepRecord]) -> float:
    """Return the logarithm of new over old in seconds a token, from steps that were measured by turns.

    Steps of the same number did the same work within a moment of each other. In the order A BB A as many of A's come
    before their counterparts as after, so that a straight drift cancels. The differences' pseudo-median (Hodges and
    Lehmann 1963, https://doi.org/10.1214/aoms/1177704172) weighs them nearly as well as a mean, and stalls, in up to
    29% of them, move it no further than the others lie.

    Args:
        old: Measured steps; whole pairs of blocks.
        new: As many.
    """
    return pseudo_median([_log_cost(after) - _log_cost(before) for before, after in zip(old, new, strict=True)])


def turns_error(old: Sequence[StepRecord], new: Sequence[StepRecord], *, block_steps: int) -> float:
    """Return the standard error of a round's ratio as its own steps tell it: from the scatter of its pairs of blocks.

    A pair A BB A is the smallest part of a round that a drift does not move, and long enough that its neighbours
    hardly depend on each other. What differs from launch to launch is not in it.

    Args:
        old: Measured steps; whole pairs of blocks.
        new: As many.
        block_steps: Steps of a block.
    """
    differences = [_log_cost(after) - _log_cost(before) for before, after in zip(old, new, strict=True)]
    size = 2 * block_steps
    pairs = [statistics.fmean(differences[start : start + size]) for start in range(0, len(differences), size)]
    return statistics.stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else 0.0


def unsettled_turns(old: Sequence[StepRecord], new: Sequence[StepRecord]) -> str:
    """Return why steps that were measured by turns don't count: the sides drifted apart; empty if they did not.

    What slows both down at the same moment, such as other load on the host, is what turns are for.
    """
    ratios = [math.exp(_log_cost(after) - _log_cost(before)) for before, after in zip(old, new, strict=True)]
    if find_drift(ratios) is None:
        return ""
    half = len(ratios) // 2
    before, after = statistics.median(ratios[:half]), statistics.median(ratios[-half:])
    return (
        f"a step of new took {before:.2f} times as long as one of old in the first half and {after:.2f} times in the "
        "second: one of them had not settled; raise warmup_steps"
    )


def launches_ratio(old: Sequence[StepRecord], new: Sequence[StepRecord]) -> float:
    """Return the logarithm of new over old in seconds a token, from steps of two launches: that of their medians."""
    return statistics.median(map(_log_cost, new)) - statistics.median(map(_log_cost, old))


def launches_error(old: Sequence[StepRecord], new: Sequence[StepRecord]) -> float:
    """Return the standard error of launches_ratio as the steps tell it: from the scatter of each launch's quarters."""
    variance = 0.0
    for costs in (list(map(_log_cost, old)), list(map(_log_cost, new))):
        size = len(costs) // _QUARTERS
        quarters = [statistics.median(costs[start : start + size]) for start in range(0, size * _QUARTERS, size)]
        variance += statistics.variance(quarters) / _QUARTERS
    return math.sqrt(variance)


def pseudo_median(values: Sequence[float]) -> float:
    """Return the median of the means of all pairs of values, each paired with itself as well."""
    return statistics.median((one + other) / 2.0 for one, other in combinations_with_replacement(values, 2))


def memory_ratio(old: Sequence[StepRecord], new: Sequence[StepRecord]) -> float | None:
    """Return the logarithm of new over old in peak memory; None where it is not recorded."""
    before, after = (max((record.peak_memory_bytes or 0 for record in records), default=0) for records in (old, new))
    return math.log(after / before) if before and after else None


def _log_cost(record: StepRecord) -> float:
    return math.log(record.step_time_sec / record.tokens)
