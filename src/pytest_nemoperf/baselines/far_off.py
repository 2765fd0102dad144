"""Figures of single runs that can't belong to the baseline they are in. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.records.metrics import JUDGED, Judged, Metric

MAX_RATIO: Final = 10.0
"""Largest ratio between a run and the others of its baseline.

Launches of equal code scatter by some percent, and a restless machine changes its speed by a factor of two or three.
Ten times is another workload, another unit, or a slip of the hand in the file.
"""
_MAX_GAP: Final = math.log(MAX_RATIO)


@dataclass(frozen=True, slots=True, kw_only=True)
class FarOff:
    """Figure of one run that can't belong to its baseline.

    Attributes:
        index: Position of the run, counted from 0.
        metric: The metric.
        value: Figure of the run.
        median: Median of the other runs that have it, geometric between two; None if there is no other.
        num_others: Number of those runs.
    """

    index: int
    metric: Metric
    value: float
    median: float | None
    num_others: int

    @property
    def text(self) -> str:
        """Name of the metric, its figure beside the others', and the rule it breaks."""
        figure = f"{self.metric.name} is {self.value:g}"
        if self.median is not None:
            others = "that of the other run is"
            if self.num_others > 1:
                others = f"the median of the other {count_text(self.num_others, 'run')} is"
            figure = f"{figure}, {others} {self.median:g}"
        if self.value > self.metric.limit:
            return f"{figure}; no machine has more than {self.metric.limit:g} {self.metric.unit}"
        return f"{figure}; runs of one baseline are at most a factor of {MAX_RATIO:g} apart"


def far_off_figures(runs: Sequence[Run]) -> Iterator[FarOff]:
    """Yield the judged figures that no machine has, then those far from the others' median, the furthest first.

    Metrics that are judged only when named may differ by any factor: a short wait may well be ten times as long in
    another run. Of two runs that are far apart the first is named.
    """
    for metric in JUDGED:
        logs = {}
        for index, run in enumerate(runs):
            value = run.metrics.get(metric.name, 0.0)
            if math.isfinite(value) and value > 0:
                logs[index] = math.log(value)
        for index in list(logs):
            if runs[index].metrics[metric.name] > metric.limit:
                yield _take_out(logs, index=index, metric=metric, runs=runs)
        if metric.judged is Judged.WHEN_NAMED:
            continue
        while logs and max(logs.values()) - min(logs.values()) > _MAX_GAP:
            index = max(logs, key=lambda key: abs(logs[key] - _median_of_others(logs, index=key)))
            if abs(logs[index] - _median_of_others(logs, index=index)) <= _MAX_GAP:
                break
            yield _take_out(logs, index=index, metric=metric, runs=runs)


def _take_out(logs: dict[int, float], *, index: int, metric: Metric, runs: Sequence[Run]) -> FarOff:
    """Remove a run's logarithm and return its figure beside those that remain."""
    num_others = len(logs) - 1
    median = math.exp(_median_of_others(logs, index=index)) if num_others else None
    del logs[index]
    value = runs[index].metrics[metric.name]
    return FarOff(index=index, metric=metric, value=value, median=median, num_others=num_others)


def _median_of_others(logs: Mapping[int, float], *, index: int) -> float:
    return statistics.median([value for key, value in logs.items() if key != index])
