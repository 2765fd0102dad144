"""Prices beside what one H100 of 80 GB showed: allocated memory and step times; torch 2.11, bf16, 4,096 tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.pricing.price import Price, price_plan
from pytest_nemoperf.recipes.recipe import Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.rl import RL
from pytest_nemoperf.recipes.systems import find_system

GIB = 2**30
H100 = find_system("h100")
ROLLOUTS = RL(num_prompts_per_step=8, num_generations_per_prompt=8, prompt_len=128, max_response_len=384)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What torch.cuda.max_memory_allocated and the median of the steps were, each rounded as it was printed."""

    recipe: dict[str, Any]
    peak_gib: float
    step_time_sec: float


SEEN = {
    "llama3.2-1b": Seen(
        recipe={"model": "llama3.2-1b", "global_batch_size": 8, "micro_batch_size": 2},
        peak_gib=42.5,
        step_time_sec=0.660,
    ),
    "llama3.2-1b-compiled": Seen(
        recipe={"model": "llama3.2-1b", "global_batch_size": 8, "micro_batch_size": 2, "is_compiled": True},
        peak_gib=40.5,
        step_time_sec=0.595,
    ),
    "llama3.2-3b": Seen(recipe={"model": "llama3.2-3b", "global_batch_size": 4}, peak_gib=71.1, step_time_sec=0.836),
    "qwen3-30b-a3b": Seen(
        recipe={
            "model": "qwen3-30b-a3b",
            "num_layers": 4,
            "global_batch_size": 8,
            "micro_batch_size": 2,
            "is_router_balanced": True,
        },
        peak_gib=68.4,
        step_time_sec=0.489,
    ),
    "deepseek-v2-lite": Seen(
        recipe={"model": "deepseek-v2-lite", "num_layers": 5, "global_batch_size": 4},
        peak_gib=54.6,
        step_time_sec=0.321,
    ),
    "gemma3-1b": Seen(recipe={"model": "gemma3-1b", "global_batch_size": 4}, peak_gib=35.5, step_time_sec=0.499),
    "gpt-oss-20b": Seen(
        recipe={"model": "gpt-oss-20b", "num_layers": 2, "global_batch_size": 4}, peak_gib=67.9, step_time_sec=0.836
    ),
    "grpo-llama3.2-1b": Seen(
        recipe={
            "model": "llama3.2-1b",
            "seq_len": 512,
            "global_batch_size": 32,
            "micro_batch_size": 8,
            "rl": ROLLOUTS,
        },
        peak_gib=36.2,
        step_time_sec=3.99,
    ),
}


def price_of(recipe: dict[str, Any]) -> Price:
    values = {"layouts": {"h100": Layout(gpus=1)}, "seq_len": 4096, **recipe}
    return price_plan(resolve(Recipe(**values), system=H100), system=H100, baseline=None)


@pytest.mark.parametrize("name", sorted(SEEN.keys() - {"llama3.2-1b-compiled"}))
def test_memory_is_priced_within_half_a_percent_of_what_was_allocated(name: str) -> None:
    seen = SEEN[name]

    priced = price_of(seen.recipe).peak_bytes / GIB

    assert priced == pytest.approx(seen.peak_gib, rel=0.002 if name != "gpt-oss-20b" else 0.005)


def test_compiled_blocks_are_priced_as_eager_ones_which_is_from_above() -> None:
    seen = SEEN["llama3.2-1b-compiled"]

    priced = price_of(seen.recipe).peak_bytes / GIB

    assert seen.peak_gib < priced < 1.05 * seen.peak_gib


@pytest.mark.parametrize("name", sorted(SEEN))
def test_the_memory_of_its_data_sheet_is_less_than_what_an_h100_has_for_torch(name: str) -> None:
    price = price_of(SEEN[name].recipe)

    assert price.capacity_bytes is not None
    assert price.capacity_bytes / GIB < 79.1
    assert price.is_fitting is True


@pytest.mark.parametrize("name", sorted(SEEN))
def test_step_times_are_estimated_within_a_tenth_and_their_range_has_what_was_seen(name: str) -> None:
    seen = SEEN[name]

    estimated = price_of(seen.recipe).estimated

    assert estimated is not None
    assert estimated.step_time_sec == pytest.approx(seen.step_time_sec, rel=0.1)
    assert estimated.low_sec < seen.step_time_sec < estimated.high_sec
