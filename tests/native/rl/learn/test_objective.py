"""Losses of policy and value model, against loops over tokens written from the papers, with their gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pytest_nemoperf.native.rl.generate.rollouts import StepSamples
from pytest_nemoperf.native.rl.learn.advantages import gae, group_advantages
from pytest_nemoperf.native.rl.learn.objective import (
    PolicyTerm,
    policy_objective,
    policy_terms,
    value_objective,
    value_terms,
)
from pytest_nemoperf.recipes.algorithms import ALGORITHMS, Algorithm
from tests.native import plain_rl
from tests.native.samples import Numbers, gradient_of, make_samples, with_gradient

GRPO = ALGORITHMS["grpo"]
POLICIES = [
    GRPO,
    replace(GRPO, name="grpo_loo", is_leave_one_out=True),
    replace(GRPO, name="grpo_off_policy", importance_cap=1.1),
    ALGORITHMS["dapo"],
    ALGORITHMS["ppo"],
]
LENS = [4, 1, 0, 7, 5, 2]
REL_TOL = 1e-5


def advantages_of(samples: StepSamples, numbers: Numbers, algorithm: Algorithm) -> Tensor:
    if algorithm.has_value_model:
        return gae(samples, rewards_N=samples.rewards_N, values_NS=numbers.values_NS, algorithm=algorithm)[0]
    return group_advantages(samples.rewards_N, group_size=samples.group_size, algorithm=algorithm)


def terms_of(samples: StepSamples, numbers: Numbers, algorithm: Algorithm, *, batch: list[int]) -> Tensor:
    return policy_terms(
        samples,
        numbers=batch,
        advantages=advantages_of(samples, numbers, algorithm),
        old_logprobs_NS=numbers.old_NS,
        reference_logprobs_NS=numbers.reference_NS if algorithm.has_reference else None,
        algorithm=algorithm,
    )


def plain_policy_loss(numbers: Numbers, algorithm: Algorithm, *, batch: list[int], new_NS: Tensor) -> Tensor:
    samples = step_samples()
    return plain_rl.policy_loss(
        samples,
        batch=batch,
        advantages=plain_rl.token_advantages(samples, values=numbers.values_NS.tolist(), algorithm=algorithm),
        old=numbers.old_NS.tolist(),
        reference=numbers.reference_NS.tolist(),
        new_NS=new_NS,
        algorithm=algorithm,
    )


def step_samples() -> StepSamples:
    return make_samples(LENS, rewards=[1.0, 0.0, 0.0, 0.0, 1.0, 0.5], group_size=3)


@pytest.mark.parametrize("batch", [[0, 1, 2, 3, 4, 5], [3, 0, 2], [1]], ids=["whole-step", "part", "one-token"])
@pytest.mark.parametrize("algorithm", POLICIES, ids=lambda algorithm: algorithm.name)
def test_the_policy_loss_and_its_gradient_are_those_of_a_plain_loop(algorithm: Algorithm, batch: list[int]) -> None:
    samples = step_samples()
    numbers = Numbers(samples)
    new_NS, plain_new_NS = with_gradient(numbers.new_NS), with_gradient(numbers.new_NS)

    terms_NSK = terms_of(samples, numbers, algorithm, batch=batch)
    loss = policy_objective(new_NS.flatten(), terms_NSK.flatten(0, 1), algorithm=algorithm)

    expected = plain_policy_loss(numbers, algorithm, batch=batch, new_NS=plain_new_NS)
    torch.testing.assert_close(loss, expected, rtol=REL_TOL, atol=1e-6)
    expected_grad = gradient_of(expected, plain_new_NS)
    torch.testing.assert_close(gradient_of(loss, new_NS), expected_grad, rtol=REL_TOL, atol=1e-6)
    assert bool(expected_grad.any())


@pytest.mark.parametrize(
    "other",
    [
        {"clip_low": 0.01},
        {"clip_high": 0.01},
        {"kl_coef": 0.05},
        {"loss_mean": "token"},
        {"importance_cap": 0.9},
        {"is_leave_one_out": True},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_loss_with_another_setting_is_told_from_the_plain_one(other: dict[str, object]) -> None:
    samples = step_samples()
    numbers = Numbers(samples)
    batch = list(range(len(LENS)))
    algorithm = replace(GRPO, **other)  # type: ignore[arg-type]  # each parameter set knows its values

    terms_NSK = terms_of(samples, numbers, algorithm, batch=batch)
    loss = policy_objective(numbers.new_NS.flatten(), terms_NSK.flatten(0, 1), algorithm=algorithm)

    plain = plain_policy_loss(numbers, GRPO, batch=batch, new_NS=numbers.new_NS)
    assert abs(loss - plain).item() > 1e-4


@pytest.mark.parametrize("algorithm", POLICIES, ids=lambda algorithm: algorithm.name)
def test_the_gradient_of_the_policy_loss_is_what_finite_differences_say(algorithm: Algorithm) -> None:
    samples = step_samples()
    numbers = Numbers(samples, seed=1)
    terms_TK = terms_of(samples, numbers, algorithm, batch=[0, 3, 4]).flatten(0, 1)
    new_T = with_gradient(numbers.new_NS.flatten())

    grad_T = gradient_of(policy_objective(new_T, terms_TK, algorithm=algorithm), new_T)

    step = 1e-3  # so that no token here crosses a bound of its clip range
    for place in terms_TK[:, PolicyTerm.WEIGHT].nonzero().flatten().tolist():
        moved = torch.zeros_like(new_T).index_fill_(0, torch.tensor([place]), step)
        ahead = policy_objective(new_T.detach() + moved, terms_TK, algorithm=algorithm).item()
        behind = policy_objective(new_T.detach() - moved, terms_TK, algorithm=algorithm).item()
        assert grad_T[place].item() == pytest.approx((ahead - behind) / (2 * step), abs=1e-4)


@pytest.mark.parametrize("mean", ["token", "sequence"])
@pytest.mark.parametrize("batch", [[0, 1, 2, 3, 4, 5], [5, 2, 3]], ids=["whole-step", "part"])
def test_the_value_loss_and_its_gradient_are_those_of_a_plain_loop(batch: list[int], mean: str) -> None:
    samples = step_samples()
    numbers = Numbers(samples)
    algorithm = replace(ALGORITHMS["ppo"], loss_mean=mean, value_coef=0.7)  # type: ignore[arg-type]  # one of the two
    _, returns_NS = gae(samples, rewards_N=samples.rewards_N, values_NS=numbers.values_NS, algorithm=algorithm)
    new_NS, plain_new_NS = with_gradient(numbers.new_values_NS), with_gradient(numbers.new_values_NS)

    terms_NSK = value_terms(
        samples, numbers=batch, old_values_NS=numbers.values_NS, returns_NS=returns_NS, algorithm=algorithm
    )
    loss = value_objective(new_NS.flatten(), terms_NSK.flatten(0, 1), algorithm=algorithm)

    old = numbers.values_NS.tolist()
    targets = plain_rl.returns(samples, values=old, algorithm=algorithm)
    expected = plain_rl.value_loss(
        samples, batch=batch, targets=targets, old=old, new_NS=plain_new_NS, algorithm=algorithm
    )
    torch.testing.assert_close(loss, expected, rtol=REL_TOL, atol=1e-6)
    expected_grad = gradient_of(expected, plain_new_NS)
    torch.testing.assert_close(gradient_of(loss, new_NS), expected_grad, rtol=REL_TOL, atol=1e-6)


def test_parts_of_a_batch_sum_to_the_whole() -> None:
    samples = step_samples()
    numbers = Numbers(samples)
    terms_TK = terms_of(samples, numbers, GRPO, batch=list(range(len(LENS)))).flatten(0, 1)
    new_T = numbers.new_NS.flatten()

    whole = policy_objective(new_T, terms_TK, algorithm=GRPO)
    parts = [
        policy_objective(new, terms, algorithm=GRPO)
        for new, terms in zip(torch.split(new_T, 5), torch.split(terms_TK, 5), strict=True)
    ]

    assert torch.stack(parts).sum().item() == pytest.approx(whole.item(), rel=REL_TOL)


@pytest.mark.parametrize("mean", ["token", "sequence"])
@given(lens=st.lists(st.integers(0, 6), min_size=1, max_size=6), data=st.data())
def test_the_weights_of_a_batch_sum_to_one_if_it_has_a_token(mean: str, lens: list[int], data: st.DataObject) -> None:
    samples = make_samples(lens)
    batch = data.draw(st.lists(st.sampled_from(range(len(lens))), min_size=1, unique=True))
    algorithm = replace(GRPO, loss_mean=mean)  # type: ignore[arg-type]  # one of the two

    weights_NS = terms_of(samples, Numbers(samples), algorithm, batch=batch)[..., PolicyTerm.WEIGHT]

    has_token = any(lens[sample] for sample in batch)
    assert weights_NS.sum().item() == pytest.approx(float(has_token), abs=1e-6)
    others = [sample for sample in range(len(lens)) if sample not in batch]
    assert not weights_NS[others].any()
    assert not weights_NS[~samples.response_mask_NS()].any()


@pytest.mark.parametrize("algorithm", POLICIES, ids=lambda algorithm: algorithm.name)
def test_a_batch_without_a_token_has_terms_of_zero_and_no_loss(algorithm: Algorithm) -> None:
    samples = make_samples([0, 0, 3, 3], group_size=2)
    numbers = Numbers(samples)
    new_NS = with_gradient(numbers.new_NS)

    terms_NSK = terms_of(samples, numbers, algorithm, batch=[0, 1])
    loss = policy_objective(new_NS.flatten(), terms_NSK.flatten(0, 1), algorithm=algorithm)

    assert not terms_NSK.any()
    assert loss.item() == 0
    assert not gradient_of(loss, new_NS).any()


@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf, 1e38])
def test_what_lies_outside_the_responses_has_no_effect_on_the_policy(garbage: float) -> None:
    samples = step_samples()
    numbers = Numbers(samples)
    algorithm = replace(GRPO, importance_cap=2.0)
    batch = [0, 2, 3]
    is_used_NS = terms_of(samples, numbers, algorithm, batch=batch)[..., PolicyTerm.WEIGHT] > 0
    expected = policy_objective(
        numbers.new_NS.flatten(),
        terms_of(samples, numbers, algorithm, batch=batch).flatten(0, 1),
        algorithm=algorithm,
    )

    for name in ("old_NS", "reference_NS", "new_NS"):
        setattr(numbers, name, getattr(numbers, name).masked_fill(~is_used_NS, garbage))
    new_NS = with_gradient(numbers.new_NS)
    terms_NSK = terms_of(samples, numbers, algorithm, batch=batch)
    loss = policy_objective(new_NS.flatten(), terms_NSK.flatten(0, 1), algorithm=algorithm)

    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    grad_NS = gradient_of(loss, new_NS)
    assert bool((grad_NS[~is_used_NS] == 0).all())
    assert bool(grad_NS.isfinite().all())


@pytest.mark.parametrize("garbage", [torch.nan, torch.inf])
def test_what_lies_outside_the_responses_has_no_effect_on_the_value_model(garbage: float) -> None:
    samples = step_samples()
    numbers = Numbers(samples)
    mask_NS = samples.response_mask_NS()
    value_NS = with_gradient(numbers.new_values_NS.masked_fill(~mask_NS, garbage))
    terms_NSK = value_terms(
        samples,
        numbers=range(len(LENS)),
        old_values_NS=numbers.values_NS.masked_fill(~mask_NS, garbage),
        returns_NS=numbers.values_NS.masked_fill(~mask_NS, garbage),
        algorithm=ALGORITHMS["ppo"],
    )

    grad_NS = gradient_of(
        value_objective(value_NS.flatten(), terms_NSK.flatten(0, 1), algorithm=ALGORITHMS["ppo"]), value_NS
    )

    assert bool(terms_NSK.isfinite().all())
    assert bool((grad_NS[~mask_NS] == 0).all())
    assert bool(grad_NS.isfinite().all())
