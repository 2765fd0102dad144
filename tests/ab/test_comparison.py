"""Ratios of two sides' steps, and the verdict on rounds."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.ab.comparison import ABRound, _work_problems, judge_rounds, metric_around_median
from pytest_nemoperf.ab.ratios import (
    _pseudo_median,
    launches_error,
    launches_ratio,
    memory_ratio,
    turns_error,
    turns_ratio,
    unsettled_turns,
)
from pytest_nemoperf.records.metrics import TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.records.step import StepRecord
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.verdict.judge import Verdict
from pytest_nemoperf.verdict.policy import VerdictPolicy
from tests.builders import FLOPS_PER_TOKEN, make_measurement, make_run
from tests.native.rank.turning import turns_of

LABELS = ("old (main, 36db4f5)", "new (working tree)")
POLICY = VerdictPolicy(
    tolerances=dict.fromkeys(("tokens_per_sec_per_gpu", "tflops_per_sec_per_gpu", "peak_memory_gib"), 5.0),
    run_noise_pct=4.0,
    round_noise_pct=4.0,
    memory_noise_pct=1.0,
    alpha=0.002,
    beta=0.01,
    max_runs=5,
)
times = st.lists(st.floats(0.01, 10.0), min_size=12, max_size=12)


def records_of(times: Sequence[float], *, tokens: int = 100, memory: int | None = None) -> list[StepRecord]:
    return [
        StepRecord(step=step, step_time_sec=time, tokens=tokens, peak_memory_bytes=memory)
        for step, time in enumerate(times)
    ]


def ratio_of(old: Sequence[float], new: Sequence[float]) -> float:
    return turns_ratio(records_of(old), records_of(new))


def rounds_of(ratios: Sequence[float], *, memory: float = 0.0) -> list[ABRound]:
    values = {"tokens_per_sec_per_gpu": 0.0, "peak_memory_gib": memory}
    return [ABRound(first="old", ratios={**values, "tokens_per_sec_per_gpu": ratio}) for ratio in ratios]


def verdict_of(
    rounds: Sequence[ABRound],
    *,
    max_rounds: int = 20,
    policy: VerdictPolicy = POLICY,
    is_by_turns: bool = True,
    **new: Any,
) -> Verdict:
    num = len([each for each in rounds if not each.left_out])
    rates = [1000.0] * num
    return judge_rounds(
        make_measurement(rates),
        replace(make_measurement(rates), **new),
        rounds=rounds,
        policy=policy,
        max_rounds=max_rounds,
        labels=LABELS,
        is_by_turns=is_by_turns,
    )


def test_slow_steps_that_only_the_new_side_has_are_a_regression_of_equal_ratios() -> None:
    even = replace(make_run(1000.0), slow_steps_pct=0.0)
    rounds = [ABRound(first="old", ratios={TOKENS_PER_SEC_PER_GPU.name: 0.0}) for _ in range(5)]

    verdict = judge_rounds(
        make_measurement(runs=(even,) * 5),
        make_measurement(runs=(replace(even, num_outliers=3, slow_steps_pct=270.0),) * 5),
        rounds=rounds,
        policy=POLICY,
        max_rounds=20,
        labels=LABELS,
        is_by_turns=True,
    )

    assert verdict.kind is VerdictKind.REGRESSED
    assert verdict.reasons[0].startswith("15 of 50 steps are 10 times as slow as the rest (0 of 50 in old (main")


@given(old=times, factor=st.floats(0.1, 10.0))
def test_a_side_that_is_slower_by_a_factor_has_the_factor_as_its_ratio(old: list[float], factor: float) -> None:
    assert ratio_of(old, [time * factor for time in old]) == pytest.approx(math.log(factor), abs=1e-9)


@given(old=times, new=times, unit=st.floats(1e-3, 1e3))
def test_sides_and_units_are_alike(old: list[float], new: list[float], unit: float) -> None:
    ratio = ratio_of(old, new)

    assert ratio_of(new, old) == pytest.approx(-ratio, abs=1e-9)
    assert ratio_of([time * unit for time in old], [time * unit for time in new]) == pytest.approx(ratio, abs=1e-9)


@pytest.mark.parametrize(("old", "new"), ["AB", "BA"])
def test_a_steady_drift_of_the_machine_is_no_ratio(old: str, new: str) -> None:
    order = [side for side, steps in turns_of(num_steps=24, block_steps=3) for _ in steps]

    slowing = {name: [math.exp(place / 100) for place, side in enumerate(order) if side == name] for name in "AB"}

    assert ratio_of(slowing[old], slowing[new]) == pytest.approx(0.0, abs=1e-12)


def test_a_noisy_round_says_so_by_itself() -> None:
    old = records_of([1.0] * 12)

    assert turns_error(old, records_of([1.1] * 12), block_steps=3) == pytest.approx(0.0, abs=1e-12)
    noisy = records_of([1.0] * 6 + [math.exp(0.4)] * 6)
    assert turns_error(old, noisy, block_steps=3) == pytest.approx(0.4 / math.sqrt(2) / math.sqrt(2))
    assert turns_error(old[:6], noisy[:6], block_steps=3) == 0.0  # one pair shows no scatter


def test_a_launch_whose_quarters_differ_says_so_by_itself() -> None:
    calm = records_of([1.0] * 9)
    noisy = records_of([1.0, 1.0, math.exp(0.2), math.exp(0.2)] * 2 + [1.0])

    assert launches_error(calm, calm) == 0.0
    assert launches_error(calm, noisy) == pytest.approx(0.2 / math.sqrt(3) / 2)  # of two at 0 and two at 0.2
    assert launches_error(noisy, noisy) == pytest.approx(0.2 / math.sqrt(3) / 2 * math.sqrt(2))


def test_two_noisy_rounds_that_agree_convince_nobody() -> None:
    calm = rounds_of([math.log(1.3)] * 2)
    noisy = [replace(each, error=0.15) for each in calm]

    assert verdict_of(calm).kind is VerdictKind.REGRESSED
    assert verdict_of(noisy).kind is VerdictKind.INCONCLUSIVE


def test_stalls_move_the_ratio_no_further_than_the_other_steps_lie() -> None:
    old = [1.0] * 24
    new = [1.01, 1.02, 1.03] * 6 + [100.0] * 6

    assert math.log(1.01) < ratio_of(old, new) <= math.log(1.03) + 1e-12


def test_a_machine_that_slows_both_down_has_not_unsettled_them() -> None:
    slowing = records_of([1.0] * 6 + [2.0] * 6)

    assert unsettled_turns(slowing, slowing) == ""


def test_one_side_that_is_still_warming_up_is_noticed() -> None:
    reason = unsettled_turns(records_of([1.0] * 12), records_of([2.0] * 6 + [1.0] * 6))

    assert reason.startswith("a step of new took 2.00 times as long as one of old in the first half and 1.00 times")


def test_tokens_count_where_the_sides_processed_different_numbers() -> None:
    old, new = records_of([1.0] * 6, tokens=100), records_of([1.0] * 6, tokens=50)

    assert turns_ratio(old, new) == pytest.approx(math.log(2))
    assert launches_ratio(old, new) == pytest.approx(math.log(2))


def test_the_pseudo_median_lies_in_the_middle_of_all_pairs() -> None:
    assert _pseudo_median([1.0]) == 1.0
    assert _pseudo_median([1.0, 2.0, 9.0]) == 2.0 + (5.0 - 2.0) / 2  # 1, 1.5, 2, 5, 5.5, 9


def test_memory_is_compared_where_both_sides_know_it() -> None:
    old, new = records_of([1.0], memory=2**30), records_of([1.0], memory=2**31)

    assert memory_ratio(old, new) == pytest.approx(math.log(2))
    assert memory_ratio(old, records_of([1.0])) is None


@pytest.mark.parametrize(
    ("ratios", "kind"),
    [
        ([0.001, -0.001] * 5, VerdictKind.PASSED),
        ([math.log(1.2), math.log(1.21)] * 5, VerdictKind.REGRESSED),
        ([-math.log(1.2), -math.log(1.21)] * 5, VerdictKind.IMPROVED),
        ([0.0], VerdictKind.INCONCLUSIVE),
        ([0.3, -0.3, 0.2, -0.2], VerdictKind.INCONCLUSIVE),
    ],
    ids=["same", "slower", "faster", "one round", "noise"],
)
def test_rounds_decide_or_say_that_they_do_not(ratios: list[float], kind: VerdictKind) -> None:
    assert verdict_of(rounds_of(ratios)).kind is kind


def test_a_slowdown_is_described_with_both_sides_and_its_interval() -> None:
    verdict = verdict_of(rounds_of([math.log(1.2), math.log(1.21)] * 5))

    (reason,) = verdict.reasons
    assert reason.startswith("tokens/sec/GPU is 17.0% below old (main, 36db4f5) (911 against 1,098; allows 5%, finds ")
    assert re.search(r"95% interval -1\S+% to -1\S+% from 10 rounds\)$", reason)


def test_more_memory_is_a_loss_too() -> None:
    verdict = verdict_of(rounds_of([0.0] * 10, memory=math.log(1.3)))

    assert verdict.kind is VerdictKind.REGRESSED
    (reason,) = verdict.reasons
    assert reason.startswith("peak memory is 30.0% above old (main, 36db4f5)")


def test_tflops_follow_from_the_figures_of_tokens_and_are_no_reason_of_their_own() -> None:
    verdict = verdict_of(rounds_of([math.log(1.2), math.log(1.21)] * 5))

    tokens, memory, tflops = verdict.comparisons
    assert (tokens.metric, memory.metric) == ("tokens_per_sec_per_gpu", "peak_memory_gib")
    assert tflops.metric == "tflops_per_sec_per_gpu"
    assert tflops.now / tokens.now == pytest.approx(FLOPS_PER_TOKEN / 1e12)
    assert tflops.baseline / tokens.baseline == pytest.approx(FLOPS_PER_TOKEN / 1e12)
    assert (tflops.delta_pct, tflops.kind) == (tokens.delta_pct, VerdictKind.REGRESSED)
    assert len(verdict.reasons) == 1


def test_what_has_no_flops_has_no_tflops() -> None:
    verdict = verdict_of(rounds_of([0.0] * 10), flops_per_token=None)

    assert [each.metric for each in verdict.comparisons] == ["tokens_per_sec_per_gpu", "peak_memory_gib"]


def test_rounds_in_which_a_launch_stalled_move_neither_sides_figure() -> None:
    old = [make_run(rate) for rate in (1000.0, 1000.0, 1000.0, 1000.0, 300.0)]
    new = [make_run(rate) for rate in (250.0, 1000.0, 1000.0, 1000.0, 1000.0)]

    figures = metric_around_median(old, new, worsening=math.log(1.21), metric=TOKENS_PER_SEC_PER_GPU)

    assert figures == pytest.approx((1100.0, 1000.0 / 1.1))


def test_what_is_undecided_says_what_the_rounds_find_and_what_would_help() -> None:
    verdict = verdict_of(rounds_of([0.11, 0.01] * 5), max_rounds=10)

    assert verdict.kind is VerdictKind.INCONCLUSIVE
    (reason,) = verdict.reasons
    assert re.search(r"; allows 5%, finds 1\d\.\d%; 95% interval", reason)
    assert re.search(r"undecided after 10 rounds that scatter by 4\.\d%, of 10 that there is time for: ", reason)
    assert "raise the limit in time (--perf-ab-limit) or the tolerance" in reason


def test_where_no_more_rounds_are_made_the_limit_in_time_is_no_remedy() -> None:
    verdict = verdict_of(rounds_of([0.55, -0.45] * 50), max_rounds=100)

    assert verdict.kind is VerdictKind.INCONCLUSIVE
    (reason,) = verdict.reasons
    assert "--perf-ab-limit" not in reason
    assert "undecided after 100 rounds that scatter by 4" in reason
    assert "and no more are made: raise the tolerance, or run it on a quieter machine" in reason


@pytest.mark.parametrize(
    ("ratio", "kind"),
    [
        pytest.param(0.045, VerdictKind.PASSED, id="within-the-tolerance"),
        pytest.param(0.06, VerdictKind.INCONCLUSIVE, id="between-allowed-and-found"),
        pytest.param(0.12, VerdictKind.REGRESSED, id="beyond-what-is-found"),
    ],
)
def test_a_tolerance_is_what_is_allowed_side_by_side_too(ratio: float, kind: VerdictKind) -> None:
    calm = [ratio + 0.001, ratio - 0.001] * 6

    assert verdict_of(rounds_of(calm), max_rounds=12).kind is kind


def test_a_loss_to_be_found_leaves_what_is_allowed_side_by_side() -> None:
    policy = replace(POLICY, finds={"tokens_per_sec_per_gpu": 6.0})

    tokens = verdict_of(rounds_of([0.001, -0.001] * 10), policy=policy).comparisons[0]

    assert tokens.finds_pct == pytest.approx(6.0)
    assert 0.0 < tokens.allowed_pct < 6.0


def test_whole_launches_are_expected_to_scatter_as_two_launches_do() -> None:
    expected = []
    for is_by_turns in (True, False):
        verdict = verdict_of(rounds_of([0.0] * 5), is_by_turns=is_by_turns)
        expected.append(verdict.comparisons[0].expected_noise_pct)

    assert expected == pytest.approx([4.0, 4.0 * math.sqrt(2.0)])


def test_sides_of_one_session_have_no_noise_between_sessions() -> None:
    policy = replace(POLICY, session_noise_pct=15.0)

    verdict = verdict_of(rounds_of([0.2, 0.21] * 5), policy=policy)

    assert verdict.kind is VerdictKind.REGRESSED
    assert {each.session_noise_pct for each in verdict.comparisons} == {None}
    assert "session" not in " ".join(verdict.reasons)


def test_rounds_that_are_left_out_do_not_count() -> None:
    unsettled = ABRound(first="old", ratios={}, left_out="new: the steps have not settled")

    assert verdict_of([unsettled]).reasons == ("new: the steps have not settled",)
    assert verdict_of([unsettled]).kind is VerdictKind.INCONCLUSIVE
    assert verdict_of([unsettled, *rounds_of([0.0] * 12)]).kind is VerdictKind.PASSED


def test_sides_that_compute_different_things_are_not_judged() -> None:
    verdict = verdict_of(rounds_of([0.0]), runs=(make_run(loss=7.5),))

    assert verdict.kind is VerdictKind.INVALID
    (reason,) = verdict.reasons
    assert reason.startswith("loss 7.5 of new (working tree) is not old (main, 36db4f5)'s 6.5 at step 12")


def test_sides_whose_sequences_differ_in_length_do_not_compare() -> None:
    longer = make_run()
    longer = replace(longer, metrics={**longer.metrics, "mean_tokens_per_step": 120.0})
    shorter = replace(longer, metrics={**longer.metrics, "mean_tokens_per_step": 100.0})
    old = make_measurement(workload={"has_varying_lengths": True}, runs=(shorter,))
    new = make_measurement(workload={"has_varying_lengths": True}, runs=(longer,))

    kind, problems = _work_problems(old, new, labels=("old", "new"))

    assert kind is VerdictKind.NOT_COMPARABLE
    assert problems[0].startswith("mean number of tokens per step is 120 tokens, 100 tokens in the baseline")


def test_a_side_that_is_invalid_is_named() -> None:
    verdict = verdict_of(rounds_of([0.0]), problems=("run 1: loss is not finite at step 3",))

    assert verdict.kind is VerdictKind.INVALID
    assert verdict.reasons == ("new (working tree): run 1: loss is not finite at step 3",)


@given(
    ratios=st.lists(st.floats(-0.3, 0.3), min_size=2, max_size=8),
    slowdown=st.floats(0.0, 0.5),
    find_pct=st.none() | st.floats(1.0, 30.0),
    num_confirming=st.sampled_from((0, 8)),
)
def test_a_slower_side_is_never_judged_better(
    ratios: list[float], slowdown: float, find_pct: float | None, num_confirming: int
) -> None:
    finds = {} if find_pct is None else {"tokens_per_sec_per_gpu": find_pct}
    policy = replace(POLICY, finds=finds, confirming_rounds=num_confirming)
    goodness = [VerdictKind.REGRESSED, VerdictKind.INCONCLUSIVE, VerdictKind.PASSED, VerdictKind.IMPROVED]
    faster = verdict_of(rounds_of(ratios), max_rounds=len(ratios), policy=policy)
    slower = verdict_of(rounds_of([ratio + slowdown for ratio in ratios]), max_rounds=len(ratios), policy=policy)

    assert slower.comparisons[0].delta_pct <= faster.comparisons[0].delta_pct
    assert goodness.index(slower.kind) <= goodness.index(faster.kind)


def test_a_metric_that_only_the_old_side_has_is_named() -> None:
    run = make_run(1000.0)
    metrics = {name: value for name, value in run.metrics.items() if name != "peak_memory_gib"}
    rounds = [ABRound(first="old", ratios={"tokens_per_sec_per_gpu": 0.0})] * 20

    verdict = verdict_of(rounds, runs=(replace(run, metrics=metrics),) * 20)

    assert verdict.kind is VerdictKind.PASSED
    assert verdict.reasons == (f"peak memory is not judged: {LABELS[0]} has it, {LABELS[1]} lacks it",)
