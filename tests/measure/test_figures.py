from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.measure.figures import figure_of, figure_over_runs, phases_over_runs, winsorized
from pytest_nemoperf.records.metrics import KL, METRICS, PEAK_MEMORY_GIB, STEP_TIME_SEC, TOKENS_PER_SEC_PER_GPU, Metric
from pytest_nemoperf.verdict.comparison import compare_runs
from tests.builders import make_baseline, make_measurement, make_policy, make_run, make_runs

RATES = st.lists(st.floats(min_value=900.0, max_value=1100.0), min_size=1, max_size=6)


def test_a_figure_is_the_geometric_mean_of_the_runs() -> None:
    assert figure_of([98.0, 102.0], metric=TOKENS_PER_SEC_PER_GPU) == pytest.approx((98.0 * 102.0) ** 0.5)


@pytest.mark.parametrize(
    ("metric", "stalled", "counted"), [(TOKENS_PER_SEC_PER_GPU, 50.0, 100.0 / 1.05), (STEP_TIME_SEC, 200.0, 105.0)]
)
def test_a_stalled_run_counts_as_five_percent_slower_than_the_next(
    metric: Metric, stalled: float, counted: float
) -> None:
    figure = figure_of([100.0, 100.0, stalled], metric=metric)

    assert figure == pytest.approx((100.0 * 100.0 * counted) ** (1.0 / 3.0), rel=1e-5)


def test_the_figure_of_equal_values_is_that_value() -> None:
    assert figure_of([8778.1] * 3, metric=TOKENS_PER_SEC_PER_GPU) == 8778.1
    assert figure_of([0.1], metric=PEAK_MEMORY_GIB) == 0.1


def test_a_metric_that_may_be_zero_or_has_no_better_direction_has_its_median() -> None:
    assert figure_of([-1.0, 5.0, 2.0], metric=KL) == 2.0
    assert figure_of([0.0, 5.0, 2.0], metric=METRICS["max_logprob_error"]) == 2.0


def test_there_is_no_figure_without_runs() -> None:
    assert figure_over_runs([], metric="tokens_per_sec_per_gpu") is None
    assert figure_over_runs([make_run()], metric="mfu_pct") is None
    assert phases_over_runs([]) == {}


@given(rates=RATES)
def test_tokens_per_second_times_step_time_stay_what_they_are_in_a_run(rates: list[float]) -> None:
    runs = make_runs(rates)

    rate = figure_over_runs(runs, metric="tokens_per_sec_per_gpu")
    step = figure_over_runs(runs, metric="step_time_sec")

    assert rate is not None
    assert step is not None
    assert rate * step == pytest.approx(100.0, rel=1e-5)


@given(rates=RATES)
def test_phases_add_up_to_the_step(rates: list[float]) -> None:
    runs = make_runs([*rates, 300.0])

    step = figure_over_runs(runs, metric="step_time_sec")

    assert sum(phases_over_runs(runs).values()) == pytest.approx(step, rel=1e-5)


def test_a_phase_that_a_run_lacks_took_no_time_and_a_group_has_its_own() -> None:
    one = replace(make_run(), phases={"forward": 0.02}, groups={"generation": {"generation": 0.04}})
    other = replace(make_run(), phases={"refit": 0.01}, groups={})

    assert phases_over_runs([one, other]) == pytest.approx({"forward": 0.01, "refit": 0.005})
    assert phases_over_runs([one, other], group="generation") == pytest.approx({"generation": 0.02})


def test_the_slowest_of_some_costs_is_brought_near_the_next() -> None:
    assert winsorized((0.0, 0.002, 0.7), stall_limit=0.025) == pytest.approx([0.0, 0.002, 0.027])


@given(then=RATES, now=RATES, tolerance=st.sampled_from([3.0, 5.0, 10.0]))
def test_a_verdict_has_the_figure_of_the_baseline_and_a_change_that_agrees(
    then: list[float], now: list[float], tolerance: float
) -> None:
    baseline = make_baseline(then)
    measurement = make_measurement(now)

    for each in compare_runs(measurement, baseline=baseline, policy=make_policy(tolerance_pct=tolerance)):
        assert each.baseline == figure_over_runs(baseline.runs, metric=each.metric)
        assert each.now == pytest.approx(each.baseline * (1.0 + each.delta_pct / 100.0))
        if tolerance == 10.0:  # half of which is the 5% that a stalled run counts for
            assert each.now == pytest.approx(figure_over_runs(measurement.runs, metric=each.metric), rel=2e-3)
