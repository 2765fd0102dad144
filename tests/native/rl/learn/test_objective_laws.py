"""Laws and worked examples of the losses and of the statistics of log-probabilities."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.native.rl.learn.objective import (
    PolicyTerm,
    ValueTerm,
    k3,
    max_logprob_error,
    mean_kl,
    policy_objective,
    policy_terms,
    token_mult_prob_error,
    value_objective,
    value_terms,
)
from pytest_nemoperf.recipes.algorithms import ALGORITHMS, Algorithm
from tests.native.samples import Numbers, gradient_of, make_samples, response_places, with_gradient

GRPO = ALGORITHMS["grpo"]


@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("difference", [-1000.0, 1000.0])
def test_a_policy_far_from_the_old_one_still_has_a_finite_loss(advantage: float, difference: float) -> None:
    algorithm = replace(GRPO, kl_coef=0.1)
    terms_TK = torch.tensor([[1.0, 1.0, advantage, -1001.0, -1001.0]])
    new_T = with_gradient(torch.tensor([-1001.0 + difference]))

    loss = policy_objective(new_T, terms_TK, algorithm=algorithm)

    assert math.isfinite(loss.item())
    assert bool(gradient_of(loss, new_T).isfinite().all())


@given(
    log_ratio=st.floats(-3, 3),
    advantage=st.floats(-5, 5),
    clip_low=st.floats(0, 0.9),
    clip_high=st.floats(0, 0.9),
)
def test_clipping_never_makes_the_objective_better(
    log_ratio: float, advantage: float, clip_low: float, clip_high: float
) -> None:
    algorithm = Algorithm(name="clipped", clip_low=clip_low, clip_high=clip_high)
    terms_TK = torch.tensor([[1.0, 1.0, advantage, -2.0, -2.0]])

    loss = policy_objective(torch.tensor([-2.0 + log_ratio]), terms_TK, algorithm=algorithm)

    assert loss.item() >= -math.exp(log_ratio) * advantage - 1e-4


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "slope"),
    [
        pytest.param(1.5, 1.0, -1.28, 0.0, id="gained-enough"),
        pytest.param(1.25, 1.0, -1.25, -1.25, id="within-the-upper-bound"),
        pytest.param(0.5, 1.0, -0.5, -0.5, id="worse-is-never-clipped"),
        pytest.param(0.5, -1.0, 0.8, 0.0, id="lost-enough"),
        pytest.param(1.5, -1.0, 1.5, 1.5, id="wrong-way-is-never-clipped"),
    ],
)
def test_the_two_bounds_of_dapo_hold_where_they_should(
    ratio: float, advantage: float, expected: float, slope: float
) -> None:
    terms_TK = torch.tensor([[1.0, 1.0, advantage, -2.0, -2.0]])
    new_T = with_gradient(torch.tensor([-2.0 + math.log(ratio)]))

    loss = policy_objective(new_T, terms_TK, algorithm=ALGORITHMS["dapo"])

    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert gradient_of(loss, new_T).item() == pytest.approx(slope, rel=1e-5)


def test_the_clipped_loss_is_that_of_nemo_rls_worked_example() -> None:
    # Ratios, advantages and clip range of test_clipped_pg_loss_ppo_clipping in NeMo RL's tests/unit/algorithms.
    ratio_T, advantage_T = torch.tensor([0.5, 1.0, 1.5]), torch.tensor([1.0, -1.0, 2.0])
    old_T, third_T, ones_T = torch.full((3,), -1.0), torch.full((3,), 1 / 3), torch.ones(3)

    loss = policy_objective(
        old_T + ratio_T.log(),
        torch.stack([third_T, ones_T, advantage_T, old_T, old_T], -1),
        algorithm=Algorithm(name="plain"),
    )

    assert loss.item() == pytest.approx((-0.5 + 1.0 - 2.4) / 3, rel=1e-5)


def test_importance_weights_scale_the_policy_term_alone_and_are_capped() -> None:
    samples = make_samples([2], prompt_lens=[1], rewards=[0.0])
    algorithm = Algorithm(name="off", importance_cap=2.0, kl_coef=0.5)
    old_NS = samples.logprobs_NS + torch.tensor([0.0, math.log(1.5), math.log(8.0)])

    terms_NSK = policy_terms(
        samples,
        numbers=[0],
        advantages=torch.tensor([1.0]),
        old_logprobs_NS=old_NS,
        reference_logprobs_NS=old_NS + math.log(2),
        algorithm=algorithm,
    )
    loss = policy_objective(old_NS.flatten(), terms_NSK.flatten(0, 1), algorithm=algorithm)

    assert terms_NSK[0, 1:, PolicyTerm.IMPORTANCE].tolist() == pytest.approx([1.5, 2.0])
    # k3 of a reference twice as probable is 2 - 1 - ln 2, whatever the importance
    assert loss.item() == pytest.approx(-(1.5 + 2.0) / 2 + 0.5 * (1 - math.log(2)), rel=1e-5)


@given(logprob=st.floats(-30, 0), reference=st.floats(-30, 0))
def test_k3_is_never_negative_and_zero_only_for_equals(logprob: float, reference: float) -> None:
    divergence = k3(torch.tensor(logprob), torch.tensor(reference)).item()

    assert divergence >= 0
    assert k3(torch.tensor(logprob), torch.tensor(logprob)).item() == 0
    if abs(logprob - reference) > 1e-2:
        assert divergence > 0


def test_k3_averages_to_the_divergence_of_two_distributions() -> None:
    policy = torch.tensor([0.5, 0.3, 0.2])
    reference = torch.tensor([0.25, 0.25, 0.5])

    expected = (policy * (policy / reference).log()).sum()

    assert (policy * k3(policy.log(), reference.log())).sum().item() == pytest.approx(expected.item(), rel=1e-5)


@given(value=st.floats(-3, 3), old=st.floats(-3, 3), target=st.floats(-3, 3))
def test_clipping_never_makes_the_value_loss_smaller(value: float, old: float, target: float) -> None:
    terms_TK = torch.tensor([[1.0, old, target]])

    loss = value_objective(torch.tensor([value]), terms_TK, algorithm=ALGORITHMS["ppo"])

    assert loss.item() >= 0.5 * (value - target) ** 2 - 1e-4


def test_value_terms_hold_what_each_column_says() -> None:
    samples = make_samples([2, 0, 1], prompt_lens=[1])
    old_NS, returns_NS = torch.full((3, 3), 5.0), torch.full((3, 3), 7.0)

    terms_NSK = value_terms(
        samples, numbers=torch.tensor([0, 1]), old_values_NS=old_NS, returns_NS=returns_NS, algorithm=GRPO
    )

    assert terms_NSK[0, 1:].tolist() == [[0.5, 5.0, 7.0]] * 2
    assert terms_NSK.shape[-1] == len(ValueTerm)
    assert not terms_NSK[1:].any()
    assert not terms_NSK[0, 0].any()


def test_the_disagreement_of_training_and_generation_is_averaged_over_response_tokens() -> None:
    samples = make_samples([2, 0, 1], prompt_lens=[2])
    logprobs_NS = samples.logprobs_NS.clone()
    logprobs_NS[:, :2] = 99.0  # prompts
    logprobs_NS[1:, 3] = 99.0  # beyond the end
    logprobs_NS[0, 2] += math.log(1.5)
    logprobs_NS[0, 3] -= math.log(1.25)

    error = token_mult_prob_error(logprobs_NS, samples)

    logprobs_NS[1, 2] = torch.nan  # of a response without tokens
    assert error.item() == pytest.approx((1.5 + 1.25 + 1.0) / 3, rel=1e-5)
    assert token_mult_prob_error(logprobs_NS, samples).item() == pytest.approx(error.item())
    assert max_logprob_error(logprobs_NS, samples).item() == pytest.approx(math.log(1.5), rel=1e-5)


def test_the_mean_divergence_is_over_response_tokens() -> None:
    samples = make_samples([2, 1], prompt_lens=[1])
    numbers = Numbers(samples)

    divergence = mean_kl(numbers.old_NS, numbers.reference_NS, samples)

    plain = [
        math.exp(numbers.reference_NS[sample, place].item() - numbers.old_NS[sample, place].item())
        - 1
        - (numbers.reference_NS[sample, place].item() - numbers.old_NS[sample, place].item())
        for sample, places in enumerate(response_places(samples))
        for place in places
    ]
    assert divergence.item() == pytest.approx(sum(plain) / 3, rel=1e-5)


def test_without_a_response_token_nothing_disagrees() -> None:
    samples = make_samples([0, 0])
    garbage_NS = torch.full(samples.tokens_NS.shape, torch.nan)

    assert token_mult_prob_error(garbage_NS, samples).item() == 1
    assert max_logprob_error(garbage_NS, samples).item() == 0
    assert mean_kl(garbage_NS, garbage_NS, samples).item() == 0
