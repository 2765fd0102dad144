from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from pytest_nemoperf.measure.figures import cost
from pytest_nemoperf.records.metrics import PEAK_MEMORY_GIB, TOKENS_PER_SEC_PER_GPU, Metric
from pytest_nemoperf.verdict.sequential import (
    Decision,
    SequentialResult,
    SequentialRule,
    cost_of_loss,
    decide,
    decide_ratio,
    loss_of_cost,
    margin,
    margin_of_ratios,
    runs_needed,
)

QUIET = SequentialRule(noise_pct=0.5)
OF_DAYS = SequentialRule(noise_pct=0.5, session_noise_pct=1.0)
TOLERANCE = 0.05
FIVE_RUNS = (-0.004, 0.003, 0.0, 0.005, -0.003)


def margin_of(baseline: Sequence[float], *, rule: SequentialRule = QUIET, sessions: Sequence[str] = ()) -> float:
    return margin(baseline, sessions=sessions, stall_limit=TOLERANCE, rule=rule)


def decided(
    baseline: Sequence[float],
    now: Sequence[float],
    *,
    rule: SequentialRule = QUIET,
    sessions: Sequence[str] = (),
) -> SequentialResult:
    """Return the result of a test that must find what these runs find."""
    return decide(
        baseline,
        now,
        sessions=sessions,
        tolerance=TOLERANCE,
        must_find=TOLERANCE + margin_of(baseline, rule=rule, sessions=sessions),
        stall_limit=TOLERANCE,
        rule=rule,
    )


def decided_by_ratios(ratios: Sequence[float], *, rule: SequentialRule) -> SequentialResult:
    must_find = TOLERANCE + margin_of_ratios(ratios, rule=rule)
    return decide_ratio(ratios, tolerance=TOLERANCE, must_find=must_find, stall_limit=TOLERANCE, rule=rule)


@pytest.mark.parametrize(
    ("now", "decision"),
    [
        pytest.param((0.004,), Decision.SAME, id="one-launch-that-repeats-the-baseline"),
        pytest.param((0.045,), Decision.SAME, id="nearly-the-tolerance"),
        pytest.param((0.055,), Decision.UNDECIDED, id="a-little-beyond-the-tolerance"),
        pytest.param((0.09,), Decision.UNDECIDED, id="one-slow-launch"),
        pytest.param((0.07, 0.072), Decision.WORSE, id="two-slow-launches"),
        pytest.param((0.07, 0.0), Decision.SAME, id="the-second-takes-it-back"),
        pytest.param((0.30, 0.0, 0.001), Decision.SAME, id="one-stalled-launch"),
        pytest.param((-0.09,), Decision.UNDECIDED, id="one-fast-launch"),
        pytest.param((-0.07, -0.072), Decision.BETTER, id="two-fast-launches"),
        pytest.param((0.049,) * 5, Decision.SAME, id="just-what-is-allowed"),
        pytest.param((0.055,) * 5, Decision.UNDECIDED, id="between-allowed-and-found"),
        pytest.param((0.07,) * 5, Decision.WORSE, id="what-is-found"),
    ],
)
def test_launches_decide(now: tuple[float, ...], decision: Decision) -> None:
    assert decided(FIVE_RUNS, now).decision is decision


def test_a_loss_beyond_the_tolerance_needs_to_be_certain() -> None:
    noisy = replace(QUIET, noise_pct=2.0)

    assert decided(FIVE_RUNS, (0.07,) * 5).decision is Decision.WORSE
    assert decided(FIVE_RUNS, (0.07,) * 5, rule=noisy).decision is Decision.UNDECIDED


@pytest.mark.parametrize(("loss", "decision"), [(0.0606, Decision.WORSE), (-0.053, Decision.SAME)])
def test_the_last_launch_decides_what_could_have_waited(loss: float, decision: Decision) -> None:
    longer = replace(QUIET, max_runs=6)

    assert decided(FIVE_RUNS, (loss,) * 5).decision is decision
    assert decided(FIVE_RUNS, (loss,) * 5, rule=longer).decision is Decision.UNDECIDED


@pytest.mark.parametrize("loss", [0.06, 0.2, 3.0])
def test_one_launch_never_condemns_however_slow_it_was(loss: float) -> None:
    assert decided(FIVE_RUNS, (loss,), rule=replace(QUIET, max_runs=1)).decision is Decision.UNDECIDED


def test_what_is_measured_once_a_session_may_be_condemned_by_that_run() -> None:
    rule = replace(QUIET, max_runs=1, min_runs=1)

    assert decided(FIVE_RUNS, (0.08,), rule=rule).decision is Decision.WORSE


