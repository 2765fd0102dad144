"""Slow steps that medians hide, judged against the baseline's. Pure.

Garbage collection, checkpoints, logging and waits for data make some steps slow and leave the median unchanged. A run
is *odd* if its speed with every measured step counted is worse than the worst baseline run's by more than the
tolerance. Odd runs are REGRESSED if they also have so many slow steps that chance is ruled out.

Ordinary stalls occur by chance, at another rate in each run, so the number of slow steps in a run is modelled as
beta-binomial. Its mean is the share of steps in the baseline that may have been as slow, at least 2%. Runs are
independent, so several runs with one or two slow steps each may be as certain as one with many.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.measure.figures import cost
from pytest_nemoperf.measure.measurement import Measurement, Run
from pytest_nemoperf.records.metrics import (
    STEP_TIME_SEC,
    TFLOPS_PER_SEC_PER_GPU,
    TIME_PER_CALL_SEC,
    TOKENS_PER_SEC_PER_GPU,
    Metric,
    format_time,
)
from pytest_nemoperf.verdict.comparison import Comparison, VerdictKind
from pytest_nemoperf.verdict.policy import VerdictPolicy
from pytest_nemoperf.verdict.rollout_bands import has_pinned_lengths, is_rl
from pytest_nemoperf.verdict.sequential import cost_of_loss, loss_of_cost

_USUAL_SHARE: Final = 0.02  # of steps that stall on an ordinary machine, see benchmarks/verdicts
_CONCENTRATION: Final = 100.0  # of the beta distribution: larger for more similar shares of different runs
_ALPHA_SHARE: Final = 0.5  # of the allowed false alarms; the medians may make the others
_OBVIOUS_LOSS: Final = math.log(2.0)  # the mean step takes twice as long
_UNCONFIRMED_SHARE: Final = 0.1  # of the level, for a smaller loss that no second run can confirm
_MIN_ODD_RUNS: Final = 2  # unless the case is measured once a session: one launch may have been unlucky
_MIN_FACTOR: Final = 1.1  # least factor of a slow step, as in measure/steady_state.py
_REPLACED_KINDS: Final = frozenset({VerdictKind.PASSED, VerdictKind.IMPROVED, VerdictKind.INCONCLUSIVE})


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowSteps:
    """Slow steps that are more, or cost more, than those of the baseline.

    Attributes:
        kind: REGRESSED, INCONCLUSIVE while a further launch may decide, or PASSED with a note only.
        loss_pct: Loss of speed over all measured steps against the worst run of the baseline, percent; None if the
            baseline does not record it.
        text: Evidence, as a sentence.
    """

    kind: VerdictKind
    loss_pct: float | None
    text: str


def find_slow_steps(
    measurement: Measurement,
    *,
    baseline: Sequence[Run],
    comparisons: Sequence[Comparison],
    policy: VerdictPolicy,
    other: str = "the baseline",
) -> SlowSteps | None:
    """Return the slow steps that the medians of a measurement don't show; None if no more than in the baseline.

    Args:
        measurement: This session's runs.
        baseline: The baseline's runs.
        comparisons: Comparisons of the medians, which say what is allowed.
        policy: Error rates and number of launches.
        other: Name of the baseline's side.
    """
    runs = measurement.runs
    metric = TOKENS_PER_SEC_PER_GPU
    if TIME_PER_CALL_SEC.name in runs[0].metrics:
        metric = TIME_PER_CALL_SEC
    allowed_pct = _allowed_pct(comparisons, metric=metric, policy=policy)
    worst = _worst_full_cost(baseline, metric=metric)
    least = cost_of_loss(allowed_pct, metric=metric)
    losses = []
    odd = []
    for run in runs:
        run_cost = _full_cost(run, metric=metric)
        if run_cost is None or worst is None:
            continue
        losses.append(run_cost - worst)
        if run_cost - worst > least and _num_slow([run]):
            odd.append(run)
    share = max(_USUAL_SHARE, _max_slow_share(baseline, factor=_slow_factor(runs)))
    limit = _ALPHA_SHARE * policy.alpha / policy.max_runs  # each launch adds a test that may raise a false alarm
    if policy.min_runs < _MIN_ODD_RUNS and max(losses, default=0.0) < _OBVIOUS_LOSS:
        limit *= _UNCONFIRMED_SHARE
    is_certain = _p_value(odd, num_total=len(runs), share=share) < limit
    kind = VerdictKind.PASSED
    if is_certain and len(odd) >= min(_MIN_ODD_RUNS, policy.min_runs):
        kind = VerdictKind.REGRESSED
    elif 2 * len(odd) > len(runs) and (is_certain or len(runs) < policy.max_runs):
        kind = VerdictKind.INCONCLUSIVE
    elif not odd and _p_value(runs, num_total=len(runs), share=share) >= limit:
        return None
    loss_pct = None
    if losses:
        loss_pct = loss_of_cost(statistics.fmean(losses), metric=metric)
    facts = [
        _steps_text(measurement, baseline=baseline, other=other),
        _mean_text(runs, baseline=baseline, metric=metric, allowed_pct=allowed_pct, other=other),
        _undecided_text(kind, num_odd=len(odd), num_runs=len(runs)),
    ]
    return SlowSteps(kind=kind, loss_pct=loss_pct, text="; ".join(filter(None, facts)))


def _allowed_pct(comparisons: Sequence[Comparison], *, metric: Metric, policy: VerdictPolicy) -> float:
    """Return the allowed loss in percent: a loss to be found leaves less than the tolerance, or more."""
    for each in comparisons:
        if each.metric == metric.name and not each.anchor:
            return each.allowed_pct
    return policy.tolerance_pct(metric)


def with_slow_steps(comparisons: Sequence[Comparison], *, slow: SlowSteps) -> tuple[Comparison, ...]:
    """Return the comparisons; those of rates and times with the newest baseline get the kind of the slow steps."""
    if slow.kind is VerdictKind.PASSED:
        return tuple(comparisons)
    rates = {TOKENS_PER_SEC_PER_GPU.name, TFLOPS_PER_SEC_PER_GPU.name, TIME_PER_CALL_SEC.name}
    marked = []
    for each in comparisons:
        if each.metric in rates and not each.anchor and each.kind in _REPLACED_KINDS:
            marked.append(replace(each, kind=slow.kind, slow_steps_loss_pct=slow.loss_pct))
        else:
            marked.append(each)
    return tuple(marked)


def _worst_full_cost(runs: Sequence[Run], *, metric: Metric) -> float | None:
    """Return the cost of the worst run with every measured step counted; None if no run recorded it."""
    costs = []
    for run in runs:
        run_cost = _full_cost(run, metric=metric)
        if run_cost is not None:
            costs.append(run_cost)
    return max(costs, default=None)


def _full_cost(run: Run, *, metric: Metric) -> float | None:
    """Return the cost of a run with every measured step counted; None if not recorded."""
    if run.slow_steps_pct is None or metric.name not in run.metrics:
        return None
    return cost(run.metrics[metric.name], metric=metric) + math.log1p(run.slow_steps_pct / 100.0)


def _p_value(runs: Sequence[Run], *, num_total: int, share: float) -> float:
    """Return the probability of so many slow steps in so many of all runs: the least over all counts.

    For each number of slow steps: the probability that as many runs as these have at least that many.

    Args:
        runs: Runs with slow steps.
        num_total: Number of all runs.
        share: Mean share of slow steps.
    """
    counts = []
    most_steps = 0
    for run in runs:
        counts.append(_num_slow([run]))
        most_steps = max(most_steps, _num_steps([run]))
    least = 1.0
    for number, count in enumerate(sorted(counts, reverse=True), start=1):
        if number >= min(_MIN_ODD_RUNS, num_total) and count:
            slow_tail = _beta_binomial_tail(count, num_total=most_steps, share=share)
            least = min(least, _binomial_tail(number, num_total=num_total, share=slow_tail))
    return least


def _beta_binomial_tail(count: int, *, num_total: int, share: float) -> float:
    """Return the probability of count or more slow steps in a run: the tail of a beta-binomial distribution."""
    a = _CONCENTRATION * share
    b = _CONCENTRATION * (1.0 - share)
    terms = []
    for number in range(count):
        log_term = _log_choose(num_total, number) + _log_beta(a + number, b + num_total - number) - _log_beta(a, b)
        terms.append(math.exp(log_term))
    return min(max(1.0 - math.fsum(terms), 0.0), 1.0)


def _binomial_tail(count: int, *, num_total: int, share: float) -> float:
    """Return the probability of count or more successes in a binomial distribution."""
    terms = []
    for number in range(count, num_total + 1):
        terms.append(math.comb(num_total, number) * share**number * (1.0 - share) ** (num_total - number))
    return math.fsum(terms)


def _log_choose(total: int, number: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(number + 1) - math.lgamma(total - number + 1)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _max_slow_share(runs: Sequence[Run], *, factor: float) -> float:
    """Return the largest share of the runs' steps that may have been slower than the others by a factor.

    It is limited by the slow steps that were counted, and by the time that the worst run lost.
    """
    share = _num_slow(runs) / max(_num_steps(runs), 1)
    lost_pct = [run.slow_steps_pct for run in runs if run.slow_steps_pct is not None]
    if len(lost_pct) < len(runs) or factor <= _MIN_FACTOR:
        return share
    return min(share, max(lost_pct) / 100.0 / (factor - 1.0))


def _slow_factor(runs: Sequence[Run]) -> float:
    """Return the mean time of slow steps over that of the others; 1 without slow steps."""
    slow = _num_slow(runs)
    if not slow:
        return 1.0
    extra_steps = []
    for run in runs:
        extra_steps.append((run.slow_steps_pct or 0.0) / 100.0 * _num_steps([run]))
    return 1.0 + math.fsum(extra_steps) / slow


def _num_slow(runs: Sequence[Run]) -> int:
    return sum(run.num_outliers + run.num_warmup_dropped for run in runs)


def _num_steps(runs: Sequence[Run]) -> int:
    return sum(run.num_steps + run.num_warmup_dropped for run in runs)


def _steps_text(measurement: Measurement, *, baseline: Sequence[Run], other: str) -> str:
    """Return the number of slow steps beside the baseline's, with their factor if medians are judged."""
    runs = measurement.runs
    slow = _num_slow(runs)
    steps = _num_steps(runs)
    then = f"{_num_slow(baseline)} of {_num_steps(baseline)} in {other}"
    factor = _slow_factor(runs)
    is_median = is_rl(measurement.workload) or has_pinned_lengths(measurement.workload)
    slower = "far slower than"
    if is_median and factor > _MIN_FACTOR:
        slower = f"{factor:.2g} times as slow as"
    return f"{slow} of {steps} steps are {slower} the rest ({then})"


