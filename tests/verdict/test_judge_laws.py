"""Laws of every verdict, for all numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.baselines.baseline import Anchor
from pytest_nemoperf.measure.figures import cost
from pytest_nemoperf.records.metrics import PEAK_MEMORY_GIB, TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.verdict.judge import judge
from pytest_nemoperf.verdict.policy import VerdictPolicy
from pytest_nemoperf.verdict.sequential import Decision, SequentialResult, SequentialRule, decide, margin
from tests.builders import MACHINE, make_baseline, make_measurement, make_policy, make_provenance, make_runs

TOLERANCE = 0.05
RANKS = {Decision.BETTER: 0, Decision.SAME: 1, Decision.UNDECIDED: 2, Decision.WORSE: 3}

scatter = st.floats(min_value=-0.02, max_value=0.02)
costs = st.lists(scatter, min_size=1, max_size=5)
levels = st.floats(min_value=-0.12, max_value=0.12)
noises = st.sampled_from((0.01, 0.3, 1.2, 4.0))
rates = st.lists(st.floats(min_value=800.0, max_value=1200.0), min_size=1, max_size=5)
five_rates = st.lists(st.floats(min_value=800.0, max_value=1200.0), min_size=5, max_size=5)
days = st.lists(st.sampled_from(("", "monday", "tuesday", "wednesday")), min_size=5, max_size=5)
policies = st.sampled_from(
    (
        make_policy(),
        make_policy(session_noise_pct=3.0),
        make_policy(finds={"tokens_per_sec_per_gpu": 8.0, "peak_memory_gib": 4.0}),
        make_policy(finds={"tokens_per_sec_per_gpu": 2.0}, session_noise_pct=3.0),
        make_policy(confirming_rounds=8, max_runs=2),
        make_policy(confirming_rounds=8, max_runs=2, finds={"tokens_per_sec_per_gpu": 4.0}),
        make_policy(max_runs=1),
    )
)


def decided(
    then: Sequence[float],
    now: Sequence[float],
    *,
    noise_pct: float = 1.2,
    session_noise_pct: float = 0.0,
    sessions: Sequence[str] = (),
) -> SequentialResult:
    """Return the result of a test that must find what these runs find."""
    rule = SequentialRule(noise_pct=noise_pct, session_noise_pct=session_noise_pct)
    beyond = margin(then, sessions=sessions, stall_limit=TOLERANCE, rule=rule)
    return decide(
        then,
        now,
        sessions=sessions,
        tolerance=TOLERANCE,
        must_find=TOLERANCE + beyond,
        stall_limit=TOLERANCE,
        rule=rule,
    )


def costs_of(rates: Sequence[float], *, unit: float = 1.0) -> list[float]:
    return [cost(rate * unit, metric=TOKENS_PER_SEC_PER_GPU) for rate in rates]


@given(then=costs, scattered=costs, level=levels, slowed=st.data(), noise=noises, days_apart=noises, labels=days)
def test_slowing_a_launch_never_makes_a_decision_better(
    then: list[float],
    scattered: list[float],
    level: float,
    slowed: st.DataObject,
    noise: float,
    days_apart: float,
    labels: list[str],
) -> None:
    noises_pct = {"noise_pct": noise, "session_noise_pct": days_apart}
    sessions = labels[: len(then)]
    now = [level + value for value in scattered]
    number = slowed.draw(st.integers(0, len(now) - 1))
    slower = [*now]
    slower[number] += slowed.draw(st.floats(min_value=0.0, max_value=0.5))

    before = decided(then, now, sessions=sessions, **noises_pct)
    after = decided(then, slower, sessions=sessions, **noises_pct)

    assert after.worsening >= before.worsening - 1e-12
    if before.decision is not Decision.UNDECIDED:  # before the last launch much faster is undecided as well
        assert RANKS[after.decision] >= RANKS[before.decision]
    elif before.worsening >= 0:
        assert after.decision in {Decision.UNDECIDED, Decision.WORSE}


@given(then=costs, now=st.lists(scatter, min_size=5, max_size=5), noise=noises)
def test_at_the_last_launch_decisions_are_in_order(then: list[float], now: list[float], noise: float) -> None:
    shifts = (-0.1, -0.05, -0.02, 0.0, 0.02, 0.05, 0.1)
    found = [decided(then, [value + shift for value in now], noise_pct=noise) for shift in shifts]

    ranks = [RANKS[evidence.decision] for evidence in found]
    assert ranks == sorted(ranks)


@given(
    before=rates,
    anchored=st.none() | rates,
    after=five_rates,
    factor=st.floats(min_value=0.5, max_value=1.0),
    labels=days,
    policy=policies,
)
def test_slower_is_never_judged_better_than_faster(
    before: list[float],
    anchored: list[float] | None,
    after: list[float],
    factor: float,
    labels: list[str],
    policy: VerdictPolicy,
) -> None:
    runs = make_runs(anchored or before, sessions=labels)
    anchor = Anchor(name="25.09", runs=runs, provenance=make_provenance()) if anchored else None
    baseline = make_baseline(runs=make_runs(before, sessions=labels), anchor=anchor)
    order = [VerdictKind.IMPROVED, VerdictKind.PASSED, VerdictKind.INCONCLUSIVE, VerdictKind.REGRESSED]
    launched = after[: policy.num_launches]

    faster = judge(make_measurement(launched), baseline=baseline, machine=MACHINE, policy=policy)
    reduced = [rate * factor for rate in launched]
    slower = judge(make_measurement(reduced), baseline=baseline, machine=MACHINE, policy=policy)

    assert order.index(slower.kind) >= order.index(faster.kind)


@given(before=rates, now=st.floats(min_value=1.0, max_value=1200.0), labels=days, policy=policies)
def test_one_launch_is_never_a_regression(
    before: list[float], now: float, labels: list[str], policy: VerdictPolicy
) -> None:
    baseline = make_baseline(runs=make_runs(before, sessions=labels))

    verdict = judge(make_measurement((now,)), baseline=baseline, machine=MACHINE, policy=policy)

    assert verdict.kind is not VerdictKind.REGRESSED


@given(then=costs, labels=days, now=costs, shuffled=st.randoms(use_true_random=False))
def test_the_order_of_runs_says_nothing(
    then: list[float], labels: list[str], now: list[float], shuffled: random.Random
) -> None:
    runs = list(zip(then, labels[: len(then)], strict=True))
    mixed_runs = list(runs)
    mixed_now = list(now)
    shuffled.shuffle(mixed_runs)
    shuffled.shuffle(mixed_now)

    plain = decided(then, now, sessions=[day for _, day in runs], session_noise_pct=0.5)
    mixed = decided(
        [value for value, _ in mixed_runs], mixed_now, sessions=[day for _, day in mixed_runs], session_noise_pct=0.5
    )

    assert math.isclose(mixed.worsening, plain.worsening, abs_tol=1e-12)
    assert math.isclose(mixed.noise_pct, plain.noise_pct, rel_tol=1e-9)
    assert math.isclose(mixed.session_noise_pct, plain.session_noise_pct, rel_tol=1e-9)
    assert mixed.decision is plain.decision


@given(then=rates, labels=days, now=rates, unit=st.sampled_from((1e-9, 1e-3, 60.0, 1e12)))
def test_units_say_nothing(then: list[float], labels: list[str], now: list[float], unit: float) -> None:
    sessions = labels[: len(then)]

    plain = decided(costs_of(then), costs_of(now), sessions=sessions, session_noise_pct=0.5)
    scaled = decided(costs_of(then, unit=unit), costs_of(now, unit=unit), sessions=sessions, session_noise_pct=0.5)

    assert math.isclose(plain.worsening, scaled.worsening, abs_tol=1e-9)
    assert math.isclose(plain.noise_pct, scaled.noise_pct, rel_tol=1e-6)
    assert math.isclose(plain.session_noise_pct, scaled.session_noise_pct, rel_tol=1e-6)
    if min(abs(plain.worsening - edge) for edge in (-TOLERANCE, TOLERANCE)) > 1e-6:
        assert plain.decision is scaled.decision


@given(before=rates, labels=days, find_pct=st.floats(min_value=1.0, max_value=30.0))
def test_what_is_asked_to_be_found_is_found_or_nothing_is_allowed(
    before: list[float], labels: list[str], find_pct: float
) -> None:
    baseline = make_baseline(runs=make_runs(before, sessions=labels))
    policy = make_policy(finds={"tokens_per_sec_per_gpu": find_pct})

    verdict = judge(make_measurement((1000.0,) * 5), baseline=baseline, machine=MACHINE, policy=policy)

    (speed,) = (each for each in verdict.comparisons if each.metric == "tokens_per_sec_per_gpu")
    assert speed.finds_pct is not None
    if speed.allowed_pct > 0.0:
        assert math.isclose(speed.finds_pct, find_pct, rel_tol=1e-9)
        assert speed.allowed_pct < find_pct
    else:
        assert speed.finds_pct >= find_pct - 1e-9


@given(then=rates, now=rates)
def test_a_rate_and_its_time_are_the_same_evidence(then: list[float], now: list[float]) -> None:
    by_rate = decided(*([cost(rate, metric=TOKENS_PER_SEC_PER_GPU) for rate in side] for side in (then, now)))
    by_time = decided(*([cost(1.0 / rate, metric=PEAK_MEMORY_GIB) for rate in side] for side in (then, now)))

    assert math.isclose(by_rate.worsening, by_time.worsening, abs_tol=1e-9)
    assert math.isclose(by_rate.noise_pct, by_time.noise_pct, rel_tol=1e-6)


@given(value=st.floats(min_value=1e-300, max_value=1e300), runs=st.integers(1, 5), launches=st.integers(1, 5))
def test_identical_values_are_the_same_however_huge_or_tiny(value: float, runs: int, launches: int) -> None:
    level = cost(value, metric=TOKENS_PER_SEC_PER_GPU)

    evidence = decided([level] * runs, [level] * launches, noise_pct=0.5)

    assert evidence.decision is Decision.SAME
    assert math.isclose(evidence.worsening, 0.0, abs_tol=1e-9)


@given(
    then=st.lists(st.floats(min_value=1e-300, max_value=1e300), min_size=1, max_size=5),
    now=st.lists(st.floats(min_value=1e-300, max_value=1e300), min_size=1, max_size=5),
)
def test_any_positive_finite_values_give_finite_evidence(then: list[float], now: list[float]) -> None:
    evidence = decided(*([cost(rate, metric=TOKENS_PER_SEC_PER_GPU) for rate in side] for side in (then, now)))

    assert all(map(math.isfinite, (evidence.low, evidence.worsening, evidence.high, evidence.noise_pct)))
    assert evidence.low <= evidence.worsening <= evidence.high
