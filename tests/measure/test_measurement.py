from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.measure.measurement import measure_outputs, workload_of
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.health import CpuHealth, GpuHealth, HealthReport, MinMedianMax
from pytest_nemoperf.records.step import RunOutput, StepRecord
from pytest_nemoperf.records.yardstick import Yardstick
from tests.builders import make_plan, make_records, measure_records


@pytest.fixture
def plan() -> Plan:
    return make_plan()


def test_warmup_steps_are_dropped_and_the_median_step_counts(plan: Plan) -> None:
    records = make_records(plan, times=[9.0, 9.0, 0.1, 0.1, 0.1, 0.3, 0.1, 0.1])

    run = measure_records(plan, outputs=[records]).runs[0]

    assert run.num_steps == 6
    assert run.metrics["step_time_sec"] == 0.1
    assert run.metrics["tokens_per_sec_per_gpu"] == pytest.approx(plan.tokens_per_step / (0.1 * 2))


def test_steps_that_still_warm_up_are_dropped_and_stalls_are_counted(plan: Plan) -> None:
    records = make_records(plan, times=[9.0, 9.0, 0.4, 0.1, 0.1, 0.3, 0.1, 0.1])

    run = measure_records(plan, outputs=[records]).runs[0]

    assert (run.num_warmup_dropped, run.num_steps, run.num_outliers) == (1, 5, 1)
    assert run.metrics["step_time_sec"] == 0.1


def test_the_spread_across_ranks_is_kept(plan: Plan) -> None:
    run = measure_records(plan, outputs=[make_records(plan)]).runs[0]

    assert run.rank_spread_pct == pytest.approx(10.0)


def test_each_launch_is_a_run_of_its_own(plan: Plan) -> None:
    outputs = [make_records(plan, step_time_sec=seconds) for seconds in (0.1, 0.2)]

    measurement = measure_records(plan, outputs=outputs, environment={"torch": "2.13.0"})

    assert [run.metrics["step_time_sec"] for run in measurement.runs] == [0.1, 0.2]
    assert measurement.environment == {"torch": "2.13.0"}
    assert measurement.problems == ()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"loss": float("nan")}, "run 1: loss is not finite at step 0 (8 of 8 steps)", id="nan-loss"),
        pytest.param({"grad_norm": float("inf")}, "run 1: grad_norm is not finite at step 0", id="inf-grad-norm"),
        pytest.param(
            {"rank_times_sec": (0.1,)},
            "run 1: step 0 has 1 rank_times_sec, and 2 ranks trained; write one time for each rank that trains",
            id="rank-times",
        ),
        pytest.param({"rank_busy_sec": (0.1,) * 3}, "run 1: step 0 has 3 rank_busy_sec, and 2 ranks", id="rank-busy"),
        pytest.param({"tokens": 1}, "run 1: step 2 has 1 tokens, 256 were asked for", id="tokens"),
        pytest.param({"flops": 5.0}, "run 1: step 2 claims 5 FLOPs, FLOPs per token x tokens is", id="flops"),
    ],
)
def test_an_impossible_run_says_why(plan: Plan, changes: dict[str, Any], problem: str) -> None:
    measurement = measure_records(plan, outputs=[make_records(plan, **changes)])

    assert measurement.problems[0].startswith(problem)


def test_missing_steps_are_counted(plan: Plan) -> None:
    measurement = measure_records(plan, outputs=[make_records(plan)[:5]])

    assert measurement.problems == ("run 1: 5 of 8 steps were recorded (2 warm-up and 6 measured were asked for)",)


@pytest.mark.parametrize("missing", [0, 5])
def test_the_first_step_that_is_missing_before_others_is_named(plan: Plan, missing: int) -> None:
    records = make_records(plan)

    measurement = measure_records(plan, outputs=[records[:missing] + records[missing + 1 :]])

    assert measurement.problems[0].endswith(f" asked for); step {missing} is missing, counted from 0")


