"""Published rows of reinforcement learning: their models are known, and their tokens per second count prompts too."""

from __future__ import annotations

import statistics
from typing import Final

import pytest

from pytest_nemoperf.flops.published import find_published_model
from pytest_nemoperf.published.contradictions import sample_tokens
from pytest_nemoperf.published.row import PublishedRow
from tests.published.rows import rl_rows

ROWS: Final = rl_rows()
UNEXPLAINED = {
    "rl039": "prints 974 both as length and as step time; rl058 is the same row with 458 s",
    "rl041": "2.3% above",
    "rl047": "9.4% above; the release after prints 59.2 s for the same speed",
    "rl051": "7.6% below",
    "rl058": "3.5% above; DAPO drops samples, and the page does not say which it counts",
    "rl077": "agents that take many turns: an eighth of samples x length",
    "rl094": "as rl077",
    "rl095": "a draft: 2.5% below",
    "rl096": "a draft: 12% above",
}


def _tokens_per_sample(row: PublishedRow) -> float:
    """Return the tokens of one sample, prompt included, that follow from a row's speed."""
    assert row.rollouts is not None
    return sample_tokens(row, row.rollouts)


def _generated(row: PublishedRow) -> int:
    assert row.rollouts is not None
    return row.rollouts.mean_response_len


def _prompt_tokens(row: PublishedRow) -> float:
    """Return the prompt tokens that the other rows of the model imply; the data set is the same in all of them."""
    model = find_published_model(row.model).name
    others = [other for other in ROWS if find_published_model(other.model).name == model and other is not row]
    return float(statistics.median(_tokens_per_sample(other) - _generated(other) for other in others))


@pytest.mark.parametrize(
    ("printed", "name"),
    [
        ("LLAMA3.1_8B", "llama3.1-8b"),
        ("LLAMA3.1_8B_instruct", "llama3.1-8b"),
        ("DeepSeek V3", "deepseek-v3"),
        ("Qwen3-32B", "qwen3-32b"),
        ("Qwen3-30B3A", "qwen3-30b-a3b"),
        ("Qwen3-235B", "qwen3-235b-a22b"),
        ("Nemotron-3-Nano-30B-A3B", "nemotron-3-nano-30b-a3b"),
    ],
)
def test_printed_models_of_reinforcement_learning_are_in_the_catalog(printed: str, name: str) -> None:
    assert find_published_model(printed).name == name
    assert printed in {row.model for row in ROWS}


def _is_reproduced(row: PublishedRow, *, prompt_tokens: float) -> bool:
    expected = _generated(row) + prompt_tokens
    return prompt_tokens >= 0 and abs(_tokens_per_sample(row) / expected - 1) <= 0.02


def test_speed_is_prompt_and_response_tokens_over_step_time_and_all_gpus() -> None:
    missed = {row.id for row in ROWS if not _is_reproduced(row, prompt_tokens=_prompt_tokens(row))}

    assert missed == set(UNEXPLAINED)


def test_generated_tokens_alone_do_not_give_the_speed() -> None:
    reproduced = [row.id for row in ROWS if _is_reproduced(row, prompt_tokens=0.0)]

    assert reproduced == ["rl004"]  # its prompts are less than 2% of its tokens
