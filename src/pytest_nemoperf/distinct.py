"""Which metrics say something of their own: TFLOP/s mostly repeat what tokens/s say."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_nemoperf.comparison import Comparison, VerdictPolicy, metric_costs
from pytest_nemoperf.measure import Run
from pytest_nemoperf.metrics import JUDGED, TFLOPS_PER_SEC_PER_GPU, TOKENS_PER_SEC_PER_GPU, Metric

_ALIKE_PCT = 0.05


def distinct_metrics(runs: Sequence[Run], *, policy: VerdictPolicy) -> list[Metric]:
    """Return the judged metrics there are; TFLOP/s follow from tokens/s, and say nothing new at the same tolerance."""
    found = [metric for metric in JUDGED if metric_costs(runs, metric=metric)]
    tokens, tflops = TOKENS_PER_SEC_PER_GPU, TFLOPS_PER_SEC_PER_GPU
    is_same = policy.tolerances[tokens.name] == policy.tolerances[tflops.name]
    return [metric for metric in found if metric is not tflops or not is_same]


def distinct_comparisons(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons without TFLOP/s that moved as tokens/s did.

    They do so where FLOPs are counted alike on both sides, unless what is generated has other lengths.
    """
    tokens = {each.anchor: each for each in comparisons if each.metric == TOKENS_PER_SEC_PER_GPU.name}
    return [
        each
        for each in comparisons
        if each.metric != TFLOPS_PER_SEC_PER_GPU.name or not _are_alike(each, other=tokens.get(each.anchor))
    ]


def _are_alike(one: Comparison, *, other: Comparison | None) -> bool:
    """Tell whether two metrics have one outcome; stored figures are rounded, so their changes differ a little."""
    if other is None or (one.kind, one.allowed_pct) != (other.kind, other.allowed_pct):
        return False
    return math.isclose(one.delta_pct, other.delta_pct, abs_tol=_ALIKE_PCT)
