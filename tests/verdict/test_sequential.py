from __future__ import annotations

import math
from dataclasses import replace

import pytest

from pytest_nemoperf.records.metrics import PEAK_MEMORY_GIB, TOKENS_PER_SEC_PER_GPU, Metric
from pytest_nemoperf.verdict.sequential import (
    Decision,
    SequentialRule,
    cost,
    cost_of_loss,
    decide,
    decide_ratio,
    loss_of_cost,
    resolution,
    runs_needed,
    winsorized_mean,
)

QUIET = SequentialRule(noise_pct=0.5)
TOLERANCE = 0.05
FIVE_RUNS = (-0.004, 0.003, 0.0, 0.005, -0.003)


@pytest.mark.parametrize(
    ("now", "decision"),
    [
        pytest.param((0.004,), Decision.SAME, id="one-launch-that-repeats-the-baseline"),
        pytest.param((0.05,), Decision.UNDECIDED, id="one-slow-launch"),
        pytest.param((0.05, 0.052), Decision.WORSE, id="two-slow-launches"),
        pytest.param((0.05, 0.0), Decision.SAME, id="the-second-takes-it-back"),
        pytest.param((0.30, 0.0, 0.001), Decision.SAME, id="one-stalled-launch"),
        pytest.param((-0.05,), Decision.UNDECIDED, id="one-fast-launch"),
        pytest.param((-0.05, -0.052), Decision.BETTER, id="two-fast-launches"),
        pytest.param((0.02,) * 5, Decision.SAME, id="less-than-half-of-the-tolerance"),
        pytest.param((0.03,) * 4, Decision.UNDECIDED, id="between-half-and-whole"),
    ],
)
def test_launches_decide(now: tuple[float, ...], decision: Decision) -> None:
    assert decide(FIVE_RUNS, now, tolerance=TOLERANCE, rule=QUIET).decision is decision


@pytest.mark.parametrize(("loss", "decision"), [(0.028, Decision.SAME), (0.033, Decision.WORSE)])
def test_the_last_launch_decides_what_could_have_waited(loss: float, decision: Decision) -> None:
    rule = SequentialRule(noise_pct=1.2, max_runs=5)
    longer = replace(rule, max_runs=6)

    assert decide((0.0,) * 5, (loss,) * 5, tolerance=TOLERANCE, rule=rule).decision is decision
    assert decide((0.0,) * 5, (loss,) * 5, tolerance=TOLERANCE, rule=longer).decision is Decision.UNDECIDED


def test_where_one_launch_is_all_it_may_condemn() -> None:
    rule = SequentialRule(noise_pct=0.5, max_runs=1)

    assert decide(FIVE_RUNS, (0.06,), tolerance=TOLERANCE, rule=rule).decision is Decision.WORSE


def test_a_stalled_launch_of_the_baseline_neither_hides_a_loss_nor_counts_as_noise() -> None:
    stalled = decide((*FIVE_RUNS[:4], 0.40), (0.05, 0.052), tolerance=TOLERANCE, rule=QUIET)
    sound = decide(FIVE_RUNS, (0.05, 0.052), tolerance=TOLERANCE, rule=QUIET)

    assert stalled.decision is Decision.WORSE
    assert sound.noise_pct < stalled.noise_pct < 1.0


def test_two_stalled_launches_of_the_baseline_are_noise() -> None:
    evidence = decide((0.0, 0.001, 0.002, 0.4, 0.4), (0.0,) * 5, tolerance=TOLERANCE, rule=QUIET)

    assert evidence.is_below_noise_floor
    assert evidence.decision is Decision.UNDECIDED


def test_noise_is_shrunk_towards_what_the_class_of_machines_shows() -> None:
    evidence = decide((0.0, 0.02), (0.0,), tolerance=TOLERANCE, rule=SequentialRule(noise_pct=0.5))

    assert evidence.seen_noise_pct == pytest.approx(100.0 * 0.02 / math.sqrt(2.0))
    assert evidence.noise_pct == pytest.approx(math.sqrt((8.0 * 0.5**2 + 1.0 * 2.0) / 9.0))


def test_one_baseline_run_shows_no_noise_and_the_prior_stands_alone() -> None:
    evidence = decide((0.0,), (0.0,), tolerance=TOLERANCE, rule=QUIET)

    assert evidence.seen_noise_pct is None
    assert evidence.noise_pct == pytest.approx(0.5)


def test_the_interval_holds_the_estimate_and_narrows_with_launches() -> None:
    one = decide(FIVE_RUNS, (0.01,), tolerance=TOLERANCE, rule=QUIET)
    five = decide(FIVE_RUNS, (0.01,) * 5, tolerance=TOLERANCE, rule=QUIET)

    assert one.low < five.low < five.worsening < five.high < one.high


