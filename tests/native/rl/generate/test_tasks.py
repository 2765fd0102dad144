"""The task that reinforcement learning trains on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.native.rl.generate.tasks import PromptTask, make_task, reward_of
from pytest_nemoperf.recipes.rl import RL, STOP_TOKEN

PLUS, EQUALS, SEPARATOR = 10, 11, 12


def make_rl(**changes: Any) -> RL:
    sizes: dict[str, Any] = {
        "num_prompts_per_step": 4,
        "num_generations_per_prompt": 2,
        "prompt_len": 16,
        "max_response_len": 8,
    }
    return RL(**{**sizes, **changes})


def task_of(rl: RL, *, prompt: int = 0, step: int = 0, round_number: int = 0, seed: int = 7) -> PromptTask:
    return make_task(rl, seed=seed, step=step, round_number=round_number, prompt=prompt)


def text_of(prompt: tuple[int, ...]) -> str:
    return "".join("0123456789+=;"[token] for token in prompt)


@given(st.integers(8, 200), st.integers(1, 999), st.integers(0, 9))
def test_a_prompt_ends_with_its_sum_and_has_its_length(length: int, largest: int, number: int) -> None:
    rl = make_rl(prompt_len=length, max_operand=largest)

    task = task_of(rl, prompt=number)

    *_, asked = text_of(task.prompt).split(";")
    assert len(task.prompt) == length
    assert asked.endswith("=")
    assert sum(map(int, asked.removesuffix("=").split("+"))) == task.answer


def test_the_examples_before_it_are_right() -> None:
    task = task_of(make_rl(prompt_len=64))

    _, *examples, _ = text_of(task.prompt).split(";")
    assert examples
    for example in examples:
        left, right = example.split("=")
        assert sum(map(int, left.split("+"))) == int(right)


def test_prompts_differ_by_step_round_number_and_seed() -> None:
    rl = make_rl(prompt_len=32, max_operand=999)

    prompts = {
        task_of(rl, prompt=prompt, step=step, round_number=number, seed=seed).prompt
        for prompt in (0, 1)
        for step in (0, 1)
        for number in (0, 1)
        for seed in (0, 1)
    }

    assert len(prompts) == 16


def test_the_same_place_has_the_same_prompt() -> None:
    assert task_of(make_rl(), prompt=3, step=5) == task_of(make_rl(), prompt=3, step=5)


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        pytest.param([1, 2, STOP_TOKEN], 1.0, id="answer and stop"),
        pytest.param([1, 2], 1.0, id="answer at the limit"),
        pytest.param([1, 2, SEPARATOR, 3, PLUS], 1.0, id="what follows does not count"),
        pytest.param([1, 2, 3], 0.0, id="another number that begins so"),
        pytest.param([0, 1, 2, STOP_TOKEN], 0.0, id="a zero in front"),
        pytest.param([1, STOP_TOKEN, 2], 0.0, id="half of it"),
        pytest.param([EQUALS, 1, 2], 0.0, id="no number"),
        pytest.param([STOP_TOKEN], 0.0, id="nothing"),
        pytest.param([], 0.0, id="empty"),
        pytest.param([5000, 1, 2], 0.0, id="no token of the task"),
    ],
)
def test_a_response_is_rewarded_for_the_answer_alone(response: list[int], reward: float) -> None:
    assert reward_of(response, task=PromptTask(prompt=(), answer=12)) == reward


def test_prompt_lengths_go_round_between_the_shortest_and_the_longest() -> None:
    rl = make_rl(min_prompt_len=14)

    assert [len(task_of(rl, prompt=number).prompt) for number in range(4)] == [14, 15, 16, 14]
