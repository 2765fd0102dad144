"""Sampling of tokens: the exact inverse of known distributions, with top-k and top-p."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pytest_nemoperf.native.rl.generate.rollouts import Request
from pytest_nemoperf.native.rl.generate.sampling import Sampling, draw_uniforms

PROBS = torch.tensor([0.1, 0.4, 0.0, 0.3, 0.2])


def draw(sampling: Sampling, uniforms: list[float], probs: Tensor = PROBS) -> list[int]:
    logits = probs.log().expand(len(uniforms), -1)
    tokens, _ = sampling.draw(logits, torch.tensor(uniforms))
    return tokens.tolist()


def kept_by_definition(probs: Tensor, *, top_k: int | None, top_p: float) -> dict[int, float]:
    """The most probable tokens and their probabilities, renormalised after each of the two cuts."""
    order = sorted(range(len(probs)), key=lambda token: -float(probs[token]))[:top_k]
    total = sum(float(probs[token]) for token in order)
    kept: dict[int, float] = {}
    before = 0.0
    for token in order:
        if before >= top_p:
            break
        kept[token] = float(probs[token]) / total
        before += kept[token]
    return {token: prob / sum(kept.values()) for token, prob in kept.items()}


def test_a_uniform_number_finds_its_token_in_the_order_of_the_vocabulary() -> None:
    assert draw(Sampling(), [0.0, 0.09, 0.11, 0.49, 0.51, 0.79, 0.81, 0.999]) == [0, 0, 1, 1, 3, 3, 4, 4]


@pytest.mark.parametrize(
    ("top_k", "top_p"), [(1, 1.0), (2, 1.0), (3, 0.5), (None, 0.39), (None, 0.41), (None, 0.85), (100, 1.0), (4, 0.75)]
)
def test_top_k_and_top_p_leave_what_their_definition_leaves(top_k: int | None, top_p: float) -> None:
    num_draws = 10_000
    uniforms = [(number + 0.5) / num_draws for number in range(num_draws)]

    tokens = draw(Sampling(top_k=top_k, top_p=top_p), uniforms)

    expected = kept_by_definition(PROBS, top_k=top_k, top_p=top_p)
    drawn = {token: tokens.count(token) / num_draws for token in set(tokens)}
    assert drawn == pytest.approx({token: prob for token, prob in expected.items() if prob > 0}, abs=2 / num_draws)


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=40), st.integers(0, 2**24 - 1))
def test_a_token_without_probability_is_never_drawn(logits: list[float], number: int) -> None:
    values = torch.tensor([*logits, -torch.inf, -torch.inf])
    uniform = torch.tensor([number / 2**24 * (1 - 2**-22)])

    tokens, logprobs = Sampling().draw(values[None], uniform)

    assert tokens.item() < len(logits)
    assert logprobs.isfinite().all()


def test_logprobs_are_those_before_top_k_and_top_p_and_in_fp32() -> None:
    logits = torch.randn(6, 32, generator=torch.Generator().manual_seed(1)).bfloat16()
    sampling = Sampling(temperature=0.7, top_k=5, top_p=0.8)

    tokens, logprobs = sampling.draw(logits, torch.linspace(0, 0.9, 6))

    expected = (logits.float() / 0.7).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    assert logprobs.dtype is torch.float32
    torch.testing.assert_close(logprobs, expected)


def test_a_low_temperature_prefers_the_most_probable_token() -> None:
    assert draw(Sampling(temperature=0.01), [0.0, 0.5, 0.999]) == [1, 1, 1]


def test_logits_that_are_not_finite_have_no_logprob_and_some_token() -> None:
    logits = torch.zeros(3, 8)
    logits[0, 3], logits[1, 3] = torch.nan, torch.inf

    tokens, logprobs = Sampling().draw(logits, torch.full((3,), 0.5))

    assert logprobs.isfinite().tolist() == [False, False, True]
    assert all(0 <= token < 8 for token in tokens.tolist())


def test_uniform_numbers_belong_to_seed_and_sample_alone() -> None:
    def asked(*samples: int, max_len: int = 4) -> list[Request]:
        return [Request(sample=sample, prompt=(1,), max_len=max_len, is_pinned=True) for sample in samples]

    numbers = draw_uniforms(asked(3, 5), seed=1)

    assert torch.equal(draw_uniforms(asked(5, 3), seed=1), numbers.flip(0))
    assert torch.equal(draw_uniforms(asked(5, max_len=2), seed=1)[0], numbers[1, :2])
    assert not torch.equal(draw_uniforms(asked(3, 5), seed=2), numbers)
    assert not torch.equal(numbers[0], numbers[1])
    assert bool((numbers >= 0).all() and (numbers < 1).all())