def test_a_stalled_launch_of_the_baseline_neither_hides_a_loss_nor_counts_as_noise() -> None:
    stalled = decided((*FIVE_RUNS[:4], 0.40), (0.15, 0.152))
    sound = decided(FIVE_RUNS, (0.15, 0.152))

    assert stalled.decision is Decision.WORSE
    assert sound.noise_pct < stalled.noise_pct < 2.0


def test_two_stalled_launches_of_the_baseline_are_noise() -> None:
    stalled = (0.0, 0.001, 0.002, 0.4, 0.4)

    assert margin_of(stalled) > 10.0 * margin_of(FIVE_RUNS)
    assert decided(stalled, (0.3,) * 5).decision is Decision.UNDECIDED


def test_noise_is_shrunk_towards_what_the_class_of_machines_shows() -> None:
    evidence = decided((0.0, 0.02), (0.0,))

    assert evidence.seen_noise_pct == pytest.approx(100.0 * 0.02 / math.sqrt(2.0))
    assert evidence.noise_pct == pytest.approx(math.sqrt((8.0 * 0.5**2 + 1.0 * 2.0) / 9.0))


def test_one_baseline_run_shows_no_noise_and_the_prior_stands_alone() -> None:
    evidence = decided((0.0,), (0.0,))

    assert evidence.seen_noise_pct is None
    assert evidence.noise_pct == pytest.approx(0.5)


def test_the_interval_holds_the_estimate_and_narrows_with_launches() -> None:
    one = decided(FIVE_RUNS, (0.01,))
    five = decided(FIVE_RUNS, (0.01,) * 5)

    assert one.low < five.low < five.worsening < five.high < one.high


def test_more_launches_of_a_session_do_not_narrow_what_days_leave_open() -> None:
    many = decided(FIVE_RUNS, (0.0,) * 100, rule=replace(OF_DAYS, max_runs=100))

    assert many.high - many.low > 2.0 * 1.96 * math.sqrt(2.0) * 0.01


def test_what_is_found_comes_nearer_with_runs_and_moves_away_with_noise() -> None:
    by_runs = [margin((0.0,), stall_limit=TOLERANCE, rule=QUIET, num_runs=count) for count in (1, 3, 5, 10)]

    assert by_runs == sorted(by_runs, reverse=True)
    assert margin_of((0.0,), rule=replace(QUIET, noise_pct=1.0)) == pytest.approx(2.0 * margin_of((0.0,)))


def test_a_case_finds_what_it_calls_worse_at_the_last_launch_and_does_not_pass() -> None:
    found = TOLERANCE + margin_of(FIVE_RUNS)
    usual = sum(FIVE_RUNS) / 5

    at_found = decided(FIVE_RUNS, (usual + found,) * 5)
    halfway = decided(FIVE_RUNS, (usual + (TOLERANCE + found) / 2.0,) * 5)

    assert at_found.decision is Decision.WORSE
    assert not at_found.is_ruled_out
    assert halfway.decision is Decision.UNDECIDED


def test_runs_of_one_session_leave_the_scatter_of_days_to_the_class() -> None:
    evidence = decided(FIVE_RUNS, (0.0,), rule=OF_DAYS)

    assert evidence.num_sessions == 1
    assert evidence.session_noise_pct == pytest.approx(1.0)


def test_runs_without_labels_are_of_one_session() -> None:
    assert decided(FIVE_RUNS, (0.0,), rule=OF_DAYS, sessions=("",) * 5) == decided(FIVE_RUNS, (0.0,), rule=OF_DAYS)


def test_sessions_that_agree_find_more_and_sessions_that_differ_find_less() -> None:
    days = ("mon", "mon", "tue", "tue", "wed", "wed")
    alike = (0.001, -0.001, 0.0, 0.002, -0.002, 0.0)
    apart = (0.051, 0.049, 0.0, 0.002, -0.052, -0.05)

    agreeing = margin_of(alike, rule=OF_DAYS, sessions=days)
    differing = margin_of(apart, rule=OF_DAYS, sessions=days)

    assert agreeing < margin_of(alike, rule=OF_DAYS) < differing


def test_scatter_between_sessions_is_no_scatter_within_them() -> None:
    evidence = decided((0.0, 0.001, 0.05, 0.051), (0.0,), rule=OF_DAYS, sessions=("mon", "mon", "tue", "tue"))

    assert evidence.seen_noise_pct == pytest.approx(100.0 * 0.001 / math.sqrt(2.0))
    assert evidence.noise_pct < 0.5
    assert evidence.session_noise_pct == pytest.approx(math.sqrt((8.0 * 1.0 + 12.5) / 9.0), rel=0.01)


