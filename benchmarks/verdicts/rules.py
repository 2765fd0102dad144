"""The rules that are put side by side: ours as a session uses it, candidates for it, and what others use today.

A rule gets whole trials, (trials, launches, steps) as scenarios.py lays them out, and how many baseline runs it may
look at. It returns what it called each trial and how many launches of today it spent on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray
from scenarios import MAX_BASELINE_RUNS, MAX_RUNS, NUM_WARMUP, Times, run_costs
from scipy.special import stdtrit
from scipy.stats import mannwhitneyu, norm

from pytest_nemoperf.records.metrics import TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.verdict.sequential import Decision, SequentialRule, cost_of_loss, decide

_CANDIDATE_DOF = 10.0


class Call(IntEnum):
    """What a rule says of a trial."""

    PASSED = 0
    REGRESSED = 1
    UNDECIDED = 2
    IMPROVED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a rule is asked: so many baseline runs, the smallest loss that matters, the noise to expect."""

    num_baseline: int
    tolerance_pct: float
    prior_pct: float

    @property
    def tolerance(self) -> float:
        """The tolerance as a difference of logarithms."""
        return cost_of_loss(self.tolerance_pct, metric=TOKENS_PER_SEC_PER_GPU)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """What a rule called each trial (Call), and how many launches that took."""

    calls: NDArray[np.int8]
    launches: NDArray[np.int8]


RuleFunction = Callable[[Times, Question], Calls]


def ours(times: Times, question: Question) -> Calls:
    """Launch, decide, launch again while undecided: as a session does it, with the plugin's own code."""
    numbers = {
        Decision.SAME: Call.PASSED,
        Decision.WORSE: Call.REGRESSED,
        Decision.BETTER: Call.IMPROVED,
        Decision.UNDECIDED: Call.UNDECIDED,
    }
    rule = SequentialRule(noise_pct=question.prior_pct, max_runs=MAX_RUNS)
    tolerance, costs = question.tolerance, run_costs(times)
    then = costs[:, MAX_BASELINE_RUNS - question.num_baseline : MAX_BASELINE_RUNS].tolist()
    calls, launches = [], []
    for before, now in zip(then, costs[:, MAX_BASELINE_RUNS:].tolist(), strict=True):
        for count in range(1, MAX_RUNS + 1):
            decision = decide(before, now[:count], tolerance=tolerance, rule=rule).decision
            if decision is not Decision.UNDECIDED:
                break
        calls.append(numbers[decision])
        launches.append(count)
    return Calls(calls=np.array(calls, dtype=np.int8), launches=np.array(launches, dtype=np.int8))


# Candidates: they share the mean of runs, and a variance from all runs that is shrunk towards the prior.


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What is known after so many launches: loss and its standard error, of each trial."""

    number: int
    loss: Times
    share: float
    noise: Times
    dof: float
    question: Question

    @property
    def error(self) -> Times:
        """Standard error of the loss."""
        return self.noise * math.sqrt(self.share)


Boundary = Callable[[Look], tuple[NDArray[np.bool_], NDArray[np.bool_]]]


def by_looks(times: Times, question: Question, *, boundary: Boundary) -> Calls:
    """Look after each launch; the boundary says which trials are worse and which the same."""
    costs = run_costs(times)
    then = costs[:, MAX_BASELINE_RUNS - question.num_baseline : MAX_BASELINE_RUNS]
    calls = np.full(len(times), Call.UNDECIDED, dtype=np.int8)
    launches = np.full(len(times), MAX_RUNS, dtype=np.int8)
    is_open = np.ones(len(times), dtype=bool)
    for number in range(1, MAX_RUNS + 1):
        now = costs[:, MAX_BASELINE_RUNS : MAX_BASELINE_RUNS + number]
        dof = _CANDIDATE_DOF + question.num_baseline + number - 2
        squares = _CANDIDATE_DOF * (question.prior_pct / 100.0) ** 2 + _squares(then) + _squares(now)
        look = Look(
            number=number,
            loss=now.mean(axis=1) - then.mean(axis=1),
            share=1.0 / question.num_baseline + 1.0 / number,
            noise=np.sqrt(squares / dof),
            dof=dof,
            question=question,
        )
        is_worse, is_same = boundary(look)
        for call, found in ((Call.REGRESSED, is_worse), (Call.PASSED, is_same)):
            calls[is_open & found] = call
            launches[is_open & found] = number
            is_open &= ~found
    return Calls(calls=calls, launches=launches)


def likelihood_ratio(look: Look) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Wald's sequential test in Rushton's form for an unknown variance: none against a loss of the tolerance."""
    alpha, beta = 0.002, 0.01
    scatter = look.dof * look.noise**2

    def surprise(loss: float) -> Times:
        logarithm: Times = np.log(scatter + (look.loss - loss) ** 2 / look.share)
        return logarithm

    ratio = (look.dof + 1.0) / 2.0 * (surprise(0.0) - surprise(look.question.tolerance))
    return ratio >= math.log((1.0 - beta) / alpha), ratio <= math.log(beta / (1.0 - alpha))