def test_what_can_be_resolved_falls_with_runs_and_rises_with_noise() -> None:
    by_runs = [resolution((), rule=QUIET, num_runs=count) for count in (1, 3, 5, 10)]

    assert by_runs == sorted(by_runs, reverse=True)
    assert resolution((), rule=SequentialRule(noise_pct=1.0)) == pytest.approx(2.0 * resolution((), rule=QUIET))


def test_a_tolerance_equal_to_the_resolution_can_just_be_asked() -> None:
    noisy = SequentialRule(noise_pct=2.0)
    _, needed = runs_needed((0.0,), tolerance=0.09, rule=noisy)

    assert needed is not None
    assert resolution((0.0,), rule=noisy, num_runs=needed) <= 0.09 < resolution((0.0,), rule=noisy, num_runs=needed - 1)


def test_no_hundred_baseline_runs_make_up_for_the_noise_of_today() -> None:
    assert runs_needed((0.0,), tolerance=0.01, rule=SequentialRule(noise_pct=4.0)) == (None, None)


def test_further_runs_move_the_noise_from_the_prior_to_what_is_seen() -> None:
    quiet = (-0.0068, 0.0068, 0.0068, -0.0068, 0.0)
    rule = SequentialRule(noise_pct=4.0)

    enough, resolving = runs_needed(quiet, tolerance=TOLERANCE, rule=rule)

    assert enough is not None
    assert resolving is not None
    as_predicted = decide(quiet * (resolving // 5 + 1), quiet, tolerance=TOLERANCE, rule=rule)
    assert decide(quiet, quiet, tolerance=TOLERANCE, rule=rule).is_below_noise_floor
    assert not decide(quiet * (enough // 5 + 1), quiet, tolerance=TOLERANCE, rule=rule).is_below_noise_floor
    assert as_predicted.resolution_pct <= 100.0 * TOLERANCE
    assert enough < resolving


def test_a_tolerance_below_the_noise_floor_passes_nothing() -> None:
    evidence = decide(FIVE_RUNS, (0.0,) * 5, tolerance=0.01, rule=SequentialRule(noise_pct=4.0))

    assert evidence.is_below_noise_floor
    assert evidence.decision is Decision.UNDECIDED


@pytest.mark.parametrize(
    ("ratios", "decision"),
    [
        pytest.param((0.001, -0.002, 0.0), Decision.SAME, id="alike"),
        pytest.param((0.06, 0.061, 0.059, 0.06), Decision.WORSE, id="slower"),
        pytest.param((-0.06, -0.061, -0.059, -0.06), Decision.BETTER, id="faster"),
        pytest.param((0.09, -0.04, 0.06), Decision.UNDECIDED, id="scattered"),
    ],
)
def test_ratios_decide_by_their_own_scatter(ratios: tuple[float, ...], decision: Decision) -> None:
    assert (
        decide_ratio(ratios, tolerance=TOLERANCE, rule=SequentialRule(noise_pct=1.0, max_runs=20)).decision is decision
    )


@pytest.mark.parametrize("stall", [0.5, -0.5])
def test_a_stall_of_either_side_does_not_decide_between_them(stall: float) -> None:
    ratios = (0.001, -0.002, stall, 0.002, 0.0, -0.001, 0.001, 0.0)

    evidence = decide_ratio(ratios, tolerance=TOLERANCE, rule=SequentialRule(noise_pct=1.0, max_runs=20))

    assert evidence.decision is Decision.SAME
    assert abs(evidence.worsening) < 0.005


@pytest.mark.parametrize("metric", [TOKENS_PER_SEC_PER_GPU, PEAK_MEMORY_GIB])
@pytest.mark.parametrize("percent", [0.0, 1.0, 5.0, 50.0])
def test_a_loss_in_percent_survives_being_a_cost(metric: Metric, percent: float) -> None:
    assert loss_of_cost(cost_of_loss(percent, metric=metric), metric=metric) == pytest.approx(percent)


def test_a_lost_half_of_the_rate_costs_as_much_as_twice_the_time() -> None:
    assert cost(500.0, metric=TOKENS_PER_SEC_PER_GPU) - cost(1000.0, metric=TOKENS_PER_SEC_PER_GPU) == pytest.approx(
        cost(2.0, metric=PEAK_MEMORY_GIB) - cost(1.0, metric=PEAK_MEMORY_GIB)
    )


def test_what_runs_stand_for_is_their_mean_without_a_stall() -> None:
    assert winsorized_mean((0.0, 0.002, 0.7), tolerance=TOLERANCE) == pytest.approx((0.0 + 0.002 + 0.027) / 3.0)
