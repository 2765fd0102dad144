"""Steps of every algorithm against plain torch on one process, and on real ranks against that one process."""

# N samples, S tokens of the longest

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.architecture import value_model
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.native.model.value_head import ValueHead
from pytest_nemoperf.native.parallel.mesh import RankMesh
from pytest_nemoperf.native.rl.generate.rollouts import StepSamples
from pytest_nemoperf.recipes.algorithms import ALGORITHMS, Algorithm
from pytest_nemoperf.recipes.recipe import Plan
from tests.native import plain_rl
from tests.native.engine import Engine
from tests.native.policy_updates import NUM_STEPS, Trained, read_trained, step_samples, trained
from tests.native.rl_plans import ONE, rl_plan
from tests.native.samples import response_places
from tests.native.tiny import build

TOLERANCE = 1e-5
GRPO = ALGORITHMS["grpo"]
ALGORITHM_CASES = [
    GRPO,
    replace(GRPO, name="loo", is_leave_one_out=True),
    replace(GRPO, name="offpolicy", importance_cap=1.5),
    ALGORITHMS["dapo"],
    ALGORITHMS["ppo"],
    replace(ALGORITHMS["ppo"], name="pporesponse", loss_mean="sequence", discount=0.9),
]
# Slow are variants of an axis, on which test_train_model.py trains one model, and a product of axes that are here: two
# models and an algorithm add means over ranks, which depend on the axes.
LAYOUTS = [
    pytest.param(Layout(gpus=2, dp_shard=2), id="fsdp2"),
    pytest.param(Layout(gpus=2, tp=2), id="tp2"),
    pytest.param(Layout(gpus=2, cp=2), id="cp2"),
    pytest.param(Layout(gpus=2, pp=2), id="pp2"),
    pytest.param(Layout(gpus=2, dp_replicate=2), id="ddp2", marks=pytest.mark.slow),
    pytest.param(Layout(gpus=2, tp=2, sequence_parallel=False), id="tp2nosp", marks=pytest.mark.slow),
    pytest.param(Layout(gpus=4, dp_shard=2, tp=2), id="fsdp2tp2", marks=pytest.mark.slow),
]


def plan_of(algorithm: Algorithm, *, layout: Layout = ONE, **rl: Any) -> Plan:
    """Four prompts with two responses each, in two updates a step."""
    sizes = {"num_generations_per_prompt": 2, "learning_rate": 3e-4, "temperature": 0.8, "algorithm": algorithm}
    return rl_plan(layout, rl={**sizes, **rl}, global_batch_size=4)


class PlainModel:
    """A model and its optimizer, on one sample after the other."""

    def __init__(self, plan: Plan, *, temperature: float) -> None:
        self._model: Decoder = build(plan)
        self._temperature = temperature
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)

    def read(self, samples: StepSamples) -> Tensor:
        """Return log-probabilities, or values, of the tokens of the responses; zeros elsewhere."""
        found_NS = torch.zeros(samples.tokens_NS.shape)
        for sample, places in enumerate(response_places(samples)):
            if places:
                tokens_1S = torch.zeros(1, self._model.seq_len, dtype=torch.int64)
                tokens_1S[0, : samples.tokens_NS.shape[1]] = samples.tokens_NS[sample]
                found_NS[sample, places] = self._outputs(tokens_1S)[torch.tensor(places) - 1]
        return found_NS

    def update(self, loss: Tensor) -> tuple[float, float]:
        torch.autograd.backward([loss])
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.item(), norm.item()

    def _outputs(self, tokens_1S: Tensor) -> Tensor:
        """Return the output at each place for the token after it."""
        if isinstance(self._model.head, ValueHead):
            assert self._model.norm is not None
            hidden_TD: Tensor = self._model.norm(self._model.hidden(tokens_1S))
            return hidden_TD @ self._model.head.weight[0]
        log_softmax_1SV = torch.log_softmax(self._model.logits(tokens_1S) / self._temperature, -1)
        return log_softmax_1SV[0, :-1].gather(1, tokens_1S[0, 1:, None])[:, 0]


@cache
def trained_alone(algorithm: Algorithm) -> Trained:
    """Return what one process learns, here."""
    return trained(plan_of(algorithm), mesh=RankMesh())


