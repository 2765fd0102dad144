from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib import resources

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model, model_catalog
from pytest_nemoperf.models.weights import num_active_parameters, num_parameters

TINY = {
    "name": "mine",
    "hidden_size": 8,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 2,
    "ffn_hidden_size": 16,
    "vocab_size": 32,
}


def _make(**changes: object) -> ModelConfig:
    return ModelConfig(**(TINY | changes))  # type: ignore[arg-type]  # a table of mixed types


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("llama2-7b", 6.74),
        ("llama2-13b", 13.02),
        ("llama2-70b", 68.98),
        ("llama3-8b", 8.03),
        ("llama3-70b", 70.55),
        ("llama3.1-8b", 8.03),
        ("llama3.1-70b", 70.55),
        ("llama3.1-405b", 405.85),
        ("llama3.2-1b", 1.24),
        ("llama3.2-3b", 3.21),
        ("llama4-scout-16e", 107.77),  # text part of the 109B
        ("llama4-maverick-128e", 400.71),
        ("gpt3-5b", 5.05),
        ("gpt3-20b", 20.26),
        ("gpt3-175b", 174.62),
        ("nemotron3-8b", 8.54),
        ("nemotron3-22b", 21.27),
        ("nemotron4-15b", 15.63),
        ("nemotron4-340b", 341.03),
        ("qwen2.5-1.5b", 1.54),
        ("qwen2.5-7b", 7.62),
        ("qwen2.5-14b", 14.77),
        ("qwen2.5-32b", 32.76),
        ("qwen2.5-72b", 72.71),
        ("qwen3-0.6b", 0.60),
        ("qwen3-1.7b", 1.72),
        ("qwen3-4b", 4.02),
        ("qwen3-8b", 8.19),
        ("qwen3-14b", 14.77),
        ("qwen3-32b", 32.76),
        ("qwen3-30b-a3b", 30.53),
        ("qwen3-235b-a22b", 235.09),
        ("qwen3-next-80b-a3b", 79.67),
        ("deepseek-v2", 235.74),
        ("deepseek-v2-lite", 15.71),
        ("deepseek-v3", 682.64),  # 671B and one block of multi-token prediction
        ("deepseek-v4-flash", 290.94),  # 284B and one block of multi-token prediction
        ("deepseek-v4-pro", 1598.84),
        ("moonlight-16b-a3b", 15.96),
        ("kimi-k2", 1026.41),
        ("gpt-oss-20b", 20.91),
        ("gpt-oss-120b", 116.83),
        ("mixtral-8x7b", 46.70),
        ("mixtral-8x22b", 140.62),
        ("nemotron-h-4b", 4.49),
        ("nemotron-h-8b", 8.10),
        ("nemotron-h-47b", 46.79),
        ("nemotron-h-56b", 56.32),
        ("nemotron-nano-9b-v2", 8.89),
        ("nemotron-nano-12b-v2", 12.31),
        ("nemotron-3-nano-30b-a3b", 31.58),
        ("nemotron-3.5-lightning-30b-a3b", 32.91),
        ("nemotron-3-super-120b-a12b", 123.61),
        ("nemotron-3-ultra-550b-a55b", 560.52),  # the released checkpoint has 1,121,049,257,984 bytes of bf16
        ("gemma2-2b", 2.61),
        ("gemma2-9b", 9.24),
        ("gemma2-27b", 27.23),
        ("gemma3-1b", 1.00),
        ("gemma3-4b", 3.88),  # text parts from here on
        ("gemma3-12b", 11.77),
        ("gemma3-27b", 27.01),
        ("grok-1", 315.68),
    ],
)
def test_catalog_models_have_the_size_they_are_named_for(name: str, billions: float) -> None:
    assert num_parameters(find_model(name)) / 1e9 == pytest.approx(billions, abs=0.01)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        # embedding tables included, as the names of these models count
        ("qwen3-30b-a3b", 3.35),
        ("qwen3-235b-a22b", 22.19),
        ("deepseek-v2", 21.38),
        ("gpt-oss-20b", 4.19),
        ("gpt-oss-120b", 5.71),
        ("mixtral-8x7b", 12.88),
        ("kimi-k2", 32.86),
        ("llama4-maverick-128e", 17.18),
        ("nemotron-3-nano-30b-a3b", 3.58),
    ],
)
def test_mixtures_use_the_parameters_they_are_named_for(name: str, billions: float) -> None:
    assert num_active_parameters(find_model(name)) / 1e9 == pytest.approx(billions, abs=0.01)


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        # transformers 5.23's class of the released config.json, on the meta device; the paper says 284B with 13B
        # activated, and 1.6T with 49B: https://arxiv.org/abs/2606.19348
        ("deepseek-v4-flash", 284_332_230_231, 13.27),
        ("deepseek-v4-pro", 1_572_997_179_491, 48.85),
    ],
)
def test_deepseek_v4_is_named_without_multi_token_prediction_and_activated_without_its_table(
    name: str, total: int, active: float
) -> None:
    model = replace(find_model(name), mtp_num_layers=0)
    table = model.vocab_size * model.hidden_size

    assert num_parameters(model) == total
    assert (num_active_parameters(model) - table) / 1e9 == pytest.approx(active, abs=0.01)


