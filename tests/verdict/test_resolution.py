from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_nemoperf.records.metrics import PEAK_MEMORY_GIB, TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.verdict.resolution import (
    judging_metrics,
    unmet_tolerance_message,
    unmet_tolerance_messages,
    wants_more_runs,
)
from tests.builders import make_measurement, make_policy, make_runs

STALLED = make_measurement((400.0, 995.0, 1000.0, 1005.0, 1002.0)).runs


def test_one_stalled_launch_asks_for_no_more_runs() -> None:
    assert not wants_more_runs(STALLED, policy=make_policy())


def test_two_stalled_launches_ask_for_more_runs() -> None:
    runs = make_measurement((920.0, 920.0, 1000.0, 1005.0, 1002.0)).runs
    policy = make_policy(tolerance_pct=6.0, run_noise_pct=1.5)

    assert wants_more_runs(runs, policy=policy)
    assert not wants_more_runs(STALLED, policy=policy)


def test_one_run_of_a_noisy_case_wants_more() -> None:
    assert wants_more_runs(make_measurement((1000.0,)).runs, policy=make_policy(run_noise_pct=1.5))


@pytest.mark.parametrize(
    ("noise_pct", "words"),
    [
        pytest.param(1.5, "found with 1 run, and a case passes only where 14.3% is ruled out; 2 runs", id="more-runs"),
        pytest.param(4.0, "no number of runs of this session would do: ", id="never"),
        pytest.param(0.5, "", id="enough"),
    ],
)
def test_a_case_that_finds_little_says_what_would_find_more(noise_pct: float, words: str) -> None:
    runs = make_measurement((1000.0,)).runs

    text = unmet_tolerance_message(runs, metric=TOKENS_PER_SEC_PER_GPU, policy=make_policy(run_noise_pct=noise_pct))

    assert words in text
    assert bool(text) is bool(words)


def test_metrics_with_the_same_limits_share_a_message() -> None:
    phases = dict.fromkeys(("generation_tokens_per_sec_per_gpu", "training_tokens_per_sec_per_gpu"), 2000.0)
    runs = [replace(run, metrics={**run.metrics, **phases}) for run in make_measurement((1000.0,)).runs]

    whole, of_phases = unmet_tolerance_messages(runs, policy=make_policy(run_noise_pct=4.0))

    assert whole.startswith("tokens/sec/GPU: 5% is allowed, ")
    assert of_phases.startswith("generation, training: 5% is allowed, ")


@pytest.mark.parametrize(
    ("asked_pct", "words"),
    [
        pytest.param(1.0, "1% is to be found, and with 3 runs it is 2.4% at best, so no loss is allowed", id="never"),
        pytest.param(2.3, "2.3% is to be found, and with 3 runs it is 2.4% at best", id="more-runs"),
        pytest.param(4.0, "", id="enough"),
    ],
)
def test_a_loss_to_be_found_that_the_noise_hides_is_told_with_what_would_find_it(asked_pct: float, words: str) -> None:
    runs = make_measurement().runs
    policy = make_policy(finds={"tokens_per_sec_per_gpu": asked_pct})

    text = unmet_tolerance_message(runs, metric=TOKENS_PER_SEC_PER_GPU, policy=policy)

    assert words in text
    assert bool(text) is bool(words)


def test_sessions_of_other_days_are_a_remedy_where_runs_of_one_are_none() -> None:
    policy = make_policy(session_noise_pct=1.0)
    one_day = make_runs((1000.0,) * 6)
    six_days = make_runs((1000.0, 1001.0, 999.0, 1000.5, 999.5, 1000.0), sessions=("1", "2", "3", "4", "5", "6"))

    before = unmet_tolerance_message(one_day, metric=TOKENS_PER_SEC_PER_GPU, policy=policy)
    after = unmet_tolerance_message(six_days, metric=TOKENS_PER_SEC_PER_GPU, policy=policy)

    assert "add other days (--update-baselines --perf-add-session)" in before
    assert after == ""


def test_other_days_are_no_remedy_for_memory_which_days_do_not_change() -> None:
    runs = make_runs((1000.0,))
    policy = make_policy(session_noise_pct=15.0, memory_noise_pct=6.0)

    text = unmet_tolerance_message(runs, metric=PEAK_MEMORY_GIB, policy=policy)

    assert "no number of runs would do: compare side by side (--perf-ab), or raise the tolerance" in text


def test_beside_rounds_that_confirm_a_suspect_it_is_these_that_find() -> None:
    runs = make_runs((1000.0,) * 3)
    policy = make_policy(session_noise_pct=15.0, round_noise_pct=8.0, confirming_rounds=8)

    text = unmet_tolerance_message(runs, metric=TOKENS_PER_SEC_PER_GPU, policy=policy)

    assert "with 8 rounds side by side" in text
    assert "raise the tolerance, or use a quieter machine" in text
    assert not unmet_tolerance_message(runs, metric=TOKENS_PER_SEC_PER_GPU, policy=replace(policy, round_noise_pct=1.0))


def test_runs_that_could_not_hold_a_tolerance_in_any_number_are_not_wanted() -> None:
    assert not wants_more_runs(make_measurement((1000.0,)).runs, policy=make_policy(run_noise_pct=4.0))


@pytest.mark.parametrize("min_runs", [1, 2])
def test_ab_is_a_remedy_only_for_cases_that_are_launched(min_runs: int) -> None:
    runs = make_measurement((1000.0,)).runs
    policy = make_policy(run_noise_pct=4.0, max_runs=min_runs, min_runs=min_runs)

    text = unmet_tolerance_message(runs, metric=TOKENS_PER_SEC_PER_GPU, policy=policy)

    assert ("--perf-ab" in text) is (min_runs > 1)


def test_below_the_noise_floor_a_metric_judges_nothing() -> None:
    runs = make_measurement((1000.0,)).runs

    assert judging_metrics(runs, policy=make_policy(run_noise_pct=4.0)) == {"peak_memory_gib"}
