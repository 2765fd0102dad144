"""Reinforcement learning as a whole, on real ranks."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.measure.expected_records import expected_of
from pytest_nemoperf.measure.rl_validity import rollout_problems
from pytest_nemoperf.recipes.algorithms import ALGORITHMS
from pytest_nemoperf.records.step import StepRecord
from tests.native.engine import Engine
from tests.native.rl_plans import APART, MODEL, KeptRuns, rl_plan

ROUNDS = {"algorithm": "dapo", "num_generations_per_prompt": 16, "max_response_len": 2}
"""Several rounds: only some prompts get both right and wrong answers in the first."""

NOTING = "tests.native.rl_sabotage:notes_how_much_it_is_asked"
TOGETHER = Layout(gpus=2, dp_shard=2)


def rollouts(records: list[StepRecord]) -> list[tuple[Any, ...]]:
    """Return figures of each step's rollouts that are equal for equal tokens and rewards."""
    figures = []
    for record in records:
        stats = record.rollout
        assert stats is not None
        figures.append(
            (stats.tokens_digest, stats.num_response_tokens, stats.num_truncated, stats.num_rounds, stats.reward_mean)
        )
    return figures


def has_a_round_without_a_prompt(run_dir: Path) -> bool:
    """Tell whether the second of two replicas was idle in a round of the first."""
    pairs = zip(requests_of(run_dir, rank=0), requests_of(run_dir, rank=1), strict=True)
    return any(first and not second for first, second in pairs)


def requests_of(run_dir: Path, *, rank: int) -> list[int]:
    """Return the number of a rank's requests in each round."""
    return [int(line) for line in (run_dir / f"requests-rank{rank}.txt").read_text().split()]


def test_generation_has_its_own_precision(runs: KeptRuns) -> None:
    exact = runs.records(rl_plan())
    rounded = runs.records(rl_plan(rl={"generation_precision": "bf16"}))

    for ours, theirs in zip(exact, rounded, strict=True):
        assert ours.rollout is not None
        assert theirs.rollout is not None
        assert ours.rollout.refit_bytes
        assert theirs.rollout.refit_bytes == ours.rollout.refit_bytes // 2
        assert ours.rollout.max_logprob_error is not None
        assert theirs.rollout.max_logprob_error is not None
        assert theirs.rollout.max_logprob_error > 10 * ours.rollout.max_logprob_error


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_every_algorithm_runs_and_its_phases_sum_to_the_step(runs: KeptRuns, algorithm: str) -> None:
    records = runs.records(rl_plan(rl={"algorithm": algorithm}))

    expected = {"generation", "reward", "policy_logprobs", "advantage", "training", "refit", "other"}
    if ALGORITHMS[algorithm].has_reference:
        expected |= {"reference_logprobs"}
    if ALGORITHMS[algorithm].has_value_model:
        expected |= {"values"}
    for record in records:
        assert set(record.phases) == expected
        assert record.rollout is not None
        assert record.rollout.num_samples == 16
        assert record.rollout.staleness_steps == 0
        assert record.rollout.num_prompt_tokens is not None
        assert record.tokens == record.rollout.num_prompt_tokens + record.rollout.num_response_tokens
        assert record.rollout.token_mult_prob_error == pytest.approx(1, abs=1e-4)
        assert record.grad_norm is not None


def test_the_same_seed_and_layout_give_the_same_tokens(engine: Engine, runs: KeptRuns) -> None:
    plan = rl_plan()

    assert rollouts(engine.run(plan)) == rollouts(runs.records(plan))


def test_another_seed_gives_other_tokens_and_so_does_every_step(runs: KeptRuns) -> None:
    records = [*runs.records(rl_plan()), *runs.records(rl_plan(seed=4321))]

    digests = [record.rollout.tokens_digest for record in records if record.rollout]
    assert all(digests)
    assert len(set(digests)) == 6


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(TOGETHER, id="fsdp2"),
        pytest.param(Layout(gpus=2, tp=2, generation=GenerationLayout(gpus=2, tp=2)), id="tp2-gtp2"),
        pytest.param(Layout(gpus=2, pp=2, generation=GenerationLayout(gpus=2, pp=2)), id="pp2-gpp2"),
        pytest.param(Layout(gpus=2, cp=2, generation=GenerationLayout(gpus=2, tp=2)), id="cp2-gtp2"),
        pytest.param(APART, id="apart"),
        pytest.param(
            Layout(gpus=2, dp_shard=2, generation=GenerationLayout(gpus=2, tp=2, is_colocated=False)), id="apart-gtp2"
        ),
    ],
)
def test_every_layout_generates_and_learns_the_same(runs: KeptRuns, layout: Layout) -> None:
    alone, spread = runs.records(rl_plan()), runs.records(rl_plan(layout))

    assert rollouts(spread) == rollouts(alone)
    for ours, theirs in zip(spread, alone, strict=True):
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)


