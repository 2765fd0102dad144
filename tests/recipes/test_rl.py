"""The reinforcement learning part of a recipe."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.recipes.rl import RL
from tests.builders import make_recipe

SIZES: dict[str, Any] = {
    "num_prompts_per_step": 4,
    "num_generations_per_prompt": 2,
    "prompt_len": 10,
    "max_response_len": 8,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_prompts_per_step": 0}, r"num_prompts_per_step=0 must be a whole number >= 1"),
        ({"num_generations_per_prompt": 1}, r"num_generations_per_prompt=1 leaves grpo no group"),
        ({"prompt_len": 4}, r"prompt_len=4 must be a whole number >= 8, the tokens of the longest question"),
        ({"min_prompt_len": 12}, r"min_prompt_len=12 is more than prompt_len=10"),
        ({"response_lengths": "free"}, r"unknown response_lengths 'free'; use 'fixed', 'sampled' or a list"),
        ({"response_lengths": 5}, r"response_lengths=5 must be 'fixed', 'sampled' or a list of whole numbers"),
        ({"response_lengths": (0,)}, r"response_lengths\[0\]=0 must be a whole number >= 1"),
        ({"response_lengths": (9,)}, r"response_lengths have 9, more than max_response_len=8"),
        ({"algorithm": "grpoo"}, r"unknown algorithm 'grpoo'; did you mean grpo"),
        ({"algorithm": None}, r"algorithm=None must be a text or an Algorithm"),
        ({"max_staleness": -1}, r"max_staleness=-1 must be a whole number >= 0"),
        ({"generator": "sglan"}, r"unknown generator 'sglan'; did you mean sglang"),
        ({"temperature": 0}, r"temperature=0 must be a number above 0"),
        ({"top_p": 1.1}, r"top_p=1.1 must be above 0 and at most 1"),
        ({"top_k": 0}, r"top_k=0 must be a whole number >= 1"),
        ({"is_packed": "yes"}, r"is_packed='yes' must be True or False"),
        ({"max_operand": 1000}, r"max_operand=1000 has more than three digits"),
    ],
)
def test_settings_that_break_a_rule_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        RL(**{**SIZES, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus": 0}, r"gpus=0 of a generation layout must be a whole number >= 1"),
        ({"gpus": 4, "tp": 3}, r"generation gpus=4 are not a multiple of tp\*pp \(3\*1=3\)"),
        ({"gpus": 4, "is_colocated": "no"}, r"is_colocated='no' of a generation layout must be True or False"),
    ],
)
def test_a_generation_layout_that_breaks_a_rule_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        GenerationLayout(**changes)


def test_ranks_that_take_turns_are_equally_many() -> None:
    with pytest.raises(RecipeError, match=r"generation gpus=2 take turns with training on gpus=4"):
        Layout(gpus=4, dp_shard=4, generation=GenerationLayout(gpus=2))


def test_ranks_of_their_own_add_up() -> None:
    layout = Layout(gpus=4, dp_shard=4, generation=GenerationLayout(gpus=2, tp=2, is_colocated=False))

    assert layout.total_gpus == 6
    assert layout.label == "fsdp4-gtp2apart"


@pytest.mark.parametrize("value", [{"gpus": 2}, "all"])
def test_a_layout_takes_only_a_generation_layout(value: Any) -> None:
    with pytest.raises(RecipeError, match=r"generation=.* of a layout must be a GenerationLayout"):
        Layout(gpus=2, tp=2, generation=value)


@pytest.mark.parametrize("value", [SIZES, "grpo"])
def test_a_recipe_takes_only_an_rl(value: Any) -> None:
    with pytest.raises(RecipeError, match=r"rl=.* must be an RL or None"):
        make_recipe(rl=value)


def test_lengths_are_replayed_from_the_beginning() -> None:
    rl = RL(**SIZES, response_lengths=(3, 5, 8))

    assert [rl.response_limit(sample) for sample in range(4)] == [3, 5, 8, 3]
    assert rl.max_lengths() == [13, 15, 18, 13, 15, 18, 13, 15]
