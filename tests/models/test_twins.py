from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model, model_catalog
from pytest_nemoperf.models.trainable import unsupported_model
from pytest_nemoperf.models.twins import TWIN_SUFFIX, twin_of
from pytest_nemoperf.models.weights import model_weights, num_parameters

CATALOG = dict(model_catalog())
TRAINED = {name: model for name, model in CATALOG.items() if unsupported_model(model) is None}


def kinds_of_weights(model: ModelConfig) -> set[tuple[str, int]]:
    """Return names without the numbers of layers, and the number of dimensions of each weight."""
    return {(re.sub(r"\.\d+", "", weight.name), len(weight.shape)) for weight in model_weights(model)}


@pytest.mark.parametrize("name", CATALOG)
def test_a_twin_has_the_structure_of_the_full_model(name: str) -> None:
    full = CATALOG[name]

    twin = find_model(f"{name}-twin")

    assert kinds_of_weights(twin) == kinds_of_weights(full)
    assert {layer.feed_forward for layer in twin.layers} == {layer.feed_forward for layer in full.layers}
    assert len(set(twin.layers)) == len(set(full.layers))
    assert twin.num_heads // twin.num_kv_heads == full.num_heads // full.num_kv_heads


@pytest.mark.parametrize("name", TRAINED)
def test_a_twin_is_small_and_can_be_cut(name: str) -> None:
    full = CATALOG[name]

    twin = twin_of(full)

    assert num_parameters(twin) < 5_000_000
    assert twin.num_heads % 4 == 0
    assert twin.num_kv_heads % 2 == 0 or full.num_kv_heads == 1
    assert twin.ffn_hidden_size % 4 == 0
    assert twin.num_layers % 2 == 0 or twin.num_layers == full.num_layers
    assert twin.sliding_window is None or twin.sliding_window < 16


@pytest.mark.parametrize("name", [name for name, model in TRAINED.items() if model.moe is not None])
def test_a_twin_has_more_experts_than_a_token_goes_to(name: str) -> None:
    moe = twin_of(CATALOG[name]).moe

    assert moe is not None
    assert moe.num_experts >= 2 * moe.topk
    assert moe.num_experts // moe.num_groups * moe.topk_groups >= moe.topk
    assert moe.topk_groups < moe.num_groups or moe.num_groups == 1


def test_a_twin_keeps_what_makes_a_family() -> None:
    full = find_model("gemma2-27b")
    twin = find_model("gemma2-27b-twin")

    kept = ("activation", "norm", "norm_eps", "has_post_norms", "attention_softcap", "final_softcap", "tied_embeddings")
    assert [getattr(twin, name) for name in kept] == [getattr(full, name) for name in kept]
    # These follow a width: sqrt(hidden_size), and 1/sqrt of what a head would have if heads filled hidden_size.
    assert twin.embedding_scale == pytest.approx(twin.hidden_size**0.5)
    assert twin.query_scale is not None
    assert full.query_scale is not None
    assert twin.query_scale * twin.head_dim**0.5 == pytest.approx(full.query_scale * full.head_dim**0.5)


def test_a_twin_of_nothing_names_the_catalog() -> None:
    with pytest.raises(RecipeError, match="unknown model 'lama3-8b'; did you mean llama3-8b"):
        find_model("lama3-8b" + TWIN_SUFFIX)


def test_a_twin_is_its_own_twin_in_structure() -> None:
    once = find_model("deepseek-v3-twin")

    assert kinds_of_weights(twin_of(once)) == kinds_of_weights(once)


@pytest.mark.parametrize(
    ("name", "mixer"),
    [
        ("nemotron-h-8b", "Mamba-2"),
        ("qwen3-next-80b-a3b", "gated delta net"),
        ("deepseek-v4-flash", "compressed attention"),
    ],
    ids=["mamba", "delta", "compressed"],
)
def test_hybrids_are_named_with_a_framework_that_trains_them(name: str, mixer: str) -> None:
    problem = unsupported_model(find_model(name))

    assert problem is not None
    assert all(word in problem for word in (name, mixer, "use framework='megatron_bridge'"))


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("hyper_connections", r"has hyper-connections \(hyper_connections.num_streams=4\), which framework 'torch'"),
        ("router", r"has a router of another kind \(moe.router='sqrtsoftplus'\)"),
        ("num_hash_layers", r"has experts chosen by a table \(moe.num_hash_layers=1\)"),
        ("activation_limit", r"has clamped experts \(moe.activation_limit=10\)"),
    ],
)
def test_each_part_of_deepseek_v4_is_refused_alone(part: str, words: str) -> None:
    twin = find_model("deepseek-v4-flash-twin")
    other = find_model("qwen3-30b-a3b-twin")
    assert other.moe is not None
    assert twin.moe is not None
    assert unsupported_model(other) is None
    if part == "hyper_connections":
        model = replace(other, hyper_connections=twin.hyper_connections)
    else:
        changes: dict[str, Any] = {part: getattr(twin.moe, part)}
        model = replace(other, moe=replace(other.moe, **changes))

    assert re.search(words, str(unsupported_model(model)))
