from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.measure.expected_records import expected_of
from pytest_nemoperf.measure.steady_state import run_drift
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import GroupStep, RolloutStats, StepRecord
from tests.builders import make_plan, make_records, make_rl, make_rl_plan, make_rl_records, measure_records

APART = {"cpu": Layout(gpus=2, dp_shard=2, generation=GenerationLayout(gpus=4, tp=2, is_colocated=False))}


@pytest.fixture
def plan() -> Plan:
    return make_rl_plan()


def _problems(plan: Plan, **changes: Any) -> tuple[str, ...]:
    return measure_records(plan, outputs=[make_rl_records(plan, **changes)]).problems


def test_phases_of_ranks_that_only_generate_are_kept_apart(plan: Plan) -> None:
    groups = {"generation": GroupStep(step_time_sec=0.1, phases={"generation": 0.07, "idle": 0.03})}

    run = measure_records(plan, outputs=[make_rl_records(plan, groups=groups)]).runs[0]

    assert run.groups == {"generation": {"generation": 0.07, "idle": 0.03}}
    assert run.phases["generation"] == 0.05


def test_a_sound_run_has_no_problem(plan: Plan) -> None:
    assert _problems(plan) == ()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"rollout": {"num_samples": 7}}, "step 2 has 7 responses, 8 were asked for", id="responses"),
        pytest.param(
            {"tokens": 319},
            "step 2 has 319 tokens, but 128 of prompts and 192 of responses are 320",
            id="tokens that don't add up",
        ),
        pytest.param(
            {"rollout": {"num_response_tokens": 190}},
            "step 2 has 318 tokens, 320 were asked for (prompts and responses of pinned lengths)",
            id="tokens of pinned lengths",
        ),
        pytest.param(
            {"rollout": {"staleness_steps": 1}},
            "step 2 trains on responses of weights 1 steps old, max_staleness=0",
            id="staleness",
        ),
        pytest.param(
            {"rollout": {"token_mult_prob_error": 1.0501}},
            "step 2: token_mult_prob_error is 1.0501 (allowed 1.05): generation and training give the same tokens",
            id="probabilities",
        ),
        pytest.param(
            {"rollout": {"token_mult_prob_error": float("nan")}},
            "token_mult_prob_error is not finite at step 2",
            id="no number",
        ),
        pytest.param({"flops": 5e8}, "step 2 claims 5e+08 FLOPs of training, samples of these lengths", id="FLOPs"),
        pytest.param({"loss": float("nan")}, "loss is not finite at step 0", id="loss"),
    ],
)
def test_an_impossible_run_says_why(plan: Plan, changes: dict[str, Any], problem: str) -> None:
    assert problem in "; ".join(_problems(plan, **changes))


def test_what_is_not_finite_is_left_out_so_that_results_can_be_written(plan: Plan) -> None:
    records = make_rl_records(plan, rollout={"reward_mean": float("nan"), "kl": float("inf")})

    measurement = measure_records(plan, outputs=[records])

    assert not {"reward_mean", "kl"} & set(measurement.runs[0].metrics)
    assert "reward_mean is not finite at step 2" in "; ".join(measurement.problems)
    assert to_json(measurement)


def test_a_run_that_says_nothing_of_its_responses_is_invalid(plan: Plan) -> None:
    records = [replace(record, rollout=None) for record in make_rl_records(plan)]

    (problem,) = measure_records(plan, outputs=[records]).problems

    assert problem.startswith("run 1: step 2 lacks rollout.num_response_tokens, the tokens that were generated (6 of 6")
    assert problem.endswith('"rollout": {"num_response_tokens": 512}; see docs/frameworks.md')


def test_the_tokens_of_the_responses_are_all_that_a_rollout_needs() -> None:
    plan = make_rl_plan(rl=make_rl(response_lengths="sampled"))
    records = []
    for record in make_rl_records(plan):
        rollout = RolloutStats(num_response_tokens=96)
        records.append(StepRecord(step=record.step, step_time_sec=0.1, tokens=160, rollout=rollout))

    measurement = measure_records(plan, outputs=[records])

    num_samples = plan.rl.num_samples if plan.rl is not None else 0
    metrics = measurement.runs[0].metrics
    assert measurement.problems == ()
    assert metrics["mean_response_len"] == pytest.approx(96 / num_samples)
    assert metrics["mean_prompt_len"] == pytest.approx(64 / num_samples)
    assert metrics["tokens_per_sec_per_gpu"] == pytest.approx(160 / 0.1 / plan.layout.total_gpus)
    assert not {"staleness_steps", "reward_mean", "refit_time_sec", "generation_tokens_per_sec_per_gpu"} & set(metrics)