def test_what_runs_of_a_session_scatter_is_not_taken_for_a_difference_of_days() -> None:
    scattered = (-0.004, 0.004, 0.002, -0.002)

    evidence = decided(scattered, (0.0,), rule=OF_DAYS, sessions=("mon", "mon", "tue", "tue"))

    assert evidence.session_noise_pct == pytest.approx(math.sqrt(8.0 / 9.0))


def test_runs_of_a_session_each_that_scatter_little_find_more_than_the_class_expects() -> None:
    once = SequentialRule(noise_pct=4.0, session_noise_pct=1.0, max_runs=1, min_runs=1)
    quiet = FIVE_RUNS * 2
    days = list(map(str, range(10)))

    evidence = decided(quiet, (0.0,), rule=once, sessions=days)

    assert evidence.noise_pct < 3.0
    assert evidence.session_noise_pct < 0.8
    assert margin_of(quiet, rule=once, sessions=days) < margin_of((0.0,) * 2, rule=once, sessions=days[:2])


def test_runs_of_a_session_each_that_scatter_more_than_the_class_expects_show_that_days_differ() -> None:
    evidence = decided((-0.05, 0.05, 0.0, 0.05, -0.05), (0.0,), rule=OF_DAYS, sessions=list("abcde"))

    assert evidence.noise_pct == pytest.approx(0.5)
    assert evidence.session_noise_pct > 2.5


def test_one_run_of_another_day_tells_less_than_a_day_of_as_many() -> None:
    balanced = margin_of((0.0,) * 6, rule=OF_DAYS, sessions=("mon",) * 3 + ("tue",) * 3)
    unbalanced = margin_of((0.0,) * 6, rule=OF_DAYS, sessions=("mon",) * 5 + ("tue",))
    single = margin_of((0.0,) * 6, rule=OF_DAYS, sessions=("mon",) * 6)

    assert balanced < unbalanced < single


def test_the_order_of_sessions_says_nothing() -> None:
    runs = (0.0, 0.001, 0.05, 0.051, 0.02)
    days = ("mon", "mon", "tue", "tue", "wed")

    assert decided(runs[::-1], (0.0,), rule=OF_DAYS, sessions=days[::-1]) == decided(
        runs, (0.0,), rule=OF_DAYS, sessions=days
    )


def test_no_more_runs_are_asked_for_than_reach_the_margin() -> None:
    noisy = SequentialRule(noise_pct=2.0)

    needed = runs_needed((0.0,), stall_limit=TOLERANCE, goal=0.09, rule=noisy)

    assert needed is not None
    margins = [margin((0.0,), stall_limit=TOLERANCE, rule=noisy, num_runs=count) for count in (needed, needed - 1)]
    assert margins[0] <= 0.09 < margins[1]


def test_no_hundred_baseline_runs_make_up_for_the_noise_of_today() -> None:
    assert runs_needed((0.0,), stall_limit=TOLERANCE, goal=0.01, rule=SequentialRule(noise_pct=4.0)) is None


def test_no_hundred_runs_of_one_day_make_up_for_another_day() -> None:
    goal = 0.07

    of_one_day = runs_needed((0.0,), stall_limit=TOLERANCE, goal=goal, rule=OF_DAYS)
    of_as_many_days = runs_needed((0.0,), stall_limit=TOLERANCE, goal=goal, rule=OF_DAYS, is_once=True)

    assert of_one_day is None
    assert of_as_many_days is not None
    days = list(map(str, range(of_as_many_days)))
    assert margin_of((0.0,), rule=OF_DAYS) > goal
    assert margin_of((0.0,) * of_as_many_days, rule=OF_DAYS, sessions=days) <= goal


