from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.frameworks.plans.megatron import unsupported_by_megatron
from pytest_nemoperf.models.architecture import ModelConfig, value_model
from pytest_nemoperf.models.catalog import find_model, model_catalog

REFUSED = {
    "llama4-scout-16e": "is_window_chunked=True",
    "llama4-maverick-128e": "is_window_chunked=True",
    "qwen3-next-80b-a3b": "layers of gated delta net",
    "deepseek-v2": r"moe.group_score='max': .* 6 // 3 = 2 best",
    "deepseek-v3": "mtp_num_layers=1",
    "gemma2-2b": "attention_softcap=50.0",
    "gemma2-9b": "attention_softcap=50.0",
    "gemma2-27b": "attention_softcap=50.0",
    "gemma3-1b": "embedding_scale=33.9",
    "gemma3-4b": "embedding_scale=50.5",
    "gemma3-12b": "embedding_scale=61.9",
    "gemma3-27b": "embedding_scale=73.3",
    "grok-1": "attention_softcap=30.0",
    "deepseek-v4-flash": r"compressed attention \(compressed_attention.ratios of 0, 4, 128\)",
    "deepseek-v4-pro": r"compressed attention \(compressed_attention.ratios of 4, 128\)",
}


def short(value: object) -> str:
    """Return the id of a test's value."""
    return value.name if isinstance(value, ModelConfig) else str(value)


def test_of_64_models_of_the_catalog_39_are_taken() -> None:
    taken = [model.name for model in model_catalog().values() if unsupported_by_megatron(model) is None]

    assert (len(taken), len(model_catalog())) == (39, 64)


@pytest.mark.parametrize("name", sorted(model_catalog()))
def test_each_model_of_the_catalog_is_taken_or_refused_with_the_part_that_is_missing(name: str) -> None:
    model = find_model(name)
    words = REFUSED.get(name, "layers of Mamba-2" if model.mamba is not None else "")

    found = unsupported_by_megatron(model) or ""

    assert re.search(words, found)
    assert bool(words) == bool(found)


def changed_moe(name: str, **changes: Any) -> ModelConfig:
    model = find_model(name)
    assert model.moe is not None
    return replace(model, moe=replace(model.moe, **changes))


def changed_rope(name: str, **changes: Any) -> ModelConfig:
    model = find_model(name)
    assert model.rope_scaling is not None
    return replace(model, rope_scaling=replace(model.rope_scaling, **changes))


LLAMA = find_model("llama3-8b")
DEEPSEEK = replace(find_model("deepseek-v3"), mtp_num_layers=0)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (DEEPSEEK, ""),
        (replace(find_model("nemotron-h-8b"), hybrid_pattern="*-" * 26), "hybrid_pattern"),
        (replace(LLAMA, attention_gate=True), "attention_gate=True"),
        (replace(LLAMA, final_softcap=30.0), "final_softcap=30.0"),
        (replace(LLAMA, has_post_norms=True), "has_post_norms=True"),
        (replace(LLAMA, logit_scale=0.5), "logit_scale=0.5"),
        (replace(LLAMA, query_temperature=(0.1, 8192.0)), "query_temperature"),
        (replace(LLAMA, rope_local_theta=1e4), "rope_local_theta"),
        (value_model(LLAMA), "has_value_head=True"),
        (replace(LLAMA, out_bias=True), "qkv_bias=False, out_bias=True and mlp_bias=False"),
        (replace(LLAMA, out_bias=True, mlp_bias=True), "qkv_bias=False, out_bias=True and mlp_bias=True"),
        (replace(LLAMA, qk_norm="rms", norm="layernorm"), "qk_norm='rms' beside norm='layernorm'"),
        (replace(LLAMA, qk_norm="l2"), ""),
        (replace(LLAMA, qk_norm="l2", nope_interval=4), "qk_norm='l2' with nope_interval=4"),
        (replace(LLAMA, head_dim=44, rope_dim=30), "rope_dim=30 of head_dim=44"),
        (replace(DEEPSEEK, attention_sinks=True), "windows or sinks beside latent attention"),
        (replace(DEEPSEEK, norm="layernorm"), "norm='layernorm' beside latent attention"),
        (changed_rope("llama3.1-8b", low_freq=2.0), "low_freq=2, high_freq=4 and original_context=8192"),
        (changed_rope("llama3.1-8b", kind="linear"), ""),
        (changed_rope("kimi-k2", kind="linear"), "kind 'linear' beside latent attention"),
        (changed_rope("gpt-oss-20b", attention_factor=1.5), "attention_factor=1.5"),
        (changed_rope("gpt-oss-20b", softmax_mscale=1.0), "softmax_mscale=1.0 but no attention_factor"),
        (
            changed_rope("gpt-oss-20b", softmax_mscale=1.0, attention_factor=1.0),
            "softmax_mscale=1.0 outside latent attention",
        ),
        (changed_rope("kimi-k2", truncates=False), "truncates=False beside latent attention"),
        (changed_moe("mixtral-8x7b", router_bias=True), "moe.router_bias=True and mlp_bias=False"),
        (changed_moe("mixtral-8x7b", latent_size=1024), "moe.latent_size=1024"),
        (changed_moe("mixtral-8x7b", scales_input=True), "moe.scales_input=True with moe.topk=2"),
        (changed_moe("mixtral-8x7b", router="sigmoid", is_normalized=False), "moe.is_normalized=False and moe.topk=2"),
        (changed_moe("mixtral-8x7b", topk=1), "moe.is_normalized=True and moe.topk=1"),
        (changed_moe("mixtral-8x7b", topk=1, is_normalized=False), ""),
        (changed_moe("mixtral-8x7b", has_score_correction=True), "moe.has_score_correction=True"),
    ],
    ids=short,
)
def test_parts_of_models_are_taken_or_refused_by_name(model: ModelConfig, words: str) -> None:
    found = unsupported_by_megatron(model) or ""

    assert re.search(words, found)
    assert bool(words) == bool(found)
