"""Bands around the lengths of a baseline's sequences: tokens per second compare only like with like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pytest_nemoperf import metrics
from pytest_nemoperf.measure import Run, median_over_runs
from pytest_nemoperf.metrics import Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutBand:
    """How far a figure that describes the workload may be from the baseline's, either way.

    Attributes:
        metric: Which.
        allowed: Percent of the baseline's where is_relative, else in the metric's own unit.
        is_relative: What allowed is.
        is_always_kept: Also where the lengths of responses are pinned.
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
"""Where lengths are pinned the tokens of a step are exact; batch fill and staleness then follow from how well the code
fills its batches and which side is faster, which is what the verdict is to judge. Only how often dynamic sampling asks
for more still depends on what the policy says."""


def is_rl(workload: Mapping[str, Any]) -> bool:
    """Tell whether a workload is one of reinforcement learning."""
    return isinstance(workload.get("rl"), Mapping)


def has_pinned_lengths(workload: Mapping[str, Any]) -> bool:
    """Tell whether a workload knows the length of every sequence, or response, before it runs."""
    if is_rl(workload):
        return bool(workload["rl"].get("response_lengths") != "sampled")
    return not workload.get("has_varying_lengths")


def band_problems(now: Sequence[Run], *, baseline: Sequence[Run], is_pinned: bool) -> list[str]:
    """Return a sentence with the numbers for each figure that left the baseline's band."""
    problems = []
    for band in _BANDS:
        then_value = median_over_runs(baseline, metric=band.metric.name)
        now_value = median_over_runs(now, metric=band.metric.name)
        if then_value is None or now_value is None or (is_pinned and not band.is_always_kept):
            continue
        difference = now_value - then_value
        if abs(difference) > (abs(then_value) * band.allowed / 100.0 if band.is_relative else band.allowed):
            problems.append(_sentence(band, now=now_value, then=then_value))
    return problems


def _sentence(band: RolloutBand, *, now: float, then: float) -> str:
    metric = band.metric
    if band.is_relative:
        # from zero there is no percentage
        change = f"{metric.delta_pct(now, baseline=then):+.1f}%" if then else "from none"
        allowed = f"{band.allowed:.1f}%"
    else:
        unit = " points" if metric.unit == "%" else ""
        change, allowed = f"{now - then:+.3g}{unit}", f"{band.allowed:g}{unit}"
    return (
        f"{metric.label} is {metric.format(now)}, {metric.format(then)} in the baseline ({change}, allowed {allowed})"
    )
