"""Bounds of numbers, and checks of dataclasses' fields by their annotations."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, get_type_hints

import pytest

from pytest_nemoperf.bounds import BOUNDS, LAYERS
from pytest_nemoperf.errors import NemoPerfError, RecipeError, shown
from pytest_nemoperf.flops.conventions import DEFAULT_CONVENTION, find_convention
from pytest_nemoperf.flops.count import flops_terms
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model, model_catalog
from pytest_nemoperf.models.components import (
    MLA,
    CompressedAttention,
    GatedDeltaNet,
    HyperConnections,
    Mamba,
    MoE,
    RopeScaling,
)
from pytest_nemoperf.recipes.ab_turn import ABTurn
from pytest_nemoperf.recipes.algorithms import ALGORITHMS, Algorithm
from pytest_nemoperf.recipes.recipe import Plan, Recipe
from pytest_nemoperf.recipes.rl import RL
from tests.builders import make_plan

PARTS = (CompressedAttention, GatedDeltaNet, HyperConnections, MLA, Mamba, MoE, RopeScaling)
CHECKED = (*PARTS, ABTurn, Algorithm, GenerationLayout, Layout, ModelConfig, Plan, RL, Recipe)
ROLLOUTS = RL(num_prompts_per_step=4, num_generations_per_prompt=2, prompt_len=16, max_response_len=32)
RECIPE = Recipe(model="llama-tiny", layouts={"cpu": Layout(gpus=1)}, seq_len=64, global_batch_size=8, rl=ROLLOUTS)
WRONG: tuple[object, ...] = (
    *(None, True, 0, -1, 10**30, -(10**30), 10**5_000, 2**63, 1.5, 1e308, 5e-324, float("nan"), float("inf")),
    *("", "x", "a\0b", "x" * 5_000, b"x", [], [1], [[]], (1,), {}, {"a": 1}, {1: 2}, {"cpu": 1}, {"cpu": {"tp": 2}}),
    *({1}, object(), ..., [None], {"a": None}, ["python x.py"]),
)


@pytest.mark.parametrize("kind", CHECKED, ids=lambda kind: str(kind.__name__))
def test_every_number_of_a_contract_has_bounds(kind: Any) -> None:
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    for field in fields(kind):
        words = str(hints[field.name])
        if field.name != "schema_version" and ("int" in words or "float" in words) and "MLA" not in words:
            assert field.name in BOUNDS or "dataclass" in words, field.name


@pytest.mark.parametrize(
    "base",
    [RECIPE, ROLLOUTS, Layout(gpus=4, tp=2, dp_shard=2), GenerationLayout(gpus=2), ALGORITHMS["dapo"], make_plan()],
    ids=lambda base: type(base).__name__,
)
def test_no_value_of_any_field_is_more_than_a_broken_rule(base: Any) -> None:
    for field in fields(base):
        for value in WRONG:
            try:
                replace(base, **{field.name: value})
            except NemoPerfError as error:
                assert len(str(error)) < 2_000  # noqa: PT017 (most values are refused, some are right)


@pytest.mark.parametrize("name", ["llama3-8b", "deepseek-v3", "deepseek-v4-flash", "nemotron-h-56b"])
def test_no_value_of_a_model_is_more_than_a_broken_rule(name: str) -> None:
    model: Any = find_model(name)
    for field in fields(model):
        for value in WRONG:
            try:
                replace(model, **{field.name: value})
            except NemoPerfError as error:
                assert len(str(error)) < 2_000  # noqa: PT017 (as above)


@pytest.mark.parametrize("model", model_catalog().values(), ids=lambda model: str(model.name))
def test_known_models_are_far_from_the_bounds(model: ModelConfig) -> None:
    assert 5 * model.num_layers < LAYERS.most


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 10**30}, r"num_layers=10\*\*30 is beyond 1,000; the deepest published model has 126 layers"),
        ({"num_heads": 2**63}, r"num_heads=9223372036854775808 is beyond 1,000,000"),
        ({"hidden_size": 1e308}, r"hidden_size=1e\+308 must be a whole number >= 1"),
        ({"norm_eps": 5e-324}, r"norm_eps=5e-324 is too near to 0 to divide by; use 1e-30 or more"),
        ({"rope_theta": float("nan")}, r"rope_theta=nan must be a finite number above 0"),
        ({"query_temperature": (1.0,)}, r"query_temperature=\(1\.0,\) must have 2 values"),
        ({"tied_embeddings": "no"}, r"tied_embeddings='no' must be True or False"),
        ({"moe": {}}, r"moe={} must be a MoE or None"),
        ({"activation": []}, r"unknown activation of model 'llama3-8b' \[\]; known: clamped_swiglu"),
        ({"norm": "batch"}, r"norm='batch' must be 'rmsnorm' or 'layernorm'"),
    ],
)
def test_a_model_beyond_reason_is_refused_in_words(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        replace(find_model("llama3-8b"), **changes)


def test_the_samples_of_a_step_have_a_bound_together() -> None:
    with pytest.raises(RecipeError, match=r"num_prompts_per_step\*num_generations_per_prompt=1000000 is beyond 20,000"):
        replace(ROLLOUTS, num_prompts_per_step=1_000, num_generations_per_prompt=1_000)


def test_a_list_has_an_end() -> None:
    with pytest.raises(RecipeError, match=r"response_lengths has 20,001 values, which is beyond 20,000"):
        replace(ROLLOUTS, response_lengths=(1,) * 20_001)


def test_flops_of_a_length_beyond_reason_are_not_counted() -> None:
    convention = find_convention(DEFAULT_CONVENTION)
    with pytest.raises(RecipeError, match=r"seq_len=10\*\*30 is beyond 1,000,000,000"):
        flops_terms(find_model("llama3-8b"), seq_len=10**30, convention=convention)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (-(10**40), "-10**40"),
        (10**5_000, "10**5000"),
        ([10**5_000], "a list"),
        ("x" * 99, f"'{59 * 'x'} ..."),
    ],
    ids=["small", "negative", "huge", "inside", "long"],
)
def test_any_value_is_shown_in_short(value: object, text: str) -> None:
    assert shown(value) == text
