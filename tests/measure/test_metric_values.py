"""Values of metrics, from the records of steps and the times of calls."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.measure import metric_values
from pytest_nemoperf.measure.expected_records import expected_of
from pytest_nemoperf.measure.metric_values import MeasuredSteps, TimedCalls, call_values, step_values
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.metrics import BESIDE_STEPS, METRICS, TRAINING_MFU_PCT
from tests.builders import make_plan, make_records, make_rl, make_rl_plan, make_rl_records, measure_records

APART = {"cpu": Layout(gpus=2, dp_shard=2, generation=GenerationLayout(gpus=4, tp=2, is_colocated=False))}


@pytest.fixture
def plan() -> Plan:
    return make_plan()


@pytest.fixture
def rl_plan() -> Plan:
    return make_rl_plan()


def test_each_known_metric_is_computed_in_one_table() -> None:
    computed = [
        *metric_values._OF_STEPS,
        *metric_values._OF_RL_STEP,
        *metric_values._OF_ROLLOUT,
        *metric_values._OF_CALLS,
        *BESIDE_STEPS,  # in launch_values
        TRAINING_MFU_PCT,  # from the speed of training, the median over the steps
    ]

    assert sorted(metric.name for metric in computed) == sorted(METRICS)


def test_memory_counts_over_steps_that_still_warm_up_and_times_do_not(plan: Plan) -> None:
    records = make_records(plan, times=[9.0, 9.0, 0.4, 0.1, 0.1, 0.1, 0.1, 0.1])
    records[2] = replace(records[2], peak_memory_bytes=3 * 2**30)
    steps = MeasuredSteps(expected=expected_of(plan), measured=records[2:], settled=records[3:])

    values = step_values(steps)

    assert values["peak_memory_gib"] == 3.0
    assert values["step_time_sec"] == 0.1


def test_a_metric_without_its_input_is_left_out(plan: Plan) -> None:
    records = [replace(record, peak_memory_bytes=None) for record in make_records(plan)]
    expected = replace(expected_of(plan), flops_per_token=None)

    values = step_values(MeasuredSteps(expected=expected, measured=records, settled=records))

    assert set(values) == {"step_time_sec", "tokens_per_sec_per_gpu"}


def test_the_time_of_a_call_is_a_median() -> None:
    assert call_values(TimedCalls(times=[0.3, 0.1, 0.2])) == {"time_per_call_sec": 0.2}


def test_calls_have_the_rates_of_the_work_that_they_are_named_by() -> None:
    calls = TimedCalls(times=[0.3, 0.1, 0.2], flops=4e12, num_bytes=2**31, message_bytes=2**30, bus_factor=1.5)

    assert call_values(calls) == {
        "time_per_call_sec": 0.2,
        "call_tflops_per_sec": 20.0,
        "call_gib_per_sec": 10.0,
        "algorithm_gib_per_sec": 5.0,
        "bus_gib_per_sec": 7.5,
    }


def test_tflops_are_flops_per_token_times_tokens_rate(plan: Plan) -> None:
    run = measure_records(plan, outputs=[make_records(plan)]).runs[0]

    expected = plan.flops_per_token * run.metrics["tokens_per_sec_per_gpu"] / 1e12
    assert run.metrics["tflops_per_sec_per_gpu"] == pytest.approx(expected, rel=1e-5)


def test_mfu_is_absent_where_the_device_has_no_known_peak(plan: Plan) -> None:
    run = measure_records(plan, outputs=[make_records(plan)]).runs[0]

    assert "mfu_pct" not in run.metrics


def test_each_phase_has_a_rate_over_its_own_time_and_ranks() -> None:
    plan = make_rl_plan(layouts=APART)
    tokens = 8 * (16 + 24)
    teraflops = plan.flops_per_token * tokens / 1e12

    run = measure_records(plan, outputs=[make_rl_records(plan)]).runs[0]

    assert run.metrics["tokens_per_sec_per_gpu"] == pytest.approx(tokens / (0.1 * 6), rel=1e-5)
    assert run.metrics["generation_tokens_per_sec_per_gpu"] == pytest.approx(tokens / (0.05 * 4), rel=1e-5)
    assert run.metrics["logprob_tokens_per_sec_per_gpu"] == pytest.approx(tokens / (0.02 * 2), rel=1e-5)
    assert run.metrics["training_tokens_per_sec_per_gpu"] == pytest.approx(tokens / (0.02 * 2), rel=1e-5)
    assert run.metrics["training_tflops_per_sec_per_gpu"] == pytest.approx(teraflops / (0.02 * 2), rel=1e-5)


def test_what_was_generated_is_in_the_figures() -> None:
    stats = {"num_response_tokens": 8 * 20, "num_truncated": 2, "num_rounds": 2, "staleness_steps": 0, "kl": None}
    sampled = make_rl_plan(rl=make_rl(response_lengths="sampled"))

    metrics = measure_records(sampled, outputs=[make_rl_records(sampled, rollout=stats)]).runs[0].metrics

    assert metrics["mean_prompt_len"] == 16
    assert metrics["mean_response_len"] == 20
    assert metrics["truncated_pct"] == 25
    assert metrics["num_rounds"] == 2
    assert metrics["refit_gib"] == pytest.approx(2**-10, rel=1e-5)
    assert metrics["refit_gib_per_sec"] == pytest.approx(2**-10 / 0.007, rel=1e-5)
    assert "kl" not in metrics


def test_errors_of_log_probabilities_are_the_largest_of_the_steps(rl_plan: Plan) -> None:
    records = make_rl_records(rl_plan)
    stats = records[-1].rollout
    assert stats is not None
    records[-1] = replace(
        records[-1], rollout=replace(stats, token_mult_prob_error=1.04, max_logprob_error=0.7, reward_mean=9.0)
    )

    metrics = measure_records(rl_plan, outputs=[records]).runs[0].metrics

    assert (metrics["token_mult_prob_error"], metrics["max_logprob_error"]) == (1.04, 0.7)
    assert metrics["reward_mean"] == 0.25


def test_the_whole_step_has_no_tflops_and_training_has_its_share_of_the_peak(rl_plan: Plan) -> None:
    with_peak = replace(rl_plan, peak_tflops=100.0)

    measurement = measure_records(with_peak, outputs=[make_rl_records(rl_plan, flops=1e12)])

    metrics = measurement.runs[0].metrics
    assert measurement.flops_per_token is None
    assert not {"tflops_per_sec_per_gpu", "mfu_pct"} & set(metrics)
    assert metrics["training_mfu_pct"] == pytest.approx(metrics["training_tflops_per_sec_per_gpu"], rel=1e-5)


def test_phases_that_did_not_happen_have_no_rate(rl_plan: Plan) -> None:
    phases = {"generation": 0.06, "training": 0.04}

    metrics = measure_records(rl_plan, outputs=[make_rl_records(rl_plan, phases=phases)]).runs[0].metrics

    assert "logprob_tokens_per_sec_per_gpu" not in metrics
    assert "training_tokens_per_sec_per_gpu" in metrics


def test_times_of_phases_are_those_of_the_slowest_rank() -> None:
    plan = make_rl_plan(layouts=APART)
    phases = {"exposed_generation": 0.03, "training": 0.06, "refit": 0.01}

    metrics = measure_records(plan, outputs=[make_rl_records(plan, phases=phases)]).runs[0].metrics

    assert metrics["exposed_generation_sec"] == 0.03
    assert metrics["refit_time_sec"] == 0.007  # as the rollout tells it: of generating ranks too


def test_phases_that_took_no_time_have_no_time(rl_plan: Plan) -> None:
    phases = {"exposed_generation": 0.0, "generation": 0.06, "training": 0.04}

    records = make_rl_records(rl_plan, phases=phases, rollout={"refit_time_sec": 0.0})
    metrics = measure_records(rl_plan, outputs=[records]).runs[0].metrics

    assert not {"exposed_generation_sec", "refit_time_sec"} & set(metrics)
