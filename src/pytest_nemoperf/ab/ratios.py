"""Ratios of new over old from the steps or measurements of one round, with their standard errors. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import combinations_with_replacement

from pytest_nemoperf.measure.figures import cost
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.measure.steady_state import SIGMA_OF_MAD, find_drift
from pytest_nemoperf.records.metrics import Metric
from pytest_nemoperf.records.step import StepRecord

_QUARTERS = 4  # the least number of measured steps


def turns_ratio(old: Sequence[StepRecord], new: Sequence[StepRecord]) -> float:
    """Return the logarithm of new over old in seconds per token, from steps measured by turns.

    Steps of the same number did the same work within a moment of each other. In the order A BB A as many of A's come
    before their counterparts as after, so that a straight drift cancels. The differences' pseudo-median (Hodges and
    Lehmann 1963, https://doi.org/10.1214/aoms/1177704172) is nearly as efficient as a mean, and stalls in up to 29% of
    the steps don't move it beyond the other differences.

    Args:
        old: Measured steps; whole pairs of blocks.
        new: As many.
    """
    return _pseudo_median(_log_ratios(old, new))


def turns_error(old: Sequence[StepRecord], new: Sequence[StepRecord], *, block_steps: int) -> float:
    """Return the standard error of turns_ratio, from the scatter between a round's pairs of blocks.

    A pair A BB A is the smallest part of a round that a drift does not shift, and long enough that neighbouring pairs
    hardly depend on each other. Differences between launches are not included.

    Args:
        old: Measured steps; whole pairs of blocks.
        new: As many.
        block_steps: Steps of a block.
    """
    pairs = list(map(statistics.fmean, _chunks(_log_ratios(old, new), size=2 * block_steps)))
    if len(pairs) <= 1:
        return 0.0
    return statistics.stdev(pairs) / math.sqrt(len(pairs))


def unsettled_turns(old: Sequence[StepRecord], new: Sequence[StepRecord]) -> str:
    """Return the reason that a round of turns does not count: the sides drifted apart; empty if they did not.

    Load that slows down both sides at the same time cancels in the ratio and is no such reason.
    """
    ratios = list(map(math.exp, _log_ratios(old, new)))
    if find_drift(ratios) is None:
        return ""
    half = len(ratios) // 2
    before = statistics.median(ratios[:half])
    after = statistics.median(ratios[-half:])
    return (
        f"a step of new took {before:.2f} times as long as one of old in the first half and {after:.2f} times in the "
        "second: one of them had not settled; raise warmup_steps"
    )


def launches_ratio(old: Sequence[StepRecord], new: Sequence[StepRecord]) -> float:
    """Return the logarithm of new over old in seconds per token, from the medians of two launches."""
    return statistics.median(map(_log_cost, new)) - statistics.median(map(_log_cost, old))


def launches_error(old: Sequence[StepRecord], new: Sequence[StepRecord]) -> float:
    """Return the standard error of launches_ratio, from the scatter between the quarters of each launch."""
    variance = 0.0
    for records in (old, new):
        costs = list(map(_log_cost, records))
        size = len(costs) // _QUARTERS
        quarters = list(map(statistics.median, _chunks(costs[: size * _QUARTERS], size=size)))
        variance += statistics.variance(quarters) / _QUARTERS
    return math.sqrt(variance)


def measured_ratio(old: Run, new: Run, *, metric: Metric) -> float | None:
    """Return the logarithm of the cost of new over that of old, positive for worse; None if not known."""
    costs: list[float] = []
    for run in (old, new):
        value = run.metrics.get(metric.name, 0.0)
        if not 0.0 < value < math.inf:
            return None
        costs.append(cost(value, metric=metric))
    before, after = costs
    return after - before


def measured_error(old: Run, new: Run) -> float:
    """Return the standard error of a ratio of medians, from the scatter of each run's steps or calls.

    A median of n values that scatter normally by s has the standard error sqrt(pi / 2) s / sqrt(n), and s is the
    median absolute deviation times 1.48. Neighbouring steps depend on each other, so this is the least it can be; the
    scatter between rounds is what decides.
    """
    variance = 0.0
    for run in (old, new):
        variance += (SIGMA_OF_MAD * run.step_time_mad_pct / 100.0) ** 2 / run.num_steps
    return math.sqrt(math.pi / 2.0 * variance)


def _pseudo_median(values: Sequence[float]) -> float:
    """Return the median of the means of all pairs of values, each paired with itself as well."""
    means = []
    for one, other in combinations_with_replacement(values, 2):
        means.append((one + other) / 2.0)
    return statistics.median(means)


def memory_ratio(old: Sequence[StepRecord], new: Sequence[StepRecord]) -> float | None:
    """Return the logarithm of new over old in peak memory, or None if it was not recorded."""
    before = _peak_memory_bytes(old)
    after = _peak_memory_bytes(new)
    if not before or not after:
        return None
    return math.log(after / before)


def _peak_memory_bytes(records: Sequence[StepRecord]) -> int:
    peak = 0
    for record in records:
        peak = max(peak, record.peak_memory_bytes or 0)
    return peak


def _log_ratios(old: Sequence[StepRecord], new: Sequence[StepRecord]) -> list[float]:
    """Return the logarithm of new over old in seconds per token, step by step."""
    ratios = []
    for before, after in zip(old, new, strict=True):
        ratios.append(_log_cost(after) - _log_cost(before))
    return ratios


def _chunks(values: Sequence[float], *, size: int) -> list[Sequence[float]]:
    """Return the values in groups of a size, in order."""
    return [values[start : start + size] for start in range(0, len(values), size)]


def _log_cost(record: StepRecord) -> float:
    return math.log(record.step_time_sec / record.tokens)