def _mean_text(runs: Sequence[Run], *, baseline: Sequence[Run], metric: Metric, allowed_pct: float, other: str) -> str:
    """Return the mean step time beside that of the baseline's slowest run; empty if not recorded."""
    if metric is not TIME_PER_CALL_SEC:
        metric = STEP_TIME_SEC
    now = _mean_times(runs, metric=metric)
    then = _mean_times(baseline, metric=metric)
    if not now:
        return ""
    mean = f"the mean step takes {format_time(statistics.fmean(now))}"
    if not then:
        return f"{mean}, which this baseline does not know, so it decides nothing: record it again to have it judged"
    return f"{mean}, {format_time(max(then))} in {other}; allowed {allowed_pct:g}%"


def _mean_times(runs: Sequence[Run], *, metric: Metric) -> list[float]:
    """Return the mean step time of each run that recorded it."""
    times = []
    for run in runs:
        if run.slow_steps_pct is not None and metric.name in run.metrics:
            mean = run.metrics[metric.name] * (1.0 + run.slow_steps_pct / 100.0)
            times.append(mean)
    return times


def _undecided_text(kind: VerdictKind, *, num_odd: int, num_runs: int) -> str:
    """Return the reason that odd runs decide nothing yet; empty for REGRESSED and without odd runs."""
    if kind is VerdictKind.REGRESSED or not num_odd:
        return ""
    if kind is VerdictKind.INCONCLUSIVE:
        return f"so in {num_odd} of {count_text(num_runs, 'run')}, and another launch is to tell whether by chance"
    if num_runs > 1:
        return f"so in {num_odd} of {count_text(num_runs, 'run')}, which may be chance: nothing is decided by it"
    return "it may be chance: nothing is decided by it"
