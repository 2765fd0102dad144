"""The generation engine on one rank: the same model, token by token, with a cache."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pytest_nemoperf.errors import GenerationError
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import model_catalog
from pytest_nemoperf.models.trainable import unsupported_model
from pytest_nemoperf.models.twins import twin_of
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.native.rl.generate.kv_cache import ForwardBatch
from pytest_nemoperf.native.rl.generate.rollouts import GenerationResult, Generator, Request
from pytest_nemoperf.recipes.rl import STOP_TOKEN
from tests.native.families import PARTS
from tests.native.generating import (
    MAX_LEN,
    NUM_SAMPLES,
    SEQ_LEN,
    fill,
    generator_of,
    requests,
    rl_plan,
    scrambled,
    stopping_plan_and_weights,
    tokens_of,
    true_logprobs,
)

TOLERANCE = 1e-5  # of log-probabilities; sums of some hundred products in another order differ by up to 6e-6
TWINS = [model for model in map(twin_of, model_catalog().values()) if unsupported_model(model) is None]


def worst_difference(generated: GenerationResult, asked: list[Request], *, model: Decoder) -> float:
    return max(
        float((true_logprobs(model, request, response) - torch.tensor(response.logprobs)).abs().max())
        for request, response in zip(asked, generated.responses, strict=True)
    )


@pytest.mark.parametrize("name", PARTS)
def test_logprobs_are_those_of_the_whole_sequence_at_once(name: str) -> None:
    plan = rl_plan(PARTS[name], max_batch_size=3)
    asked = requests()

    generated = generator_of(plan).generate(asked, seed=1)

    assert [len(response.tokens) for response in generated.responses] == [request.max_len for request in asked]
    assert worst_difference(generated, asked, model=scrambled(plan)) < TOLERANCE


@pytest.mark.parametrize("config", TWINS, ids=lambda config: config.name)
def test_every_architecture_that_trains_generates(config: ModelConfig) -> None:
    plan = rl_plan(replace(config, mtp_num_layers=0))
    asked = requests()[::3]
    model = scrambled(plan)

    generated = generator_of(plan).generate(asked, seed=1)

    # Scrambled logits reach some tens, and rounding grows with them.
    assert worst_difference(generated, asked, model=model) < 10 * TOLERANCE


def test_another_prompt_is_noticed() -> None:
    plan = rl_plan()
    asked = requests()
    others = [replace(request, prompt=(request.prompt[0] + 1, *request.prompt[1:])) for request in asked]

    generated = generator_of(plan).generate(asked, seed=1)

    assert worst_difference(generated, others, model=scrambled(plan)) > 0.01


def test_a_cache_whose_places_are_mixed_up_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = rl_plan()
    asked = requests()
    original = ForwardBatch.__init__

    def swapped(self, **values):  # type: ignore[no-untyped-def]  # passes on what it is given
        original(self, **{**values, "rows_N": values["rows_N"].roll(1)})

    monkeypatch.setattr(ForwardBatch, "__init__", swapped)
    generated = generator_of(plan).generate(asked, seed=1)

    assert worst_difference(generated, asked, model=scrambled(plan)) > 0.01


def test_bf16_is_near_the_whole_sequence_at_once() -> None:
    plan = rl_plan(precision="bf16")
    asked = requests()
    model = scrambled(plan)

    generator = generator_of(plan)
    generated = generator.generate(asked, seed=1)

    assert {room.dtype for room in generator.allocate().values()} == {torch.bfloat16}
    assert 0 < worst_difference(generated, asked, model=model) < 0.2


@pytest.mark.parametrize("num_slots", [1, 3, 5])
@pytest.mark.parametrize("is_pinned", [True, False], ids=["pinned", "sampled"])
def test_fewer_slots_than_samples_generate_the_same_tokens(num_slots: int, *, is_pinned: bool) -> None:
    asked = requests(is_pinned=is_pinned)
    enough = generator_of(rl_plan()).generate(asked, seed=1)

    few = generator_of(rl_plan(max_batch_size=num_slots)).generate(asked, seed=1)

    assert tokens_of(few) == tokens_of(enough)


def test_tokens_do_not_depend_on_who_shares_the_batch() -> None:
    generator = generator_of(rl_plan())
    asked = requests()

    together = tokens_of(generator.generate(asked, seed=1))
    apart = [tokens_of(generator.generate([request], seed=1))[0] for request in reversed(asked)]

    assert apart[::-1] == together


def test_a_seed_reproduces_and_another_differs() -> None:
    generator = generator_of(rl_plan())

    first = tokens_of(generator.generate(requests(), seed=1))

    assert tokens_of(generator.generate(requests(), seed=1)) == first
    assert tokens_of(generator.generate(requests(), seed=2)) != first


def test_samples_of_one_prompt_differ() -> None:
    generated = generator_of(rl_plan()).generate(requests(max_len=MAX_LEN), seed=1)

    assert len(set(tokens_of(generated))) == NUM_SAMPLES


def test_a_response_ends_with_its_stop_token() -> None:
    plan, weights = stopping_plan_and_weights()

    responses = generator_of(plan, weights=weights).generate(requests(is_pinned=False, max_len=10), seed=1).responses

    ended = [response for response in responses if not response.is_truncated]
    assert ended
    assert all(response.tokens.index(STOP_TOKEN) == len(response.tokens) - 1 for response in ended)
    truncated = [response for response in responses if response.is_truncated]
    assert truncated
    assert all(STOP_TOKEN not in response.tokens and len(response.tokens) == 10 for response in truncated)


def test_pinned_responses_run_through_stop_tokens() -> None:
    plan, weights = stopping_plan_and_weights()

    responses = generator_of(plan, weights=weights).generate(requests(max_len=10), seed=1).responses

    assert [len(response.tokens) for response in responses] == [10] * NUM_SAMPLES
    assert any(STOP_TOKEN in response.tokens[:-1] for response in responses)
    assert not any(response.is_truncated for response in responses)


def test_pinned_and_sampled_lengths_share_a_batch() -> None:
    plan, weights = stopping_plan_and_weights()
    mixed = [replace(request, is_pinned=request.sample % 2 == 0) for request in requests(is_pinned=False, max_len=10)]
    generator = generator_of(plan, weights=weights)
    pinned = tokens_of(generator.generate(requests(is_pinned=True, max_len=10), seed=1))
    sampled = tokens_of(generator.generate(requests(is_pinned=False, max_len=10), seed=1))

    tokens = tokens_of(generator.generate(mixed, seed=1))

    assert tokens[::2] == pinned[::2]
    assert tokens[1::2] == sampled[1::2]


def test_every_pass_counts_all_slots_whether_they_hold_a_sample() -> None:
    limits = [2, 4, 4, 4]
    asked = [replace(request, max_len=limit) for request, limit in zip(requests(), limits, strict=False)]

    generated = generator_of(rl_plan()).generate(asked, seed=1)

    assert generated.num_slot_passes == 4 * 4
    assert generated.num_tokens == 2 + 3 * 4


def test_slots_are_filled_again_as_responses_end() -> None:
    asked = [replace(request, max_len=limit) for request, limit in zip(requests(), [2, 6, 2, 2], strict=False)]

    generated = generator_of(rl_plan(max_batch_size=2)).generate(asked, seed=1)

    assert generated.num_slot_passes == generated.num_tokens == 12  # six passes: 2 + 2 + 2 tokens beside 6


def test_no_requests_are_an_empty_result() -> None:
    generated = generator_of(rl_plan()).generate([], seed=1)

    assert generated == GenerationResult(responses=(), num_slot_passes=0)


def test_a_refit_changes_what_is_generated() -> None:
    plan = rl_plan()
    generator = generator_of(plan)
    before = tokens_of(generator.generate(requests(), seed=1))
    weights = {name: 2 * weight for name, weight in scrambled(plan).named_parameters()}

    generator.release()
    fill(generator, plan=plan, weights=weights)
    after = tokens_of(generator.generate(requests(), seed=1))
    fill(generator, plan=plan)

    assert after != before
    assert tokens_of(generator.generate(requests(), seed=1)) == before


def test_release_frees_weights_and_cache() -> None:
    generator = generator_of(rl_plan())
    generator.generate(requests(), seed=1)

    generator.release()

    assert all(weight.is_meta for weight in generator._model.parameters())
    assert all(core.keys_NLKC is None and core.values_NLKC is None for core in generator._cache._cores)


def test_temperature_is_part_of_the_logprobs() -> None:
    plan = rl_plan(temperature=0.5)
    asked = requests()
    model = scrambled(plan)

    responses = generator_of(plan).generate(asked, seed=1).responses

    for request, response in zip(asked, responses, strict=True):
        expected = true_logprobs(model, request, response, temperature=0.5)
        torch.testing.assert_close(torch.tensor(response.logprobs), expected, atol=TOLERANCE, rtol=0)


def test_one_best_token_is_the_greedy_one() -> None:
    plan = rl_plan(top_k=1)
    model = scrambled(plan)
    (request, *_) = requests()

    (response,) = generator_of(plan).generate([request], seed=1).responses

    tokens = torch.tensor([[*request.prompt, *response.tokens]])
    model.positions_S = torch.arange(tokens.shape[1])
    model.tabulate_positions(torch.device("cpu"))
    best = model.logits(tokens)[0, len(request.prompt) - 1 : -1].argmax(-1)
    assert response.tokens == tuple(best.tolist())


def test_logits_that_are_not_finite_name_sample_and_token() -> None:
    plan = rl_plan()
    weights = dict(scrambled(plan).named_parameters())
    generator = generator_of(plan, weights=weights)
    expected = tokens_of(generator.generate(requests(), seed=1))
    tokens = [token for response in expected for token in response]
    # A token that appears first in the middle of a response: what follows it is not finite.
    sample, place = next(
        (sample, place)
        for sample, response in enumerate(expected)
        for place, token in enumerate(response[:-1])
        if place and tokens.count(token) == 1 and all(token not in request.prompt for request in requests())
    )
    broken = {**weights, "embedding.weight": weights["embedding.weight"].clone()}
    broken["embedding.weight"][expected[sample][place]] = torch.nan
    fill(generator, plan=plan, weights=broken)

    with pytest.raises(GenerationError, match=rf"sample {sample}, token {place + 1} of its response.* not finite"):
        generator.generate(requests(), seed=1)

    fill(generator, plan=plan, weights=weights)
    assert tokens_of(generator.generate(requests(), seed=1)) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_len": SEQ_LEN}, r"sample 0: a prompt of 5 tokens and a response of up to 28 are 33, more than .*=28"),
        ({"max_len": 0}, r"sample 0: a prompt of 5 tokens and a response of at most 0 .* need at least 1"),
        ({"prompt": ()}, r"sample 0: a prompt of 0 tokens .* need at least 1"),
    ],
    ids=["too-long", "no-response", "no-prompt"],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    generator = generator_of(rl_plan())

    with pytest.raises(GenerationError, match=message):
        generator.generate([replace(requests()[0], **changes)], seed=1)


def test_it_is_a_generator() -> None:
    generator: Generator = generator_of(rl_plan())

    assert set(generator.allocate()) == {name for name, _ in scrambled(rl_plan()).named_parameters()}
