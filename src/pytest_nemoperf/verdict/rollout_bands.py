"""Bands around the sequence lengths of a baseline: tokens per second compare only within them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pytest_nemoperf.measure.measurement import Run, median_over_runs
from pytest_nemoperf.records import metrics
from pytest_nemoperf.records.metrics import Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutBand:
    """Allowed range of a rollout figure around the baseline's.

    Attributes:
        metric: The figure.
        allowed: Distance either way: percent of the baseline's if is_relative, else in the metric's unit.
        is_relative: Unit of allowed.
        is_always_kept: Also checked if the lengths of responses are pinned.
    """

    metric: Metric
    allowed: float
    is_relative: bool = False
    is_always_kept: bool = False


_BANDS: Final = (
    RolloutBand(metric=metrics.MEAN_TOKENS_PER_STEP, allowed=5.0, is_relative=True),
    RolloutBand(metric=metrics.TOKENS_SPREAD_PCT, allowed=5.0),
    RolloutBand(metric=metrics.MEAN_PROMPT_LEN, allowed=5.0, is_relative=True),
    RolloutBand(metric=metrics.MEAN_RESPONSE_LEN, allowed=5.0, is_relative=True),
    RolloutBand(metric=metrics.TRUNCATED_PCT, allowed=5.0),
    RolloutBand(metric=metrics.STALENESS_STEPS, allowed=0.5),
    RolloutBand(metric=metrics.BATCH_FILL_PCT, allowed=5.0),
    RolloutBand(metric=metrics.NUM_ROUNDS, allowed=0.5, is_always_kept=True),
)
"""With pinned lengths the tokens of a step are exact, and batch fill and staleness depend on the speed of the code,
which the verdict judges. Only the number of rounds of dynamic sampling still depends on the policy's answers."""


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
    for band in _BANDS:
        then_value = median_over_runs(baseline, metric=band.metric.name)
        now_value = median_over_runs(now, metric=band.metric.name)
        if then_value is None or now_value is None or (is_pinned and not band.is_always_kept):
            continue
        allowed = band.allowed
        if band.is_relative:
            allowed = abs(then_value) * band.allowed / 100.0
        if abs(now_value - then_value) > allowed:
            problems.append(_sentence(band, now=now_value, then=then_value))
    return problems


def _sentence(band: RolloutBand, *, now: float, then: float) -> str:
    metric = band.metric
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
