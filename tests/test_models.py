from __future__ import annotations

import json
from importlib import resources

import pytest

from pytest_nemoperf.architecture import ModelConfig
from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.models import find_model, model_catalog
from pytest_nemoperf.weights import num_parameters

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
    ],
)
def test_catalog_models_have_the_size_they_are_named_for(name: str, billions: float) -> None:
    assert num_parameters(find_model(name)) / 1e9 == pytest.approx(billions, abs=0.01)


def test_every_catalog_entry_has_a_source_and_none_is_from_memory() -> None:
    text = resources.files("pytest_nemoperf").joinpath("catalog", "models.json").read_text(encoding="utf-8")

    sources = {name: entry["sources"] for name, entry in json.loads(text)["models"].items()}

    assert sources.keys() == model_catalog().keys()
    assert all(sources.values())
    assert not [name for name, each in sources.items() if "verify" in " ".join(each).lower()]


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
    with pytest.raises(RecipeError, match=rf"model mine: {name}={size} must be positive"):
        _make(**{name: size})


def test_key_value_heads_must_divide_the_heads() -> None:
    with pytest.raises(RecipeError, match=r"num_kv_heads=3 does not divide num_heads=4"):
        _make(num_kv_heads=3)


def test_head_dim_must_be_even() -> None:
    with pytest.raises(RecipeError, match=r"head_dim=3 must be even for RoPE"):
        _make(head_dim=3)
