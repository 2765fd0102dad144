"""Rewards to advantages, against loops in plain Python and against the laws of each estimator."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.native.rl.generate.rollouts import StepSamples
from pytest_nemoperf.native.rl.learn.advantages import gae, group_advantages, prompts_with_spread, shaped_rewards
from pytest_nemoperf.recipes.algorithms import ALGORITHMS, Algorithm
from pytest_nemoperf.recipes.rl import RL
from tests.native import plain_rl
from tests.native.samples import make_samples, response_places

MEAN = Algorithm(name="mean", is_std_normalized=False)
NORMALIZED = Algorithm(name="normalized")
LEAVE_ONE_OUT = Algorithm(name="loo", is_leave_one_out=True, is_std_normalized=False)
LEAVE_ONE_OUT_NORMALIZED = Algorithm(name="loo_std", is_leave_one_out=True)
GROUP = [MEAN, NORMALIZED, LEAVE_ONE_OUT, LEAVE_ONE_OUT_NORMALIZED]
PPO = Algorithm(name="gae", advantage="gae", is_std_normalized=False, gae_lambda=0.9, discount=0.8)

# Rewards of tasks: steps of 1/16, so that sums are exact and a spread is a real one.
REWARDS = st.integers(-64, 64).map(lambda sixteenths: sixteenths / 16)
GROUPS = st.lists(REWARDS, min_size=2, max_size=8)


def rl_of(**changes: object) -> RL:
    values = {
        "num_prompts_per_step": 1,
        "num_generations_per_prompt": 5,
        "prompt_len": 8,
        "max_response_len": 10,
        "response_lengths": "sampled",
        "algorithm": replace(ALGORITHMS["dapo"], overlong_share=0.4, overlong_penalty=0.5),
    }
    return RL(**{**values, **changes})  # type: ignore[arg-type]  # each test knows its values


def random_values(samples: StepSamples, *, seed: int = 1) -> torch.Tensor:
    return torch.randn(samples.tokens_NS.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("algorithm", GROUP, ids=lambda algorithm: algorithm.name)
def test_group_advantages_are_those_of_a_plain_loop(algorithm: Algorithm) -> None:
    rewards = [1.0, 0.0, 0.0, 1.0, 0.25, -1.0, 0.5, 1.0, 0.0, 0.0, 0.0, 1.0]

    advantages_N = group_advantages(torch.tensor(rewards), group_size=4, algorithm=algorithm)

    expected = plain_rl.group_advantages(rewards, group_size=4, algorithm=algorithm)
    assert advantages_N.tolist() == pytest.approx(expected, abs=1e-6)
    assert advantages_N.dtype is torch.float32


def test_one_right_answer_of_four_is_worth_what_two_worked_examples_say() -> None:
    rewards_N = torch.tensor([1.0, 0.0, 0.0, 0.0])

    normalized_N = group_advantages(rewards_N, group_size=4, algorithm=NORMALIZED)
    left_out_N = group_advantages(rewards_N, group_size=4, algorithm=LEAVE_ONE_OUT)

    # mean 1/4, unbiased deviation 1/2; without its own reward a right answer compares with 0, a wrong one with 1/3
    assert normalized_N.tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5], rel=1e-5)
    assert left_out_N.tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3], rel=1e-6)


def test_the_mean_of_the_others_is_that_of_nemo_rls_worked_example() -> None:
    # Rewards and baselines of test_calculate_baseline_and_std_per_prompt_basic in NeMo RL's tests/unit/algorithms.
    rewards_N = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    baselines_N = torch.tensor([2.5, 2.0, 1.5, 5.5, 5.0, 4.5])

    advantages_N = group_advantages(rewards_N, group_size=3, algorithm=LEAVE_ONE_OUT)

    assert advantages_N.tolist() == pytest.approx((rewards_N - baselines_N).tolist(), abs=1e-6)


@pytest.mark.parametrize("algorithm", GROUP, ids=lambda algorithm: algorithm.name)
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 0.35, -1e6, 1e-30])
def test_equal_rewards_have_no_advantages_at_all(algorithm: Algorithm, reward: float) -> None:
    rewards_N = torch.tensor([reward] * 7 + [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0])

    advantages_PG = group_advantages(rewards_N, group_size=7, algorithm=algorithm).view(2, 7)

    assert advantages_PG[0].tolist() == [0.0] * 7
    assert bool((advantages_PG[1] != 0).all())


@pytest.mark.parametrize("algorithm", GROUP, ids=lambda algorithm: algorithm.name)
def test_rewards_that_differ_by_rounding_have_no_advantages(algorithm: Algorithm) -> None:
    rewards_N = torch.tensor([0.7, 1.0 - 0.3, 0.1 * 7]) + torch.tensor([0.0, 6e-8, -6e-8])

    assert len(set(rewards_N.tolist())) > 1
    assert not group_advantages(rewards_N, group_size=3, algorithm=algorithm).any()


def test_a_penalty_of_the_whole_reward_leaves_nothing_of_it() -> None:
    samples = make_samples([6, 3], rewards=[1.0, 0.0])
    dapo = replace(ALGORITHMS["dapo"], overlong_share=0.2, overlong_penalty=1.0)

    assert shaped_rewards(samples, rl=rl_of(max_response_len=6, algorithm=dapo)).tolist() == [0.0, 0.0]


def test_one_reward_apart_from_equal_ones_stays_bounded_with_its_own_left_out() -> None:
    rewards_N = torch.tensor([0.35] * 7 + [0.0])

    advantages_N = group_advantages(rewards_N, group_size=8, algorithm=LEAVE_ONE_OUT_NORMALIZED)

    assert advantages_N.abs().max().item() == pytest.approx(math.sqrt(8), rel=1e-4)


@given(rewards=GROUPS, algorithm=st.sampled_from(GROUP))
def test_the_advantages_of_a_group_sum_to_zero(rewards: list[float], algorithm: Algorithm) -> None:
    advantages_N = group_advantages(torch.tensor(rewards), group_size=len(rewards), algorithm=algorithm)

    assert advantages_N.sum().item() == pytest.approx(0, abs=1e-4)


@given(rewards=GROUPS, shift=REWARDS, algorithm=st.sampled_from(GROUP))
def test_rewards_may_be_shifted(rewards: list[float], shift: float, algorithm: Algorithm) -> None:
    shifted = [reward + shift for reward in rewards]

    plain_N = group_advantages(torch.tensor(rewards), group_size=len(rewards), algorithm=algorithm)
    shifted_N = group_advantages(torch.tensor(shifted), group_size=len(rewards), algorithm=algorithm)

    assert shifted_N.tolist() == pytest.approx(plain_N.tolist(), abs=1e-4)


@given(rewards=GROUPS, scale=st.integers(1, 64), algorithm=st.sampled_from([NORMALIZED, LEAVE_ONE_OUT_NORMALIZED]))
def test_rewards_may_be_scaled_where_their_deviation_divides(
    rewards: list[float], scale: int, algorithm: Algorithm
) -> None:
    scaled = [reward * scale for reward in rewards]

    plain_N = group_advantages(torch.tensor(rewards), group_size=len(rewards), algorithm=algorithm)
    scaled_N = group_advantages(torch.tensor(scaled), group_size=len(rewards), algorithm=algorithm)

    assert scaled_N.tolist() == pytest.approx(plain_N.tolist(), abs=1e-3)


def test_only_prompts_whose_rewards_differ_are_kept() -> None:
    rewards_N = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.1, 0.1, 0.2])

    assert prompts_with_spread(rewards_N, group_size=3).tolist() == [False, False, True]


def test_the_last_part_of_the_limit_costs_more_and_more() -> None:
    samples = make_samples([6, 7, 8, 10, 0], rewards=[1.0, 1.0, 0.0, 1.0, 0.5])

    rewards_N = shaped_rewards(samples, rl=rl_of())

    # limit 10, of which the last 4 tokens cost 1/8 each
    assert rewards_N.tolist() == pytest.approx([1.0, 0.875, -0.25, 0.5, 0.5])


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"response_lengths": "fixed"}, id="fixed"),
        pytest.param({"response_lengths": (10, 3)}, id="replayed"),
        pytest.param({"algorithm": "grpo"}, id="no-zone"),
    ],
)
def test_lengths_cost_nothing_where_they_are_pinned_or_not_asked_about(changes: dict[str, object]) -> None:
    samples = make_samples([10, 10], rewards=[1.0, 0.0])

    assert shaped_rewards(samples, rl=rl_of(**changes)).tolist() == [1.0, 0.0]


def test_responses_that_all_fill_their_limit_lose_the_same() -> None:
    samples = make_samples([10, 10, 10], rewards=[1.0, 0.0, 1.0])

    rewards_N = shaped_rewards(samples, rl=rl_of())

    assert rewards_N.tolist() == pytest.approx([0.5, -0.5, 0.5])


@pytest.mark.parametrize("response_lens", [[5, 1, 0, 7], [1, 1, 1], [8, 8], [1, 17, 2, 64]])
def test_gae_is_the_sum_of_its_definition(response_lens: list[int]) -> None:
    samples = make_samples(response_lens)
    values_NS = random_values(samples)

    advantages_NS, returns_NS = gae(samples, rewards_N=samples.rewards_N, values_NS=values_NS, algorithm=PPO)

    expected_NS = torch.tensor(plain_rl.gae(samples, values=values_NS.tolist(), algorithm=PPO))
    torch.testing.assert_close(advantages_NS, expected_NS, rtol=1e-5, atol=1e-5)
    mask_NS = samples.response_mask_NS()
    torch.testing.assert_close(returns_NS, (expected_NS + values_NS) * mask_NS, rtol=1e-5, atol=1e-5)


def test_gae_reads_no_value_outside_responses() -> None:
    samples = make_samples([3, 0, 5])
    values_NS = random_values(samples)
    garbled_NS = values_NS.masked_fill(~samples.response_mask_NS(), torch.nan)

    expected = gae(samples, rewards_N=samples.rewards_N, values_NS=values_NS, algorithm=PPO)
    garbled = gae(samples, rewards_N=samples.rewards_N, values_NS=garbled_NS, algorithm=PPO)

    torch.testing.assert_close(garbled, expected, rtol=0, atol=0)


@given(seed=st.integers(0, 1000), discount=st.floats(0, 1), lens=st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_gae_with_lambda_one_is_the_discounted_return_less_the_value(
    seed: int, discount: float, lens: list[int]
) -> None:
    samples = make_samples(lens, rewards=[1.0 + sample for sample in range(len(lens))])
    values_NS = random_values(samples, seed=seed)
    algorithm = replace(PPO, gae_lambda=1.0, discount=discount)

    advantages_NS, returns_NS = gae(samples, rewards_N=samples.rewards_N, values_NS=values_NS, algorithm=algorithm)

    for sample, places in enumerate(response_places(samples)):
        for place in places:
            discounted = samples.rewards_N[sample].item() * discount ** (places[-1] - place)
            assert returns_NS[sample, place].item() == pytest.approx(discounted, abs=1e-4)
            advantage = discounted - values_NS[sample, place].item()
            assert advantages_NS[sample, place].item() == pytest.approx(advantage, abs=1e-4)


@given(seed=st.integers(0, 1000), discount=st.floats(0, 1), lens=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_gae_with_lambda_zero_is_the_temporal_difference(seed: int, discount: float, lens: list[int]) -> None:
    samples = make_samples(lens, rewards=[1.0 + sample for sample in range(len(lens))])
    values = random_values(samples, seed=seed)
    algorithm = replace(PPO, gae_lambda=0.0, discount=discount)

    advantages_NS, _ = gae(samples, rewards_N=samples.rewards_N, values_NS=values, algorithm=algorithm)

    for sample, places in enumerate(response_places(samples)):
        for place in places[:-1]:
            difference = discount * values[sample, place + 1].item() - values[sample, place].item()
            assert advantages_NS[sample, place].item() == pytest.approx(difference, abs=1e-5)
        last = samples.rewards_N[sample].item() - values[sample, places[-1]].item()
        assert advantages_NS[sample, places[-1]].item() == pytest.approx(last, abs=1e-5)


def test_advantages_over_a_step_get_mean_zero_and_variance_one() -> None:
    samples = make_samples([5, 0, 9, 1])
    values_NS = random_values(samples)
    whitening = replace(PPO, is_std_normalized=True)

    raw_NS, raw_returns_NS = gae(samples, rewards_N=samples.rewards_N, values_NS=values_NS, algorithm=PPO)
    white_NS, returns_NS = gae(samples, rewards_N=samples.rewards_N, values_NS=values_NS, algorithm=whitening)

    mask_NS = samples.response_mask_NS()
    raw = raw_NS[mask_NS].tolist()
    expected = [(each - statistics.mean(raw)) / statistics.pstdev(raw) for each in raw]
    assert white_NS[mask_NS].tolist() == pytest.approx(expected, abs=1e-5)
    assert not white_NS[~mask_NS].any()
    torch.testing.assert_close(returns_NS, raw_returns_NS, rtol=0, atol=0)


@pytest.mark.parametrize("response_lens", [[0, 0], [1], [0, 1]])
def test_a_step_of_one_token_or_none_has_no_advantage_after_whitening(response_lens: list[int]) -> None:
    samples = make_samples(response_lens)

    advantages_NS, returns_NS = gae(
        samples,
        rewards_N=samples.rewards_N,
        values_NS=random_values(samples),
        algorithm=replace(PPO, is_std_normalized=True),
    )

    assert not advantages_NS.any()
    assert bool(returns_NS.isfinite().all())
