from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.verdict.judge import Verdict, judge
from pytest_nemoperf.verdict.slow_steps import find_slow_steps
from tests.builders import (
    MACHINE,
    make_baseline,
    make_measurement,
    make_plan,
    make_policy,
    make_records,
    measure_records,
)

EVEN = (0.1,) * 10
EVERY_3RD = (1.0, 0.1, 0.1, 1.0, 0.1, 0.1, 1.0, 0.1, 0.1, 0.1)
EVERY_5TH = (0.1, 0.1, 0.1, 0.1, 1.0) * 2
EVERY_10TH = (*EVEN[:4], 2.0, *EVEN[:5])
LAST_4 = (0.1,) * 6 + (1.0,) * 4
FIRST_4 = LAST_4[::-1]
FIRST_5 = (1.0,) * 5 + (0.1,) * 5
ORDER = (VerdictKind.IMPROVED, VerdictKind.PASSED, VerdictKind.INCONCLUSIVE, VerdictKind.REGRESSED)


def run_of(times: Sequence[float]) -> Run:
    """Return the run of measured steps with these times, seconds."""
    plan = make_plan(steps=len(times), warmup_steps=2)
    records = make_records(plan, times=[times[-1], times[-1], *times])
    return measure_records(plan, outputs=[records]).runs[0]


def judged(
    now: Sequence[Sequence[float]],
    *,
    baseline: Sequence[Sequence[float]] = (EVEN,) * 3,
    max_runs: int = 5,
    is_loop: bool = False,
    is_old: bool = False,
    **changes: Any,
) -> Verdict:
    """Return the verdict on runs of these step times.

    Args:
        now: Step times of each run, seconds.
        baseline: The same of the baseline's runs.
        max_runs: Launches at most.
        is_loop: The case is measured once a session, in the test process.
        is_old: The baseline has not recorded its mean step.
        **changes: Changes of the policy.
    """
    before = [run_of(times) for times in baseline]
    if is_old:
        before = [replace(run, slow_steps_pct=None) for run in before]
    workload = {"workload": "pretrain"}
    if is_loop:
        workload = {"workload": "loop"}
        changes |= {"max_runs": 1, "min_runs": 1}
    return judge(
        make_measurement(workload=workload, flops_per_token=None, runs=tuple(map(run_of, now))),
        baseline=make_baseline(workload=workload, flops_per_token=None, runs=tuple(before)),
        machine=MACHINE,
        policy=make_policy(**{"max_runs": max_runs, "alpha": 0.005, **changes}),
    )


@pytest.mark.parametrize(
    ("times", "num_launches"),
    [
        pytest.param(EVERY_3RD, 2, id="every-third"),
        pytest.param(EVERY_5TH, 2, id="every-fifth"),
        pytest.param(EVERY_10TH, 5, id="every-tenth"),
        pytest.param(LAST_4, 2, id="last-four"),
        pytest.param(FIRST_4, 2, id="first-four-taken-for-warm-up"),
        pytest.param(FIRST_5, 2, id="first-half-taken-for-warm-up"),
    ],
)
def test_slow_steps_in_every_launch_are_a_regression(times: Sequence[float], num_launches: int) -> None:
    few = (times,) * (num_launches - 1)
    assert judged(few).kind is VerdictKind.INCONCLUSIVE
    assert judged((times,) * num_launches).kind is VerdictKind.REGRESSED


@pytest.mark.parametrize("times", [EVERY_3RD, LAST_4, FIRST_4, FIRST_5])
def test_one_run_decides_what_is_measured_once_a_session(times: Sequence[float]) -> None:
    assert judged([times], baseline=[EVEN], is_loop=True).kind is VerdictKind.REGRESSED


@pytest.mark.parametrize("times", [EVERY_3RD, LAST_4, FIRST_4, FIRST_5])
def test_the_only_launch_that_is_allowed_condemns_nothing(times: Sequence[float]) -> None:
    verdict = judged([times], max_runs=1)

    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert "another launch is to tell whether by chance" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("find_pct", "kind"),
    [
        pytest.param(30.0, VerdictKind.PASSED, id="allows-more-than-the-tolerance"),
        pytest.param(8.0, VerdictKind.REGRESSED, id="allows-less-than-they-cost"),
    ],
)
def test_slow_steps_are_held_to_what_a_loss_to_be_found_leaves(find_pct: float, kind: VerdictKind) -> None:
    costly = [0.1, 0.1, 0.15, 0.1, 0.15] * 2  # the mean step takes 20% longer, tokens/s lose 16.7%

    verdict = judged([costly] * 2, finds={"tokens_per_sec_per_gpu": find_pct})

    assert verdict.kind is kind