@cache
def plainly_trained(algorithm: Algorithm) -> Trained:
    """Return what the plain loop learns."""
    plan = plan_of(algorithm)
    assert plan.rl is not None
    samples = step_samples(plan)
    policy = PlainModel(plan, temperature=0.8)
    reference = PlainModel(plan, temperature=0.8)
    critic = PlainModel(replace(plan, model=value_model(plan.model)), temperature=1.0)
    rewards = plain_rl.shaped_rewards(samples, limit=plan.rl.max_response_len, algorithm=algorithm)
    shaped = replace(samples, rewards_N=torch.tensor(rewards))
    updates = []
    for _ in range(NUM_STEPS):
        old = policy.read(samples).tolist()
        apart = reference.read(samples).tolist()
        values = critic.read(samples).tolist()
        advantages = plain_rl.token_advantages(shaped, values=values, algorithm=algorithm)
        targets = plain_rl.returns(shaped, values=values, algorithm=algorithm)
        for batch in ([0, 1, 2, 3], [4, 5, 6, 7]):
            loss = plain_rl.policy_loss(
                samples,
                batch=batch,
                advantages=advantages,
                old=old,
                reference=apart,
                new_NS=policy.read(samples),
                algorithm=algorithm,
            )
            last = policy.update(loss)
            value_loss, value_norm = critic.update(
                plain_rl.value_loss(
                    samples,
                    batch=batch,
                    targets=targets,
                    old=values,
                    new_NS=critic.read(samples),
                    algorithm=algorithm,
                )
            )
            if algorithm.has_value_model:
                last = (last[0] + value_loss, math.hypot(last[1], value_norm))
        updates.append(last)
    values = critic.read(samples).tolist() if algorithm.has_value_model else []
    return Trained(updates=updates, logprobs=policy.read(samples).tolist(), values=values)


def difference(ours: Trained, theirs: Trained) -> float:
    """Return the largest difference of a log-probability or value, or relative one of a loss or gradient norm."""
    assert len(ours.values) == len(theirs.values)
    largest = max(
        (torch.tensor(mine) - torch.tensor(other)).abs().max().item()
        for mine, other in ((ours.logprobs, theirs.logprobs), (ours.values, theirs.values))
        if mine
    )
    mine_U2, other_U2 = torch.tensor(ours.updates), torch.tensor(theirs.updates)
    return max(largest, ((mine_U2 - other_U2) / other_U2).abs().max().item())


@pytest.mark.parametrize("algorithm", ALGORITHM_CASES, ids=lambda algorithm: algorithm.name)
def test_two_steps_of_an_algorithm_are_those_of_plain_torch(algorithm: Algorithm) -> None:
    assert difference(trained_alone(algorithm), plainly_trained(algorithm)) <= 2 * TOLERANCE


@pytest.mark.parametrize(
    "other",
    [{"kl_coef": 0.0}, {"loss_mean": "token"}, {"is_leave_one_out": True}, {"is_std_normalized": False}],
    ids=lambda other: next(iter(other)),
)
def test_two_steps_of_another_algorithm_are_not(other: dict[str, Any]) -> None:
    ours = trained_alone(replace(GRPO, **other))

    assert difference(ours, plainly_trained(GRPO)) > 100 * TOLERANCE


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_trains_policy_and_value_model_as_one_process_does(engine: Engine, layout: Layout) -> None:
    plan = plan_of(ALGORITHMS["ppo"], layout=layout)
    expected = trained_alone(ALGORITHMS["ppo"])

    run_dir = engine.launch(plan, entrypoint="tests.native.policy_updates:main")

    ranks = read_trained(run_dir, num_ranks=layout.gpus)
    assert max(difference(found, expected) for found in ranks) <= TOLERANCE


def test_means_over_more_than_an_updates_samples_are_noticed(engine: Engine) -> None:
    plan = plan_of(ALGORITHMS["ppo"], layout=Layout(gpus=2, dp_shard=2))
    expected = trained_alone(ALGORITHMS["ppo"])

    run_dir = engine.launch(plan, entrypoint="tests.native.policy_updates:with_terms_of_the_whole_step")

    assert difference(read_trained(run_dir, num_ranks=2)[0], expected) > TOLERANCE
