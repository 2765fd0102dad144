"""Drop metrics that repeat another: TFLOP/s beside tokens/s."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.records.metrics import TFLOPS_PER_SEC_PER_GPU, TOKENS_PER_SEC_PER_GPU, Metric
from pytest_nemoperf.verdict.comparison import Comparison, metric_costs
from pytest_nemoperf.verdict.policy import VerdictPolicy

_ALIKE_PCT = 0.05


def distinct_metrics(runs: Sequence[Run], *, policy: VerdictPolicy) -> list[Metric]:
    """Return the judged metrics of runs, without TFLOP/s if they are held to the same as tokens/s."""
    metrics = [metric for metric in policy.judged_metrics() if metric_costs(runs, metric=metric)]
    terms = []
    for metric in (TOKENS_PER_SEC_PER_GPU, TFLOPS_PER_SEC_PER_GPU):
        terms.append((policy.tolerance_pct(metric), policy.find_pct(metric)))
    is_same = terms[0] == terms[1]
    if is_same and TFLOPS_PER_SEC_PER_GPU in metrics:
        metrics.remove(TFLOPS_PER_SEC_PER_GPU)
    return metrics


def distinct_comparisons(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons without TFLOP/s that moved as tokens/s did.

    They do so if both sides count FLOPs alike and generated sequences kept their lengths.
    """
    tokens = {}
    for each in comparisons:
        if each.metric == TOKENS_PER_SEC_PER_GPU.name:
            tokens[each.anchor] = each
    distinct = []
    for each in comparisons:
        is_tflops = each.metric == TFLOPS_PER_SEC_PER_GPU.name
        if not (is_tflops and _are_alike(each, other=tokens.get(each.anchor))):
            distinct.append(each)
    return distinct


def _are_alike(one: Comparison, *, other: Comparison | None) -> bool:
    """Return whether two metrics have one outcome; stored figures are rounded, so their changes differ a little."""
    if other is None or (one.kind, one.allowed_pct) != (other.kind, other.allowed_pct):
        return False
    return math.isclose(one.delta_pct, other.delta_pct, abs_tol=_ALIKE_PCT)
