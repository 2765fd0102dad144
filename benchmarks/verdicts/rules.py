"""The rules that are put side by side: ours as a session uses it, the one of before, and what others use.

A rule gets whole trials as scenarios.py lays them out. It returns what it called each trial, and the launches and
rounds of today that it spent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from old_rule import OLD_TOLERANCES_PCT, load_old_rule
from scenarios import (
    MAX_BASELINE_RUNS,
    MAX_RUNS,
    NUM_SESSIONS,
    NUM_WARMUP,
    RUNS_OF_A_SESSION,
    Noise,
    Scenario,
    Times,
    Trials,
    run_costs,
)
from scipy.stats import mannwhitneyu

from pytest_nemoperf.ab.comparison import MIN_ROUNDS, least_noise_pct
from pytest_nemoperf.ab.series import affordable_rounds
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.metrics import TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.verdict.defaults import CONFIRMING_ROUNDS
from pytest_nemoperf.verdict.limits import Limits, round_limits, stored_limits
from pytest_nemoperf.verdict.policy import VerdictPolicy, system_policy
from pytest_nemoperf.verdict.sequential import Decision, cost_of_loss, decide, decide_ratio

METRIC = TOKENS_PER_SEC_PER_GPU


class Call(IntEnum):
    """What a rule says of a trial."""

    PASSED = 0
    REGRESSED = 1
    UNDECIDED = 2
    IMPROVED = 3


CALL_OF = {
    Decision.SAME: Call.PASSED,
    Decision.WORSE: Call.REGRESSED,
    Decision.BETTER: Call.IMPROVED,
    Decision.UNDECIDED: Call.UNDECIDED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a rule is asked.

    Attributes:
        system: System of the catalog.
        policy: Tolerance, noise and error rates.
        num_sessions: Sessions of the baseline.
    """

    system: str
    policy: VerdictPolicy
    num_sessions: int = 1

    @property
    def tolerance_pct(self) -> float:
        """Loss that is allowed."""
        return self.policy.tolerance_pct(METRIC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """What a rule called each trial (Call), and the launches and rounds that took."""

    calls: NDArray[np.int8]
    launches: NDArray[np.int8]
    rounds: NDArray[np.int8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One way that ours is asked.

    Attributes:
        name: In tables.
        is_told_truth: It is told the noise of the machine; else what the catalog says of the class.
        is_confirmed: What the baseline does not clear is compared side by side.
        num_sessions: Sessions of the baseline.
    """

    name: str
    is_told_truth: bool
    is_confirmed: bool
    num_sessions: int = 1


USUAL = Mode(name="rounds, told the catalog", is_told_truth=False, is_confirmed=True)
MODES = (
    Mode(name="rounds, told the truth", is_told_truth=True, is_confirmed=True),
    USUAL,
    Mode(name="stored alone, told the truth", is_told_truth=True, is_confirmed=False),
    Mode(name="stored alone, told the catalog", is_told_truth=False, is_confirmed=False),
    Mode(name="5 sessions alone, told the truth", is_told_truth=True, is_confirmed=False, num_sessions=NUM_SESSIONS),
    Mode(name="5 sessions alone, told the catalog", is_told_truth=False, is_confirmed=False, num_sessions=NUM_SESSIONS),
)

RuleFunction = Callable[[Trials, Question], Calls]


def policy_of(system: str, *, told: Noise | None = None, is_confirmed: bool = True) -> VerdictPolicy:
    """Return the policy of a system, maybe told another noise than the catalog's."""
    policy = system_policy(find_system(system))
    if told is not None:
        policy = replace(
            policy,
            run_noise_pct=told.run_pct,
            session_noise_pct=told.session_pct,
            round_noise_pct=told.round_pct,
        )
    return replace(policy, confirming_rounds=CONFIRMING_ROUNDS if is_confirmed else 0)


def question_of(scenario: Scenario, *, mode: Mode) -> Question:
    """Return what ours is asked of a scenario in a mode."""
    told = scenario.truth if mode.is_told_truth else None
    policy = policy_of(scenario.system, told=told, is_confirmed=mode.is_confirmed)
    return Question(system=scenario.system, policy=policy, num_sessions=mode.num_sessions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What a session did with a case.

    Attributes:
        screen: Decision of the stored baseline.
        decision: Final decision.
        launches: Launches that it took.
        rounds: Rounds that it took.
    """

    screen: Decision
    decision: Decision
    launches: int
    rounds: int


def limits_of(before: Sequence[float], *, sessions: Sequence[str], policy: VerdictPolicy) -> Limits:
    """Return what a stored baseline allows and finds."""
    rule = policy.rule(METRIC, runs=())
    return stored_limits(before, sessions=sessions, metric=METRIC, policy=policy, rule=rule)


def run_session(
    before: Sequence[float],
    *,
    sessions: Sequence[str],
    now: Sequence[float],
    rounds: Sequence[float],
    policy: VerdictPolicy,
    errors: Sequence[float] = (),
    durations: Sequence[float] = (),
    limit_sec: float = 0.0,
) -> Session:
    """Launch while the stored baseline is undecided, then compare in rounds what it does not clear, as a session does.

    Args:
        before: Costs of the baseline's runs.
        sessions: Session of each of them.
        now: Costs of today's launches, as many as there may be.
        rounds: Ratios of today's rounds, as many as there may be.
        policy: Tolerance, noise, error rates.
        errors: Standard error of each round's ratio by its own steps; empty if not known.
        durations: Seconds of each round; empty where there is no limit in time.
        limit_sec: Seconds for all rounds.
    """
    rule = policy.rule(METRIC, runs=())
    limits = stored_limits(before, sessions=sessions, metric=METRIC, policy=policy, rule=rule)
    for launches in range(1, policy.num_launches + 1):
        screen = decide(
            before,
            now[:launches],
            sessions=sessions,
            tolerance=limits.allowed,
            must_find=limits.must_find,
            stall_limit=limits.stall_limit,
            rule=rule,
        ).decision
        if screen is not Decision.UNDECIDED:
            break
    if not policy.confirming_rounds or screen in {Decision.SAME, Decision.BETTER}:
        return Session(screen=screen, decision=screen, launches=launches, rounds=0)
    for count in range(1, len(rounds) + 1):
        most = min(policy.confirming_rounds, len(rounds))
        if durations:
            most = min(most, affordable_rounds(durations[:count], num_counted=count, limit_sec=limit_sec))
        decision = Decision.UNDECIDED
        if count >= MIN_ROUNDS:
            num_rounds = max(most, MIN_ROUNDS)
            decision = decide_rounds(rounds[:count], errors=errors[:count], policy=policy, num_rounds=num_rounds)
        if decision is not Decision.UNDECIDED or count >= most:
            break
    return Session(screen=screen, decision=decision, launches=launches, rounds=count)


def decide_rounds(
    ratios: Sequence[float], *, errors: Sequence[float], policy: VerdictPolicy, num_rounds: int
) -> Decision:
    """Return the decision after these rounds, of at most so many."""
    rule = policy.round_rule(METRIC, num_rounds=num_rounds, least_noise_pct=least_noise_pct(errors))
    limits = round_limits(ratios, metric=METRIC, policy=policy, rule=rule)
    return decide_ratio(
        ratios, tolerance=limits.allowed, must_find=limits.must_find, stall_limit=limits.stall_limit, rule=rule
    ).decision


def ours(trials: Trials, question: Question) -> Calls:
    """Return what a session does, by the plugin's own code."""
    costs = run_costs(trials.times)
    baselines, sessions = _baselines(costs, num_sessions=question.num_sessions)
    calls = []
    launches = []
    rounds = []
    today = costs[:, MAX_BASELINE_RUNS:].tolist()
    for before, now, ratios in zip(baselines, today, trials.rounds.tolist(), strict=True):
        session = run_session(before, sessions=sessions, now=now, rounds=ratios, policy=question.policy)
        calls.append(CALL_OF[session.decision])
        launches.append(session.launches)
        rounds.append(session.rounds)
    return Calls(
        calls=np.array(calls, dtype=np.int8),
        launches=np.array(launches, dtype=np.int8),
        rounds=np.array(rounds, dtype=np.int8),
    )


def found_costs(trials: Trials, question: Question) -> Times:
    """Return the loss that each trial's baseline says it finds, as a cost."""
    baselines, sessions = _baselines(run_costs(trials.times), num_sessions=question.num_sessions)
    if question.policy.confirming_rounds:  # the same for all: it follows from what rounds are expected to show
        return np.full(len(baselines), limits_of(baselines[0], sessions=sessions, policy=question.policy).found)
    return np.array([limits_of(before, sessions=sessions, policy=question.policy).found for before in baselines])


def _baselines(costs: Times, *, num_sessions: int) -> tuple[list[list[float]], list[str]]:
    """Return the costs of each trial's baseline, and the session of each run."""
    first = MAX_BASELINE_RUNS - num_sessions * RUNS_OF_A_SESSION
    sessions = []
    for number in range(num_sessions):
        sessions += [str(number)] * RUNS_OF_A_SESSION
    return costs[:, first:MAX_BASELINE_RUNS].tolist(), sessions


def before_this(trials: Trials, question: Question) -> Calls:
    """Return what the rule of before does, with its own tolerance: launch, decide, launch again while undecided."""
    old: Any = load_old_rule()
    rule = old.SequentialRule(noise_pct=question.policy.run_noise_pct, max_runs=MAX_RUNS)
    tolerance = cost_of_loss(OLD_TOLERANCES_PCT[question.system], metric=METRIC)
    costs = run_costs(trials.times)
    baselines, _ = _baselines(costs, num_sessions=1)
    calls = []
    launches = []
    for before, now in zip(baselines, costs[:, MAX_BASELINE_RUNS:].tolist(), strict=True):
        call, number = old_session(old, before, now=now, tolerance=tolerance, rule=rule)
        calls.append(call)
        launches.append(number)
    return Calls(
        calls=np.array(calls, dtype=np.int8),
        launches=np.array(launches, dtype=np.int8),
        rounds=np.zeros(len(calls), dtype=np.int8),
    )


def old_session(
    old: Any, before: Sequence[float], *, now: Sequence[float], tolerance: float, rule: Any
) -> tuple[Call, int]:
    """Return what the rule of before calls a session, and its launches."""
    for number in range(1, len(now) + 1):
        decision = old.decide(before, now[:number], tolerance=tolerance, rule=rule).decision
        if decision is not old.Decision.UNDECIDED:
            break
    return CALL_OF[Decision(decision.value)], number


# Rules of others: one launch each side (the last of the baseline, the first of today) unless said otherwise. Where the
# tolerance is theirs to choose it is ours, so that all rules are asked the same.


def megatron_bridge(trials: Trials, question: Question) -> Calls:
    """Mean rate after the first 10% of steps, within the tolerance either way."""
    skipped = math.ceil(trials.times.shape[-1] * 0.1)
    then, now = ((1.0 / side[:, skipped:]).mean(axis=1) for side in _one_launch_each(trials.times))
    return _two_sided(now / then - 1.0, tolerance_pct=question.tolerance_pct)


def megatron_lm(trials: Trials, question: Question) -> Calls:
    """Median step of a fixed window, relative tolerance either way."""
    then, now = (np.median(side[:, NUM_WARMUP:], axis=1) for side in _one_launch_each(trials.times))
    return _two_sided(1.0 - now / then, tolerance_pct=question.tolerance_pct)


def megatron_moe(trials: Trials, question: Question) -> Calls:  # noqa: ARG001 (its 2% are its own)
    """Megatron-LM's moe_perf: ratio of means at most 1.02; refuses steps whose deviation is above 2% of the mean."""
    then, now = (side[:, NUM_WARMUP:] for side in _one_launch_each(trials.times))
    is_below_noise_floor = (then.std(axis=1) > 0.02 * then.mean(axis=1)) | (now.std(axis=1) > 0.02 * now.mean(axis=1))
    is_worse = now.mean(axis=1) > 1.02 * then.mean(axis=1)
    return _once(np.where(is_below_noise_floor, Call.UNDECIDED, np.where(is_worse, Call.REGRESSED, Call.PASSED)))


def pytest_benchmark(trials: Trials, question: Question) -> Calls:
    """--benchmark-compare-fail=min: the fastest step against the fastest."""
    then, now = (side[:, NUM_WARMUP:].min(axis=1) for side in _one_launch_each(trials.times))
    return _one_sided(now, then=then, tolerance_pct=question.tolerance_pct)


def tensorrt_llm(trials: Trials, question: Question) -> Calls:
    """Mean of the newest three against the 95th percentile of history, in throughput; three days are three launches."""
    rates = (1.0 / trials.times[..., NUM_WARMUP:]).mean(axis=-1)
    history = rates[:, MAX_BASELINE_RUNS - RUNS_OF_A_SESSION : MAX_BASELINE_RUNS]
    best = np.percentile(history, 95, axis=1)
    now = rates[:, MAX_BASELINE_RUNS : MAX_BASELINE_RUNS + 3].mean(axis=1)
    is_worse = now < best * (1.0 - question.tolerance_pct / 100.0)
    return _calls_of(np.where(is_worse, Call.REGRESSED, Call.PASSED), launches=3)


def mann_whitney(trials: Trials, question: Question) -> Calls:  # noqa: ARG001 (it knows no tolerance)
    """Are today's steps slower, by ranks, at 1%: it takes steps of one launch for independent runs."""
    then, now = (side[:, NUM_WARMUP:] for side in _one_launch_each(trials.times))
    found = mannwhitneyu(now, then, alternative="greater", axis=1, method="asymptotic").pvalue < 0.01
    return _once(np.where(found, Call.REGRESSED, Call.PASSED))


def flat_mean(trials: Trials, question: Question) -> Calls:
    """Mean step within the tolerance of one run's."""
    then, now = (side[:, NUM_WARMUP:].mean(axis=1) for side in _one_launch_each(trials.times))
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
    return _calls_of(calls, launches=1)


def _calls_of(calls: NDArray[np.int_], *, launches: int) -> Calls:
    return Calls(
        calls=calls.astype(np.int8),
        launches=np.full(len(calls), launches, dtype=np.int8),
        rounds=np.zeros(len(calls), dtype=np.int8),
    )


BEFORE = "ours, before"
PEERS: dict[str, RuleFunction] = {
    "Megatron-LM": megatron_lm,
    "Megatron-Bridge": megatron_bridge,
    "Megatron moe_perf": megatron_moe,
    "pytest-benchmark min": pytest_benchmark,
    "TensorRT-LLM": tensorrt_llm,
    "Mann-Whitney, steps": mann_whitney,
    "flat mean": flat_mean,
}