def test_depths_of_multi_token_prediction_can_share_one_block() -> None:
    shared = find_model("nemotron-3-super-120b-a12b")
    apart = replace(shared, is_mtp_shared=False)
    single = replace(shared, mtp_num_layers=1)

    assert num_parameters(shared) == num_parameters(single)
    assert num_parameters(apart) > num_parameters(shared)


def test_every_catalog_entry_has_a_source_and_none_is_from_memory() -> None:
    text = resources.files("pytest_nemoperf").joinpath("catalog", "models.json").read_text(encoding="utf-8")

    sources = {name: entry["sources"] for name, entry in json.loads(text)["models"].items()}

    assert sources.keys() == model_catalog().keys()
    assert all(sources.values())
    assert not [name for name, each in sources.items() if re.search(r"verif|memory", " ".join(each), re.IGNORECASE)]


def test_catalog_models_know_their_rotary_base() -> None:
    bases = {name: model.rope_theta for name, model in model_catalog().items() if name.startswith("llama2")}

    assert set(bases.values()) == {10_000.0}
    assert find_model("llama3.1-405b").rope_theta == 500_000.0


def test_a_tied_head_counts_once() -> None:
    assert num_parameters(_make()) - num_parameters(_make(tied_embeddings=True)) == 32 * 8


def test_parameters_are_counted_by_hand_for_a_tiny_model() -> None:
    attention = 8 * 8 + 2 * 8 * 4 + 8 * 8
    mlp = 3 * 8 * 16
    norms = 2 * 8

    assert num_parameters(_make()) == 2 * (attention + mlp + norms) + 2 * 32 * 8 + 8


def test_unknown_model_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(RecipeError, match=r"unknown model 'llama3-8'; did you mean .*llama3-8b"):
        find_model("llama3-8")


@pytest.mark.parametrize("name", [name for name in TINY if name != "name"])
@pytest.mark.parametrize("size", [0, -4])
def test_sizes_must_be_positive(name: str, size: int) -> None:
    with pytest.raises(RecipeError, match=rf"model mine: {name}={size} must be a whole number >= 1"):
        _make(**{name: size})


def test_key_value_heads_must_divide_the_heads() -> None:
    with pytest.raises(RecipeError, match=r"num_kv_heads=3 does not divide num_heads=4"):
        _make(num_kv_heads=3)


def _compressed(**changes: object) -> ModelConfig:
    twin = find_model("deepseek-v4-flash-twin")
    assert twin.compressed_attention is not None
    return replace(twin, compressed_attention=replace(twin.compressed_attention, **changes))  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ratios": 4}, r"compressed_attention.ratios=4 must be a list of whole numbers"),
        ({"ratios": (0, 4)}, r"compressed_attention.ratios has 2 numbers for num_layers=4"),
        ({"ratios": (0, 4, -1, 4)}, r"compressed_attention.ratios\[2\]=-1 must be a whole number >= 0"),
        ({"ratios": (0, 4, 2.5, 4)}, r"compressed_attention.ratios\[2\]=2.5 must be a whole number"),
        ({"num_output_groups": 3}, r"num_output_groups=3 does not divide num_heads="),
        ({"rope_head_dim": 3}, r"rope_head_dim=3 must be even and at most head_dim="),
        ({"rope_head_dim": 512}, r"rope_head_dim=512 must be even and at most head_dim="),
        ({"index_topk": 0}, r"compressed_attention.index_topk=0 must be a whole number >= 1"),
    ],
)
def test_compressed_attention_must_fit_the_model(changes: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        _compressed(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sliding_window": None}, r"compressed_attention is added to a window, so sliding_window must be given"),
        ({"num_kv_heads": 2}, r"num_kv_heads=2, and compressed_attention has one head of keys; use num_kv_heads=1"),
        ({"full_attention_interval": 2}, r"mixer of every layer, so full_attention_interval must be left out"),
        ({"attention_gate": True}, r"mixer of every layer, so attention_gate must be left out"),
    ],
)
def test_compressed_attention_goes_with_a_window_and_one_head_of_keys(changes: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        replace(find_model("deepseek-v4-flash-twin"), **changes)  # type: ignore[arg-type]  # a table of mixed types


def test_experts_chosen_by_a_table_are_in_as_many_layers_as_there_are() -> None:
    twin = find_model("deepseek-v4-flash-twin")
    assert twin.moe is not None

    with pytest.raises(RecipeError, match=r"moe.num_hash_layers=5 are more mixtures than num_layers=4 hold"):
        replace(twin, moe=replace(twin.moe, num_hash_layers=5))


def test_head_dim_must_be_even() -> None:
    with pytest.raises(RecipeError, match=r"head_dim=3 must be even for RoPE"):
        _make(head_dim=3)