def group_sequential(look: Look, *, shape: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Bounds that are fixed beforehand for five looks: O'Brien and Fleming's, or Pocock's."""
    worse, same = (
        _boundary_constant(level, shape) * (math.sqrt(MAX_RUNS / look.number) if shape == "obrien-fleming" else 1.0)
        for level in (0.002, 0.01)
    )
    above, below = (float(stdtrit(look.dof, norm.cdf(bound))) for bound in (worse, same))
    return look.loss > above * look.error, look.question.tolerance - look.loss > below * look.error


def posterior(look: Look) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Flat prior on the loss: stop when a loss, or a loss below the tolerance, is as good as certain."""
    above, below = (float(stdtrit(look.dof, sure)) for sure in (0.998, 0.99))
    return look.loss > above * look.error, look.question.tolerance - look.loss > below * look.error


@cache
def _boundary_constant(level: float, shape: str) -> float:
    """Return the constant of a boundary over five looks, by simulation of the sums it watches."""
    rng = np.random.default_rng(1977)
    looks = np.arange(1, MAX_RUNS + 1)
    walks = np.cumsum(rng.standard_normal((400_000, MAX_RUNS)), axis=1) / np.sqrt(looks)
    weights = np.sqrt(looks / MAX_RUNS) if shape == "obrien-fleming" else np.ones(MAX_RUNS)
    return float(np.quantile((walks * weights).max(axis=1), 1.0 - level))


def _squares(values: Times) -> Times:
    squares: Times = ((values - values.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    return squares


# Incumbents: one launch each side (the last of the baseline, the first of today) unless said otherwise. Where the
# tolerance is theirs to choose it is the scenario's, so that all rules are asked the same.


def megatron_bridge(times: Times, question: Question) -> Calls:
    """Mean rate after the first 10% of steps, within the tolerance either way."""
    skipped = math.ceil(times.shape[-1] * 0.1)
    then, now = ((1.0 / side[:, skipped:]).mean(axis=1) for side in _one_launch_each(times))
    return _two_sided(now / then - 1.0, tolerance_pct=question.tolerance_pct)


def megatron_lm(times: Times, question: Question) -> Calls:
    """Median step of a fixed window, relative tolerance either way."""
    then, now = (np.median(side[:, NUM_WARMUP:], axis=1) for side in _one_launch_each(times))
    return _two_sided(1.0 - now / then, tolerance_pct=question.tolerance_pct)


def megatron_moe(times: Times, question: Question) -> Calls:  # noqa: ARG001 (its 2% are its own)
    """Megatron-LM's moe_perf: ratio of means at most 1.02; refuses steps whose deviation is above 2% of the mean."""
    then, now = (side[:, NUM_WARMUP:] for side in _one_launch_each(times))
    is_below_noise_floor = (then.std(axis=1) > 0.02 * then.mean(axis=1)) | (now.std(axis=1) > 0.02 * now.mean(axis=1))
    is_worse = now.mean(axis=1) > 1.02 * then.mean(axis=1)
    return _once(np.where(is_below_noise_floor, Call.UNDECIDED, np.where(is_worse, Call.REGRESSED, Call.PASSED)))


def pytest_benchmark(times: Times, question: Question) -> Calls:
    """--benchmark-compare-fail=min: the fastest step against the fastest."""
    then, now = (side[:, NUM_WARMUP:].min(axis=1) for side in _one_launch_each(times))
    return _one_sided(now, then=then, tolerance_pct=question.tolerance_pct)


def tensorrt_llm(times: Times, question: Question) -> Calls:
    """Mean of the newest three against the 95th percentile of history, in throughput; three days are three launches."""
    rates = (1.0 / times[..., NUM_WARMUP:]).mean(axis=-1)
    history = rates[:, MAX_BASELINE_RUNS - question.num_baseline : MAX_BASELINE_RUNS]
    best = np.percentile(history, 95, axis=1)
    now = rates[:, MAX_BASELINE_RUNS : MAX_BASELINE_RUNS + 3].mean(axis=1)
    is_worse = now < best * (1.0 - question.tolerance_pct / 100.0)
    return Calls(
        calls=np.where(is_worse, Call.REGRESSED, Call.PASSED).astype(np.int8),
        launches=np.full(len(times), 3, dtype=np.int8),
    )


def mann_whitney(times: Times, question: Question) -> Calls:  # noqa: ARG001 (it knows no tolerance)
    """Are today's steps slower, by ranks, at 1%: it takes steps of one launch for independent runs."""
    then, now = (side[:, NUM_WARMUP:] for side in _one_launch_each(times))
    found = mannwhitneyu(now, then, alternative="greater", axis=1, method="asymptotic").pvalue < 0.01
    return _once(np.where(found, Call.REGRESSED, Call.PASSED))


def flat_mean(times: Times, question: Question) -> Calls:
    """Mean step within the tolerance of one run's."""
    then, now = (side[:, NUM_WARMUP:].mean(axis=1) for side in _one_launch_each(times))
    return _one_sided(now, then=then, tolerance_pct=question.tolerance_pct)


def _one_launch_each(times: Times) -> tuple[Times, Times]:
    return times[:, MAX_BASELINE_RUNS - 1], times[:, MAX_BASELINE_RUNS]


def _two_sided(change: Times, *, tolerance_pct: float) -> Calls:
    """A test of this kind fails either way; what fails is called REGRESSED."""
    return _once(np.where(np.abs(change) > tolerance_pct / 100.0, Call.REGRESSED, Call.PASSED))


def _one_sided(now: Times, *, then: Times, tolerance_pct: float) -> Calls:
    is_worse = then / now - 1.0 < -tolerance_pct / 100.0
    return _once(np.where(is_worse, Call.REGRESSED, Call.PASSED))


def _once(calls: NDArray[np.int_]) -> Calls:
    return Calls(calls=calls.astype(np.int8), launches=np.ones(len(calls), dtype=np.int8))


OURS = "ours"
CANDIDATES: dict[str, RuleFunction] = {
    OURS: ours,
    "sequential t test": partial(by_looks, boundary=likelihood_ratio),
    "O'Brien-Fleming": partial(by_looks, boundary=partial(group_sequential, shape="obrien-fleming")),
    "Pocock": partial(by_looks, boundary=partial(group_sequential, shape="pocock")),
    "posterior": partial(by_looks, boundary=posterior),
}
INCUMBENTS: dict[str, RuleFunction] = {
    "Megatron-Bridge": megatron_bridge,
    "Megatron-LM": megatron_lm,
    "Megatron moe_perf": megatron_moe,
    "pytest-benchmark min": pytest_benchmark,
    "TensorRT-LLM": tensorrt_llm,
    "Mann-Whitney, steps": mann_whitney,
    "flat mean": flat_mean,
}
RULES = {**CANDIDATES, **INCUMBENTS}
