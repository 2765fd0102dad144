"""Ratio of a metric in two rows, with its interval from the scatter of both rows' runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.flops.count import FLOPS_REL_TOL
from pytest_nemoperf.recipes.case_kind import CaseKind, kind_of
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.metrics import (
    METRICS,
    STEP_TIME_SEC,
    TFLOPS_PER_SEC_PER_GPU,
    TIME_PER_CALL_SEC,
    TOKENS_PER_SEC_PER_GPU,
    TRAINING_TFLOPS_PER_SEC_PER_GPU,
    Metric,
)
from pytest_nemoperf.results.row import Row, RowKind
from pytest_nemoperf.verdict.noise import noise_of
from pytest_nemoperf.verdict.policy import system_policy
from pytest_nemoperf.verdict.sequential import SequentialRule

CONFIDENCE_PCT: Final = 95
INTERVAL_MEANING: Final = (
    "Brackets hold the 95% interval of a ratio, from the scatter of the runs of both sides; each side's scatter is "
    "shrunk towards the usual noise of its system, which decides where runs are few, and two sessions are taken to "
    "differ as that system's usually do."
)
"""Sentence below tables with intervals."""
_MIN_RUNS: Final = 2
FLOPS_METRICS: Final = frozenset({TFLOPS_PER_SEC_PER_GPU.name, TRAINING_TFLOPS_PER_SEC_PER_GPU.name})
"""Metrics that depend on the convention that FLOPs are counted under."""
_MAIN = (TOKENS_PER_SEC_PER_GPU, TIME_PER_CALL_SEC, STEP_TIME_SEC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Ratio of two figures.

    Attributes:
        value: The later, or other, row's figure divided by the reference's.
        low: Lower end of the 95% interval; None without one.
        high: Upper end of it.
        why_no_interval: Reason that there is none; empty if there is.
    """

    value: float
    low: float | None = None
    high: float | None = None
    why_no_interval: str = ""

    @property
    def is_clear(self) -> bool:
        """The interval leaves out 1: the rows differ by more than their noise."""
        return self.low is not None and self.high is not None and not self.low <= 1.0 <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """Variance of the logarithm of a row's figure, and its degrees of freedom, within and between sessions."""

    within: float
    within_dof: float
    between: float = 0.0
    between_dof: float = 1.0


def main_metric(row: Row) -> Metric | None:
    """Return the metric that a row is compared by: tokens/sec/GPU, else the time of a call or a step; or None."""
    for metric in _MAIN:
        if metric.name in row.values:
            return metric
    return None


def counts_flops_alike(one: Row, other: Row) -> bool:
    """Return whether FLOPs of two rows are counted alike, so that their TFLOP/s compare.

    Pages do not print their conventions: that of a published row follows from page and release, or else only rows of
    the same release of a page are counted alike.
    """
    convention = one.flops_convention
    if convention != other.flops_convention:
        return False
    if not convention:
        place = (one.origin.source, one.origin.release)
        is_published = one.origin.kind is not RowKind.MEASURED
        return is_published and place == (other.origin.source, other.origin.release)
    if one.flops_per_token is None or other.flops_per_token is None:
        return True
    if (one.model, one.seq_len) != (other.model, other.seq_len):  # whose FLOPs per token differ anyway
        return True
    return math.isclose(one.flops_per_token, other.flops_per_token, rel_tol=FLOPS_REL_TOL)


def row_ratio(now: Row, *, then: Row, metric: str) -> Ratio | None:
    """Return the ratio of two rows' figures of a metric with its 95% interval; None if they have no ratio.

    That is if one of them lacks the metric, has a value that is not positive, or counts FLOPs in another way. The
    interval is Welch's on the logarithms of the runs' values. Each side's variance is shrunk towards the usual noise
    of its system, as a verdict shrinks it, and that between sessions counts unless both sides are of one session.

    Args:
        now: Row above the line.
        then: Row below it.
        metric: Name of the metric.

    References:
        Welch 1947, the generalization of Student's problem, https://doi.org/10.1093/biomet/34.1-2.28
        Smyth 2004, see verdict/noise.py
    """
    above = now.value(metric)
    below = then.value(metric)
    if not _is_usable(now, metric=metric) or not _is_usable(then, metric=metric) or not above or not below:
        return None
    if metric in FLOPS_METRICS and not counts_flops_alike(now, then):
        return None
    value = above / below
    if not 0.0 < value < math.inf:
        return None
    reason = "; ".join(dict.fromkeys(filter(None, (_no_interval(then, metric), _no_interval(now, metric)))))
    if reason:
        return Ratio(value=value, why_no_interval=reason)
    is_one_session = len(set(now.sessions)) == 1 and set(now.sessions) == set(then.sessions)
    parts: list[tuple[float, float]] = []
    for row in (now, then):
        parts += _variances(_side(row, metric=metric), is_one_session=is_one_session)
    total = math.fsum(variance for variance, _ in parts)
    if not total:
        return Ratio(value=value, low=value, high=value)
    dof = total**2 / math.fsum(variance**2 / dof for variance, dof in parts)
    reach = _quantile(dof) * math.sqrt(total)
    return Ratio(value=value, low=value * math.exp(-reach), high=value * math.exp(min(reach, 700.0)))


def _is_usable(row: Row, *, metric: str) -> bool:
    values = row.values.get(metric, ())
    return bool(values) and all(0.0 < value < math.inf for value in values)


def _no_interval(row: Row, metric: str) -> str:
    """Return the reason that a row's value has no interval; empty if it has one."""
    if row.origin.kind is not RowKind.MEASURED:
        return "a published value is one value, without spread"
    if len(row.values[metric]) < _MIN_RUNS:
        return "a single run shows no scatter"
    return ""


def _side(row: Row, *, metric: str) -> _Side:
    logs = [math.log(value) for value in row.values[metric]]
    kind = kind_of(row.settings) if row.settings else CaseKind.SEVERAL_GPUS  # pages print hardly anything smaller
    rule = _rule(row.system, kind, metric)
    if rule is None:
        return _Side(within=statistics.variance(logs) / len(logs), within_dof=len(logs) - 1)
    sessions = row.sessions if len(row.sessions) == len(logs) else ()
    noise = noise_of(logs, sessions=sessions, rule=rule)
    return _Side(
        within=noise.within**2 * noise.run_share,
        within_dof=noise.within_dof,
        between=noise.between**2 * noise.session_share,
        between_dof=noise.between_dof,
    )


def _variances(side: _Side, *, is_one_session: bool) -> Iterator[tuple[float, float]]:
    """Yield the variances that count, each with its degrees of freedom."""
    yield side.within, side.within_dof
    if not is_one_session:
        yield side.between, side.between_dof


@cache
def _rule(system: str, kind: CaseKind, metric: str) -> SequentialRule | None:
    """Return the usual noise of a metric of a kind of case; None for a system that the catalog does not know."""
    try:
        policy = system_policy(find_system(system), kind=kind)
    except RecipeError:
        return None
    return policy.rule(METRICS[metric], runs=())


@cache
def _quantile(dof: float) -> float:
    from scipy.special import stdtrit  # noqa: PLC0415 (a tenth of a second that only an interval needs)

    return float(stdtrit(dof, 0.5 + CONFIDENCE_PCT / 200.0))