def test_a_run_without_measured_steps_has_no_numbers(plan: Plan) -> None:
    measurement = measure_records(plan, outputs=[make_records(plan)[:1]])

    assert measurement.runs == ()
    assert measurement.problems


def test_an_unhealthy_machine_is_a_problem_of_its_run(plan: Plan) -> None:
    busy = CpuHealth(num_cores=2, own_share=0.5, foreign_share=0.5, idle_share=0.0, steal_share=0.0)
    health = HealthReport(seconds=1.0, num_samples=2, is_measured_steps=True, cpu=busy)
    sound = RunOutput(records=tuple(make_records(plan)))

    measurement = measure_outputs(plan, outputs=[sound, replace(sound, health=health)])

    assert len(measurement.runs) == 2
    assert [problem[:55] for problem in measurement.problems] == [
        "run 2: other processes took 50% of the 2 cores and left"
    ]


def test_each_ranks_own_work_is_a_median_over_steps_and_its_host_is_kept(plan: Plan) -> None:
    records = [
        replace(record, rank_busy_sec=(0.05, 0.06 + 0.01 * number)) for number, record in enumerate(make_records(plan))
    ]

    run = measure_outputs(plan, outputs=[RunOutput(records=tuple(records), hosts=("a", "b"))]).runs[0]

    assert run.rank_busy_sec == pytest.approx((0.05, 0.105))
    assert run.hosts == ("a", "b")


def test_the_clock_of_each_ranks_gpu_is_kept(plan: Plan) -> None:
    gpus = tuple(
        GpuHealth(gpu=number, sm_clock_mhz=MinMedianMax(low=1.0, median=clock, high=2000.0))
        for number, clock in enumerate((1980.0, 1200.0))
    )
    health = HealthReport(seconds=1.0, num_samples=2, is_measured_steps=True, gpus=gpus)
    output = RunOutput(records=tuple(make_records(plan)), health=health)

    assert measure_outputs(plan, outputs=[output]).runs[0].sm_clock_mhz == (1980.0, 1200.0)


def test_a_run_has_each_ranks_yardstick_over_both_ends_and_none_unless_both_were_timed(plan: Plan) -> None:
    before = (Yardstick(matmul_sec=1.0, copy_sec=1.0), Yardstick(matmul_sec=9.0, copy_sec=1.0))
    after = (Yardstick(matmul_sec=4.0, copy_sec=1.0), Yardstick(matmul_sec=9.0, copy_sec=4.0))
    records = tuple(make_records(plan))
    both = RunOutput(records=records, yardsticks_before=before, yardsticks_after=after)
    begun = RunOutput(records=records, yardsticks_before=before)

    timed, cut_off = measure_outputs(plan, outputs=[both, begun]).runs

    assert timed.yardsticks == (Yardstick(matmul_sec=2.0, copy_sec=1.0), Yardstick(matmul_sec=9.0, copy_sec=2.0))
    assert cut_off.yardsticks == ()


def test_steps_that_tell_of_different_ranks_are_not_mixed(plan: Plan) -> None:
    records = [replace(record, rank_busy_sec=(0.05,) * (1 + record.step % 2)) for record in make_records(plan)]

    assert measure_records(plan, outputs=[records]).runs[0].rank_busy_sec == ()


TIMES = [9.0, 9.0, 0.1, 0.2, 0.3, 0.1, 0.2, 0.3]
TOKENS = [1, 1, 100, 200, 256, 100, 200, 250]


def _varying(**changes: Any) -> list[StepRecord]:
    """Return the records of steps of differing length; a list holds one value per step."""
    plan = make_plan(has_varying_lengths=True, framework="mine")
    records = []
    for step, record in enumerate(make_records(plan, times=TIMES)):
        values = {"tokens": TOKENS, **changes}
        own = {name: value[step] if isinstance(value, list) else value for name, value in values.items()}
        records.append(replace(record, **own))
    return records


