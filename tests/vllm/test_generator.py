"""The real vLLM, through the interface that the loop uses."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import Any

import pytest
import torch

from pytest_nemoperf.errors import GenerationError, PlanError
from pytest_nemoperf.native.rl.generate.rollouts import Request
from pytest_nemoperf.native.rl.generate.vllm_generator import VllmGenerator
from pytest_nemoperf.recipes.rl import STOP_TOKEN
from tests.native.tiny import CPU
from tests.vllm.replica import PROMPT_LEN, RESPONSE_LEN, Replica, requests, vllm_plan

pytestmark = pytest.mark.vllm

# The same sums in another order; of bf16 a logit of 16 to 32 is rounded to a multiple of 1/8.
TOLERANCE = {"fp32": 2e-4, "bf16": 0.3}


def tokens(replica: Replica, **changes: Any) -> list[tuple[int, ...]]:
    return [response.tokens for response in replica.generate(requests(), **changes).responses]


def test_pinned_responses_have_the_lengths_asked_for(replica: Replica) -> None:
    replica.refit(replica.model(seed=1))
    asked = requests(max_lens=(3, RESPONSE_LEN, 1))

    generated = replica.generate(asked)

    assert [len(response.tokens) for response in generated.responses] == [request.max_len for request in asked]
    assert [response.sample for response in generated.responses] == [request.sample for request in asked]
    assert not any(response.is_truncated for response in generated.responses)
    assert generated.num_tokens == sum(request.max_len for request in asked)
    assert generated.num_slot_passes == RESPONSE_LEN * len(asked)


def test_a_refit_generates_with_the_new_weights(replica: Replica) -> None:
    first, second = replica.model(seed=1), replica.model(seed=2)
    replica.refit(first)
    before = tokens(replica)

    replica.refit(second)

    generated = replica.generate(requests())
    assert replica.logprob_error(generated, requests=requests(), decoder=second) < TOLERANCE["fp32"]
    assert replica.logprob_error(generated, requests=requests(), decoder=first) > 0.5  # control
    replica.generator.release()
    replica.refit(first)
    assert tokens(replica) == before


def test_the_seed_decides_what_is_drawn(replica: Replica) -> None:
    replica.refit(replica.model(seed=1))

    drawn = tokens(replica, seed=5)

    assert tokens(replica, seed=5) == drawn
    assert tokens(replica, seed=6) != drawn
    assert drawn[0] != drawn[1]  # the same prompt, another sample


def test_a_stop_token_ends_a_response_and_belongs_to_it(replica: Replica) -> None:
    decoder = replica.model(seed=1)
    replica.refit(decoder)

    generated = replica.generate(requests(is_pinned=False))

    ends = [response.tokens[-1] == STOP_TOKEN for response in generated.responses]
    assert any(ends)
    assert not all(ends)
    for response, has_stopped in zip(generated.responses, ends, strict=True):
        assert STOP_TOKEN not in response.tokens[:-1]
        assert response.is_truncated == (not has_stopped)
        assert has_stopped or len(response.tokens) == RESPONSE_LEN
    assert replica.logprob_error(generated, requests=requests(), decoder=decoder) < TOLERANCE["fp32"]


def test_a_prompt_and_its_limit_must_fit(replica: Replica) -> None:
    request = Request(sample=3, prompt=(1,) * PROMPT_LEN, max_len=RESPONSE_LEN + 1, is_pinned=True)

    with pytest.raises(GenerationError, match="sample 3: a prompt of 12 tokens and a response of up to 21 are 33"):
        replica.generate([request])


def test_no_requests_make_no_responses(replica: Replica) -> None:
    assert replica.generate([]).responses == ()


def test_logits_that_are_not_finite_are_an_error(replica: Replica) -> None:
    decoder = replica.model(seed=1)
    with torch.no_grad():
        next(decoder.parameters()).fill_(torch.nan)
    replica.refit(decoder)

    with pytest.raises(GenerationError, match="not finite; look at the loss and gradient norm"):
        replica.generate(requests())


@pytest.mark.parametrize(
    ("changes", "precision"),
    [
        pytest.param({"model": {"qkv_bias": True, "tied_embeddings": True}}, "fp32", id="qwen2"),
        pytest.param({"model": {"qk_norm": "rms"}, "temperature": 0.7}, "fp32", id="qwen3-temperature"),
        pytest.param({"model": {"sliding_window": 8}, "top_k": 5, "top_p": 0.9}, "fp32", id="mistral-cut"),
        pytest.param({}, "bf16", id="llama-bf16"),
    ],
)
def test_log_probabilities_are_those_our_model_gives(changes: dict[str, Any], precision: str) -> None:
    with Replica.started(precision=precision, **changes) as replica:
        decoder = replica.model(seed=1)
        replica.refit(decoder)

        generated = replica.generate(requests())

        assert replica.logprob_error(generated, requests=requests(), decoder=decoder) < TOLERANCE[precision]
        other = replica.model(seed=2)  # control
        assert replica.logprob_error(generated, requests=requests(), decoder=other) > 0.5


def test_a_dead_engine_is_an_error_with_its_exit_code() -> None:
    with Replica.started() as replica:
        process = replica.generator._process
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)

        with pytest.raises(GenerationError, match="vLLM's process ended with exit code -9 when asked to generate"):
            replica.generate(requests())


def test_what_vllm_can_not_load_is_refused_before_it_is_started() -> None:
    plan = vllm_plan()
    plan = replace(plan, model=replace(plan.model, logit_scale=2.0))

    with pytest.raises(PlanError, match=r"can't load the model: its logit_scale=2\.0 is not what"):
        VllmGenerator(plan, device=CPU)