def test_ranks_of_their_own_have_phases_of_their_own(runs: KeptRuns) -> None:
    records = runs.records(rl_plan(APART))

    for record in records:
        assert {"exposed_generation", "training", "refit"} <= set(record.phases)
        assert "generation" not in record.phases
        assert {"idle", "refit", "generation", "reward"} <= set(record.groups["generation"].phases)


@pytest.mark.parametrize("staleness", [1, 2, pytest.param(3, marks=pytest.mark.slow)])  # 2: weights queue up
def test_batches_are_generated_with_weights_of_the_asked_age(runs: KeptRuns, staleness: int) -> None:
    off = runs.records(rl_plan(APART, steps=6, rl={"max_staleness": staleness}))
    on = runs.records(rl_plan(APART, steps=6))

    assert [record.rollout.staleness_steps for record in off if record.rollout] == [
        min(step, staleness) for step in range(6)
    ]
    # The first batch is on-policy in both; with old weights the training log-probabilities have moved away.
    assert rollouts(off)[0] == rollouts(on)[0]
    errors = [record.rollout.max_logprob_error or 0.0 for record in off if record.rollout]
    assert errors[0] < 1e-4
    assert all(error > 1e-4 for error in errors[1:])


@pytest.mark.parametrize("staleness", [1, 2])
def test_weights_that_come_late_are_recorded_with_their_age_and_make_the_run_invalid(
    engine: Engine, staleness: int
) -> None:
    plan = rl_plan(APART, steps=6, rl={"max_staleness": staleness})

    run_dir = engine.launch(plan, entrypoint="tests.native.rl_sabotage:takes_weights_one_step_late")

    records = TorchFramework().read_output(plan, run_dir=run_dir).records
    assert [record.rollout.staleness_steps for record in records if record.rollout] == [
        min(step, staleness + 1) for step in range(6)
    ]
    first = staleness + 1
    assert list(rollout_problems(expected_of(plan), records=records)) == [
        f"step {first} trains on responses of weights {first} steps old, max_staleness={staleness}"
    ]


def test_two_replicas_go_through_the_same_rounds_as_one_though_one_has_no_prompt_in_some(engine: Engine) -> None:
    spread = rl_plan(TOGETHER, global_batch_size=64, rl=ROUNDS)
    alone = engine.run(rl_plan(global_batch_size=64, rl=ROUNDS))

    run_dir = engine.launch(spread, entrypoint=NOTING)

    records = list(TorchFramework().read_output(spread, run_dir=run_dir).records)
    assert has_a_round_without_a_prompt(run_dir)
    assert [(record.rollout.num_rounds or 0) > 1 for record in alone if record.rollout] == [True] * 3
    assert rollouts(records) == rollouts(alone)


def test_batch_fill_counts_every_slot_of_every_round_once(engine: Engine) -> None:
    rl = {**ROUNDS, "response_lengths": "fixed", "max_batch_size": 32}
    plan = rl_plan(TOGETHER, steps=1, global_batch_size=64, rl=rl)

    run_dir = engine.launch(plan, entrypoint=NOTING)

    assert has_a_round_without_a_prompt(run_dir)
    asked = [requests for requests in requests_of(run_dir, rank=0) + requests_of(run_dir, rank=1) if requests]
    assert set(asked) == {16, 32}  # half of the slots, or all
    (record,) = TorchFramework().read_output(plan, run_dir=run_dir).records
    assert record.rollout is not None
    assert record.rollout.batch_fill_pct == pytest.approx(100 * sum(asked) / (32 * len(asked)))


def test_pinned_lengths_are_exact(engine: Engine) -> None:
    plan = rl_plan(rl={"response_lengths": (1, 6, 3)})

    for record in engine.run(plan):
        assert record.tokens == plan.tokens_per_step
        assert record.flops == pytest.approx(plan.tokens_per_step * plan.flops_per_token)
        assert record.rollout is not None
        assert record.rollout.num_truncated == 0


def rewards_of(engine: Engine, *, learning_rate: float) -> list[float]:
    """Return the mean reward of each step: of one block, which learns the sums of 0 and 1 as two blocks do."""
    plan = rl_plan(
        model=replace(MODEL, num_layers=1, hidden_size=32),
        steps=25,
        global_batch_size=64,
        micro_batch_size=64,
        rl={
            "num_prompts_per_step": 8,
            "num_generations_per_prompt": 16,
            "prompt_len": 8,
            "min_prompt_len": None,
            "max_response_len": 2,
            "max_operand": 1,
            "learning_rate": learning_rate,
        },
    )
    return [record.rollout.reward_mean or 0.0 for record in engine.run(plan) if record.rollout]


def test_training_raises_the_reward(engine: Engine) -> None:
    rewards = rewards_of(engine, learning_rate=5e-3)

    assert statistics.fmean(rewards[:3]) < 0.15
    assert statistics.fmean(rewards[-10:]) > 0.25


def test_without_training_the_reward_stays(engine: Engine) -> None:
    rewards = rewards_of(engine, learning_rate=1e-12)

    assert statistics.fmean(rewards[-10:]) < 0.15