def test_tokens_of_steps_that_differ_in_length_are_counted_over_all_of_them() -> None:
    measurement = measure_records(make_plan(has_varying_lengths=True, framework="mine"), outputs=[_varying()])

    metrics = measurement.runs[0].metrics
    assert measurement.problems == ()
    assert metrics["tokens_per_sec_per_gpu"] == pytest.approx(1106 / (1.2 * 2), rel=1e-5)
    assert metrics["mean_tokens_per_step"] == pytest.approx(1106 / 6, rel=1e-5)
    assert metrics["tokens_spread_pct"] == pytest.approx(100 * 63.46 / (1106 / 6), rel=1e-3)
    assert "tflops_per_sec_per_gpu" not in metrics
    assert measurement.flops_per_token is None


def test_flops_of_steps_that_differ_in_length_are_those_of_the_records() -> None:
    records = _varying(flops=[1e6 * tokens for tokens in TOKENS])

    measurement = measure_records(make_plan(has_varying_lengths=True, framework="mine"), outputs=[records])

    assert measurement.problems == ()
    assert measurement.runs[0].metrics["tflops_per_sec_per_gpu"] == pytest.approx(1106e-6 / (1.2 * 2), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"tokens": 257}, "run 1: step 2 has 257 tokens, 256 are the most there can be", id="tokens"),
        pytest.param({"flops": 1e12}, r"run 1: step 2 claims 1e\+12 FLOPs, .*of the greatest length, is", id="flops"),
    ],
)
def test_no_step_is_longer_than_its_sequences_may_be(changes: dict[str, Any], problem: str) -> None:
    plan = make_plan(has_varying_lengths=True, framework="mine")

    measurement = measure_records(plan, outputs=[_varying(**changes)])

    assert re.match(problem, measurement.problems[0])


def test_lengths_that_vary_and_are_not_declared_are_invalid_and_told_how_to_be() -> None:
    measurement = measure_records(make_plan(framework="mine"), outputs=[_varying()])

    assert "step 2 has 100 tokens, 256 were asked for" in measurement.problems[0]
    assert "has_varying_lengths=True where lengths vary" in measurement.problems[0]


def test_steps_that_are_dropped_make_no_other_workload() -> None:
    plan = make_plan(has_varying_lengths=True, framework="mine")
    times = [[*TIMES[:2], factor * TIMES[2], *TIMES[3:]] for factor in (1, 5)]

    runs = measure_records(plan, outputs=[_varying(step_time_sec=each, phases={}) for each in times]).runs

    assert [run.num_warmup_dropped for run in runs] == [0, 1]
    assert runs[0].metrics["mean_tokens_per_step"] == runs[1].metrics["mean_tokens_per_step"]


def test_that_lengths_vary_is_in_the_workload_only_where_they_do() -> None:
    assert workload_of(make_plan(has_varying_lengths=True, framework="mine"))["has_varying_lengths"] is True
    assert "has_varying_lengths" not in workload_of(make_plan(framework="mine"))


def test_a_plan_that_holds_what_has_no_form_in_json_is_refused_by_its_key(plan: Plan) -> None:
    endless = replace(plan, framework_options={"scale": float("inf")})

    with pytest.raises(RecipeError, match=r"workload of .*\['framework_options'\]\['scale'\]=inf must be finite"):
        workload_of(endless)


def test_a_rank_that_was_traced_makes_the_case_invalid(plan: Plan) -> None:
    output = RunOutput(records=tuple(make_records(plan)), environment={"tracers": "pydevd (sys.settrace)"})

    (problem,) = measure_outputs(plan, outputs=[output]).problems

    assert problem.startswith("pydevd (sys.settrace) was active")


def test_a_checkout_s_folder_is_no_part_of_the_workload() -> None:
    plan = make_plan(framework="nemo_rl", framework_options={"checkout": "/opt/nemo-rl", "backend": "dtensor"})

    assert workload_of(plan)["framework_options"] == {"backend": "dtensor"}