def test_more_tokens_of_responses_than_of_the_step_are_told_where_prompts_are_not_counted() -> None:
    plan = make_rl_plan(rl=make_rl(response_lengths="sampled"))

    (problem,) = _problems(plan, rollout={"num_prompt_tokens": None, "num_response_tokens": 8}, tokens=7)

    assert "step 2 has 7 tokens, but those of its responses alone are 8; tokens counts prompts and" in problem


def test_a_rollout_under_a_recipe_without_rl_is_told() -> None:
    plan = make_plan()
    records = [replace(record, rollout=RolloutStats(num_response_tokens=8)) for record in make_records(plan)]

    (problem,) = measure_records(plan, outputs=[records]).problems

    assert "step 2 has a rollout, and the recipe has no rl=" in problem


def test_lengths_that_are_not_pinned_may_have_any_tokens() -> None:
    plan = make_rl_plan(rl=make_rl(response_lengths="sampled"))

    assert _problems(plan, rollout={"num_response_tokens": 8 * 3}) == ()


def test_dynamic_sampling_may_change_the_tokens_of_lengths_that_differ() -> None:
    lengths = (3, 24)
    plans = [make_rl_plan(rl=make_rl(response_lengths=lengths, algorithm=name)) for name in ("dapo", "grpo")]

    problems = [_problems(plan, rollout={"num_response_tokens": 80}) for plan in plans]

    assert problems[0] == ()
    assert "208 tokens, 236 were asked for" in problems[1][0]


@pytest.mark.parametrize("rl", [{"algorithm": "ppo"}, {"response_lengths": "sampled"}])
def test_flops_of_a_value_model_or_of_free_lengths_are_taken_from_the_records(rl: dict[str, Any]) -> None:
    plan = make_rl_plan(rl=make_rl(**rl))

    run = measure_records(plan, outputs=[make_rl_records(plan, flops=5e8)])

    assert run.problems == ()
    assert run.runs[0].metrics["training_tflops_per_sec_per_gpu"] == pytest.approx(5e-4 / (0.02 * 2), rel=1e-5)


@pytest.mark.parametrize(("error", "num_problems"), [(1.09, 0), (1.11, 1)])
def test_generation_in_eight_bits_may_give_probabilities_further_off(error: float, num_problems: int) -> None:
    plan = make_rl_plan(rl=make_rl(generator="vllm", generation_precision="fp8"))

    assert len(_problems(plan, rollout={"token_mult_prob_error": error})) == num_problems


def test_older_weights_may_give_other_probabilities() -> None:
    plan = make_rl_plan(rl=make_rl(max_staleness=1), layouts=APART)

    assert _problems(plan, rollout={"staleness_steps": 1, "token_mult_prob_error": 1.3}) == ()


@pytest.mark.parametrize(("lengths", "is_settled"), [("sampled", True), ("fixed", False)])
def test_responses_that_get_longer_are_no_drift_of_speed(lengths: str, is_settled: Any) -> None:
    plan = make_rl_plan(rl=make_rl(response_lengths=lengths))
    short = make_rl_records(plan, step_time_sec=0.15, tokens=150)
    long = make_rl_records(plan, step_time_sec=0.3, tokens=300)
    records = [*short[:5], *long[5:]]

    assert (run_drift(expected_of(plan), records=records) is None) is is_settled


def test_other_tokens_of_responses_than_pinned_lengths_make_are_told() -> None:
    plan = make_rl_plan()
    tokens = plan.tokens_per_step
    rollout = {"num_prompt_tokens": None, "num_response_tokens": 8}
    (problem,) = _problems(plan, rollout=rollout, tokens=tokens, flops=None)

    assert "step 2 has 8 tokens of responses, whose pinned lengths make 192; response_lengths='sampled'" in problem


def test_a_misspelt_phase_is_told() -> None:
    (problem,) = _problems(make_rl_plan(), phases={"trainin": 0.1})

    assert "step 2 has the phase 'trainin', which reinforcement learning does not know; did you mean tr" in problem
