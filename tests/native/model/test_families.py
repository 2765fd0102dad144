"""Each family's scaled-down twin against transformers' own implementation, with the same weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model, model_catalog
from pytest_nemoperf.native.model.moe import Router
from pytest_nemoperf.native.model.rope import _rotary_frequencies, _rotary_size, attention_factor
from pytest_nemoperf.native.model.transformer import Decoder
from tests.native import peers
from tests.native.tiny import build, tiny_plan

SEQ_LEN = 24  # three windows
# Logits here are sums of some hundred products through four layers, each rounded by 6e-8 and in another order:
# up to 4e-6 of the largest logit is seen, and one wrong number in a config moves logits by far more (below).
TOLERANCE = 1e-5

TWINS = {
    "llama2-70b": "LLAMA",
    "llama3-8b": "LLAMA",
    "llama3.1-405b": "LLAMA",
    "llama3.2-1b": "LLAMA",
    "llama4-scout-16e": "LLAMA4",
    "llama4-maverick-128e": "LLAMA4",
    "qwen2.5-7b": "QWEN2",
    "qwen3-8b": "QWEN3",
    "qwen3-30b-a3b": "QWEN3_MOE",
    "deepseek-v2": "DEEPSEEK_V2",
    "deepseek-v2-lite": "DEEPSEEK_V2",
    "deepseek-v3": "DEEPSEEK_V3",
    "moonlight-16b-a3b": "DEEPSEEK_V3",
    "mixtral-8x7b": "MIXTRAL",
    "gpt-oss-20b": "GPT_OSS",
    "gpt3-175b": "GPT2",
    "nemotron4-15b": "NEMOTRON",
    "gemma2-2b": "GEMMA2",
    "gemma3-1b": "GEMMA3",
    "gemma3-4b": "GEMMA3",
}


def scrambled(config: ModelConfig) -> Decoder:
    """Return a model with random values in every weight: the initial ones of a norm would hide its use."""
    model = build(tiny_plan(model=config, seq_len=SEQ_LEN))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if name.endswith("norm.weight") else 0.0, 0.2, generator=generator)
        for module in model.modules():
            if isinstance(module, Router) and module.correction_E is not None:
                module.correction_E.normal_(0, 0.2, generator=generator)
    return model


def weights_of(model: Decoder) -> dict[str, Tensor]:
    corrections = {
        f"{name}.correction": module.correction_E
        for name, module in model.named_modules()
        if isinstance(module, Router) and module.correction_E is not None
    }
    return {name: weight.detach() for name, weight in model.named_parameters()} | corrections


def tokens_of(config: ModelConfig) -> Tensor:
    return torch.randint(config.vocab_size, (2, SEQ_LEN), generator=torch.Generator().manual_seed(5))


def difference(logits: Tensor, expected: Tensor) -> float:
    return float((logits - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def peer_logits(name: str, config: ModelConfig, weights: dict[str, Tensor]) -> Tensor:
    logits: Tensor = getattr(peers, TWINS[name]).build(config, weights)(tokens_of(config)).logits
    return logits


@pytest.mark.parametrize("name", TWINS)
@torch.no_grad()
def test_logits_equal_those_of_transformers(name: str) -> None:
    config = find_model(f"{name}-twin")
    model = scrambled(config)

    logits = model.logits(tokens_of(config))

    assert difference(logits, peer_logits(name, config, weights_of(model))) < TOLERANCE


@torch.no_grad()
def test_gated_heads_and_a_gated_shared_expert_equal_those_of_transformers() -> None:
    """The engine refuses the hybrid Qwen3-Next, but computes its attention layers and its experts."""
    config = replace(find_model("qwen3-next-80b-a3b-twin"), gated_delta_net=None, full_attention_interval=0)
    model = scrambled(config)

    logits = model.logits(tokens_of(config))

    expected = peers.QWEN3_NEXT.build(config, weights_of(model))(tokens_of(config)).logits
    assert difference(logits, expected) < TOLERANCE


@torch.no_grad()
def test_the_loss_with_multi_token_prediction_equals_that_of_transformers() -> None:
    config = find_model("deepseek-v3-twin")
    model = scrambled(config)
    text = torch.randint(config.vocab_size, (2, SEQ_LEN + 2), generator=torch.Generator().manual_seed(6))
    tokens, labels, labels_ahead = text[:, :-2], text[:, 1:-1], text[:, 2:]

    loss = model(tokens, torch.stack([labels, labels_ahead], dim=-1))

    losses = [
        F.cross_entropy(logits.flatten(0, 1), expected.flatten(), reduction="sum")
        for logits, expected in zip(
            peers.mtp_logits(config, weights_of(model), tokens, labels), (labels, labels_ahead), strict=True
        )
    ]
    torch.testing.assert_close(loss, losses[0] + 0.3 * losses[1], rtol=TOLERANCE, atol=0)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama3.1-405b", {"rope_scaling": None}),
        ("llama3-8b", {"rope_theta": 10_000.0}),
        ("llama4-scout-16e", {"query_temperature": None}),
        ("llama4-scout-16e", {"is_window_chunked": False}),
        ("llama4-scout-16e", {"moe.scales_input": False}),
        ("deepseek-v3", {"moe.scaling_factor": 1.0}),
        ("deepseek-v3", {"moe.topk_groups": 4}),
        ("deepseek-v3", {"rope_scaling.softmax_mscale": 0.0}),
        ("deepseek-v2", {"moe.is_normalized": True}),
        ("mixtral-8x7b", {"moe.is_normalized": False}),
        ("gpt-oss-20b", {"sliding_window": 9}),
        ("gpt-oss-20b", {"rope_scaling.attention_factor": 1.0}),
        ("nemotron4-15b", {"rope_dim": None}),
        ("gemma2-2b", {"attention_softcap": None}),
        ("gemma2-2b", {"query_scale": 0.1}),
        ("gemma3-4b", {"rope_local_theta": None}),
        ("gemma3-4b", {"embedding_scale": 1.0}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
@torch.no_grad()
def test_a_model_with_one_thing_different_is_told_apart(name: str, changes: dict[str, Any]) -> None:
    config = find_model(f"{name}-twin")
    weights = weights_of(scrambled(config))
    other = scrambled(changed(config, changes))

    logits = other.logits(tokens_of(config))

    assert difference(logits, peer_logits(name, config, weights)) > 10 * TOLERANCE


def changed(config: ModelConfig, changes: dict[str, Any]) -> ModelConfig:
    for path, value in changes.items():
        part, _, field = path.rpartition(".")
        if part:
            config = replace(config, **{part: replace(getattr(config, part), **{field: value})})
        else:
            config = replace(config, **{field: value})
    return config


@pytest.mark.parametrize("name", [name for name, model in model_catalog().items() if model.rope_scaling is not None])
def test_stretched_frequencies_of_full_models_equal_those_of_transformers(name: str) -> None:
    config = find_model(name)
    assert config.rope_scaling is not None
    size = _rotary_size(config)

    ours = _rotary_frequencies(size, theta=config.rope_theta, scaling=config.rope_scaling)

    theirs, factor = peers.stretched_frequencies(size, theta=config.rope_theta, scaling=config.rope_scaling)
    torch.testing.assert_close(ours.float(), theirs, rtol=2e-6, atol=0)  # theirs are made in fp32
    assert attention_factor(config.rope_scaling) == pytest.approx(factor)