def test_the_reason_holds_the_figures() -> None:
    assert judged([EVERY_3RD], is_loop=True).reasons[0] == (
        "3 of 10 steps are 10 times as slow as the rest (0 of 30 in the baseline); the mean step takes 370 ms, "
        "100 ms in the baseline; allowed 5%"
    )


def test_the_factor_of_slow_steps_is_not_told_beside_steps_that_differ_in_length() -> None:
    workload = {"workload": "pretrain", "has_varying_lengths": True}
    now = make_measurement(workload=workload, runs=(run_of(EVERY_3RD),) * 2)

    slow = find_slow_steps(now, baseline=[run_of(EVEN)] * 3, comparisons=(), policy=make_policy())

    assert slow is not None
    assert slow.text.startswith("6 of 20 steps are far slower than the rest (0 of 30 in the baseline)")


def test_slow_steps_in_one_launch_of_two_are_a_note() -> None:
    verdict = judged([EVERY_3RD, EVEN])

    assert verdict.kind is VerdictKind.PASSED
    assert "so in 1 of 2 runs, which may be chance" in verdict.reasons[0]


def test_a_bad_launch_and_a_single_stall_are_no_regression() -> None:
    assert judged([LAST_4, EVERY_10TH]).kind is VerdictKind.INCONCLUSIVE
    assert judged([LAST_4, EVERY_10TH, EVEN, EVEN]).kind is VerdictKind.PASSED


def test_a_single_stall_of_what_is_measured_once_is_a_note() -> None:
    verdict = judged([EVERY_10TH], is_loop=True)

    assert verdict.kind is VerdictKind.PASSED
    assert "1 of 10 steps are 20 times as slow" in verdict.reasons[0]


def test_three_of_ten_that_cost_little_are_only_told_where_no_second_run_confirms_them() -> None:
    a_little = [min(time, 0.15) for time in EVERY_3RD]

    assert judged([a_little], is_loop=True).kind is VerdictKind.PASSED
    assert judged([a_little] * 2).kind is VerdictKind.REGRESSED


@pytest.mark.parametrize("times", [EVERY_3RD, EVERY_5TH, EVERY_10TH, LAST_4, FIRST_5])
def test_as_many_slow_steps_as_in_the_baseline_need_no_words(times: Sequence[float]) -> None:
    verdict = judged([times] * 3, baseline=[times] * 3)

    assert (verdict.kind, verdict.reasons) == (VerdictKind.PASSED, ())


def test_slightly_slow_steps_of_a_noisy_baseline_do_not_excuse_far_slower_ones() -> None:
    noisy = (0.1, 0.1, 0.115, 0.1, 0.1, 0.1, 0.115, 0.1, 0.1, 0.115)

    assert judged([LAST_4], baseline=[noisy] * 3, is_loop=True).kind is VerdictKind.REGRESSED


def test_slow_steps_that_cost_less_than_the_tolerance_decide_nothing() -> None:
    verdict = judged([[0.1, 0.1, 0.113, 0.1, 0.113] * 2] * 5)  # the mean step takes 5.2% longer, tokens/s lose 4.9%

    assert verdict.kind is VerdictKind.PASSED
    assert "20 of 50 steps are" in verdict.reasons[0]


def test_beside_a_baseline_without_mean_steps_slow_ones_are_only_told() -> None:
    verdict = judged([EVERY_3RD] * 2, is_old=True)

    assert verdict.kind is VerdictKind.PASSED
    assert "6 of 20 steps are 10 times as slow as the rest (0 of 30 in the baseline)" in verdict.reasons[0]
    assert "record it again" in verdict.reasons[0]


def test_slow_steps_are_no_improvement_however_fast_the_others_are() -> None:
    fast = [0.8 * time for time in EVERY_3RD]

    verdict = judged([fast, fast])

    assert verdict.kind is VerdictKind.REGRESSED
    assert verdict.comparisons[0].slow_steps_loss_pct == pytest.approx(
        100 * (1 - 1 / (0.8 * statistics.fmean(EVERY_3RD) * 10))
    )


@given(
    now=st.lists(st.sampled_from((EVEN, EVERY_3RD, EVERY_5TH, EVERY_10TH, LAST_4, FIRST_5)), min_size=1, max_size=5),
    factor=st.floats(min_value=1.0, max_value=2.0),
)
def test_slower_steps_are_never_judged_better(now: list[Sequence[float]], factor: float) -> None:
    slowed = [[factor * time for time in times] for times in now]

    assert ORDER.index(judged(slowed).kind) >= ORDER.index(judged(now).kind)
