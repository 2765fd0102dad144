"""Bands around the sequence lengths of a baseline: tokens per second compare only within them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_nemoperf.measure.figures import figure_over_runs
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.records.metrics import METRICS, Metric, RolloutBand


def is_rl(workload: Mapping[str, Any]) -> bool:
    """Return whether a workload is reinforcement learning."""
    return isinstance(workload.get("rl"), Mapping)


def has_pinned_lengths(workload: Mapping[str, Any]) -> bool:
    """Return whether the length of every sequence, or response, is known before the run."""
    if is_rl(workload):
        return bool(workload["rl"].get("response_lengths") != "sampled")
    return not workload.get("has_varying_lengths")


def band_problems(now: Sequence[Run], *, baseline: Sequence[Run], is_pinned: bool) -> list[str]:
    """Return a sentence with the numbers for each figure outside the baseline's band."""
    problems = []
    for metric in METRICS.values():
        band = metric.band
        if band is None or (is_pinned and not band.is_always_kept):
            continue
        then_value = figure_over_runs(baseline, metric=metric.name)
        now_value = figure_over_runs(now, metric=metric.name)
        if then_value is None or now_value is None:
            continue
        allowed = band.allowed
        if band.is_relative:
            allowed = abs(then_value) * band.allowed / 100.0
        if abs(now_value - then_value) > allowed:
            problems.append(_sentence(metric, band=band, now=now_value, then=then_value))
    return problems


def _sentence(metric: Metric, *, band: RolloutBand, now: float, then: float) -> str:
    if band.is_relative:
        allowed = f"{band.allowed:.1f}%"
        change = f"{metric.delta_pct(now, baseline=then):+.1f}%" if then else "from none"
    else:
        unit = " points" if metric.unit == "%" else ""
        allowed = f"{band.allowed:g}{unit}"
        change = f"{now - then:+.3g}{unit}"
    return (
        f"{metric.label} is {metric.format(now)}, {metric.format(then)} in the baseline ({change}, allowed {allowed})"
    )
