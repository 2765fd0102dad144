from __future__ import annotations

import pytest

from pytest_nemoperf.records.metrics import TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.verdict.resolution import judging_metrics, unmet_tolerance_message, wants_more_runs
from tests.builders import make_measurement, make_policy

STALLED = make_measurement((400.0, 995.0, 1000.0, 1005.0, 1002.0)).runs


def test_one_stalled_launch_asks_for_no_more_runs() -> None:
    assert not wants_more_runs(STALLED, policy=make_policy())


def test_two_stalled_launches_ask_for_more_runs() -> None:
    runs = make_measurement((900.0, 900.0, 1000.0, 1005.0, 1002.0)).runs

    assert wants_more_runs(runs, policy=make_policy(tolerance_pct=14.0))


def test_one_run_of_a_noisy_case_wants_more() -> None:
    assert wants_more_runs(make_measurement((1000.0,)).runs, policy=make_policy(run_noise_pct=1.5))


@pytest.mark.parametrize(
    ("noise_pct", "words"),
    [
        pytest.param(1.5, "1 run with 1.5% noise can resolve; 13 runs would", id="more-runs"),
        pytest.param(4.0, "1 run with 4% noise can resolve; none up to 100 would", id="never"),
        pytest.param(0.5, "", id="held"),
    ],
)
def test_a_tolerance_that_is_not_held_says_what_would_hold_it(noise_pct: float, words: str) -> None:
    runs = make_measurement((1000.0,)).runs

    text = unmet_tolerance_message(runs, metric=TOKENS_PER_SEC_PER_GPU, policy=make_policy(run_noise_pct=noise_pct))

    assert words in text
    assert bool(text) is bool(words)


def test_runs_that_could_not_hold_a_tolerance_in_any_number_are_not_wanted() -> None:
    assert not wants_more_runs(make_measurement((1000.0,)).runs, policy=make_policy(run_noise_pct=4.0))


@pytest.mark.parametrize("max_runs", [1, 5])
def test_ab_is_a_remedy_only_for_cases_that_are_launched(max_runs: int) -> None:
    runs = make_measurement((1000.0,)).runs
    policy = make_policy(run_noise_pct=4.0, max_runs=max_runs)

    text = unmet_tolerance_message(runs, metric=TOKENS_PER_SEC_PER_GPU, policy=policy)

    assert ("--perf-ab" in text) is (max_runs > 1)


def test_below_the_noise_floor_a_metric_judges_nothing() -> None:
    runs = make_measurement((1000.0,)).runs

    assert judging_metrics(runs, policy=make_policy(run_noise_pct=4.0)) == {"peak_memory_gib"}