def test_further_runs_move_the_noise_from_the_prior_to_what_is_seen() -> None:
    quiet = (-0.0068, 0.0068, 0.0068, -0.0068, 0.0)
    rule = SequentialRule(noise_pct=4.0)

    enough = runs_needed(quiet, stall_limit=TOLERANCE, goal=0.08, rule=rule)

    assert enough is not None
    assert margin_of(quiet, rule=rule) > 0.08 >= margin_of(quiet * (enough // 5 + 1), rule=rule)


@pytest.mark.parametrize(
    ("ratios", "decision"),
    [
        pytest.param((0.001, -0.002, 0.0), Decision.SAME, id="alike"),
        pytest.param((0.04, 0.041, 0.039, 0.04, 0.04, 0.041), Decision.SAME, id="within-the-tolerance"),
        pytest.param((0.09, 0.091, 0.089, 0.09), Decision.WORSE, id="slower"),
        pytest.param((-0.09, -0.091, -0.089, -0.09), Decision.BETTER, id="faster"),
        pytest.param((0.12, -0.07, 0.09), Decision.UNDECIDED, id="scattered"),
    ],
)
def test_ratios_decide_by_their_own_scatter(ratios: tuple[float, ...], decision: Decision) -> None:
    assert decided_by_ratios(ratios, rule=SequentialRule(noise_pct=1.0, max_runs=20)).decision is decision


@pytest.mark.parametrize("stall", [0.5, -0.5])
def test_a_stall_of_either_side_does_not_decide_between_them(stall: float) -> None:
    ratios = (0.001, -0.002, stall, 0.002, 0.0, -0.001, 0.001, 0.0)

    evidence = decided_by_ratios(ratios, rule=SequentialRule(noise_pct=1.0, max_runs=20))

    assert evidence.decision is Decision.SAME
    assert abs(evidence.worsening) < 0.007


@pytest.mark.parametrize("ratio", [0.0, 0.5, -0.5])
def test_a_single_ratio_decides_nothing(ratio: float) -> None:
    assert decided_by_ratios((ratio,), rule=SequentialRule(noise_pct=0.1, max_runs=1)).decision is Decision.UNDECIDED


NUM_TRIALS = 1000


@pytest.mark.parametrize(
    ("rule", "num_sessions"),
    [
        pytest.param(SequentialRule(noise_pct=1.0), 1, id="days-alike"),
        pytest.param(SequentialRule(noise_pct=1.0, session_noise_pct=1.0), 1, id="days-apart-beside-one-session"),
        pytest.param(SequentialRule(noise_pct=1.0, session_noise_pct=1.0), 3, id="days-apart-beside-three-sessions"),
        pytest.param(
            SequentialRule(noise_pct=1.0, session_noise_pct=1.0, max_runs=1, min_runs=1), 6, id="once-a-session"
        ),
    ],
)
def test_verdicts_err_as_seldom_as_they_say(rule: SequentialRule, num_sessions: int) -> None:
    draw = random.Random(20261129)  # noqa: S311 (no secret)
    num_condemned = num_passed = num_found = 0
    for _ in range(NUM_TRIALS):
        baseline, sessions = drawn_baseline(draw, num_runs=6, num_sessions=num_sessions, rule=rule)
        found = TOLERANCE + margin_of(baseline, rule=rule, sessions=sessions)
        at_tolerance = decided_in_turn(draw, baseline, loss=TOLERANCE, sessions=sessions, rule=rule)
        at_found = decided_in_turn(draw, baseline, loss=found, sessions=sessions, rule=rule)
        num_condemned += at_tolerance is Decision.WORSE
        num_passed += at_found is Decision.SAME
        num_found += at_found is Decision.WORSE

    assert num_condemned <= rule.alpha * NUM_TRIALS
    assert num_passed <= rule.beta * NUM_TRIALS
    assert num_found >= (1.0 - rule.beta) * NUM_TRIALS


def decided_in_turn(
    draw: random.Random, baseline: Sequence[float], *, loss: float, sessions: Sequence[str], rule: SequentialRule
) -> Decision:
    """Return the decision on launches of another day, as many as it takes."""
    today = loss + draw.gauss(0.0, rule.session_noise_pct / 100.0)
    now: list[float] = []
    while True:
        now.append(today + draw.gauss(0.0, rule.noise_pct / 100.0))
        decision = decided(baseline, now, rule=rule, sessions=sessions).decision
        if decision is not Decision.UNDECIDED or len(now) == rule.max_runs:
            return decision


def drawn_baseline(
    draw: random.Random, *, num_runs: int, num_sessions: int, rule: SequentialRule
) -> tuple[list[float], list[str]]:
    """Return costs of runs that scatter as the rule expects, and the session of each."""
    days = [draw.gauss(0.0, rule.session_noise_pct / 100.0) for _ in range(num_sessions)]
    runs = []
    sessions = []
    for number in range(num_runs):
        day = number % num_sessions
        runs.append(days[day] + draw.gauss(0.0, rule.noise_pct / 100.0))
        sessions.append(f"day {day}")
    return runs, sessions


@pytest.mark.parametrize("metric", [TOKENS_PER_SEC_PER_GPU, PEAK_MEMORY_GIB])
@pytest.mark.parametrize("percent", [0.0, 1.0, 5.0, 50.0])
def test_a_loss_in_percent_survives_being_a_cost(metric: Metric, percent: float) -> None:
    assert loss_of_cost(cost_of_loss(percent, metric=metric), metric=metric) == pytest.approx(percent)


def test_a_lost_half_of_the_rate_costs_as_much_as_twice_the_time() -> None:
    assert cost(500.0, metric=TOKENS_PER_SEC_PER_GPU) - cost(1000.0, metric=TOKENS_PER_SEC_PER_GPU) == pytest.approx(
        cost(2.0, metric=PEAK_MEMORY_GIB) - cost(1.0, metric=PEAK_MEMORY_GIB)
    )
