"""Tasks of reinforcement learning: sums of two numbers, with answers that can be checked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_nemoperf.recipes.rl import RL

_SYMBOLS = "0123456789+=;"  # a token each; rl.STOP_TOKEN follows them
_NUM_DIGITS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTask:
    """A prompt and the right answer.

    Attributes:
        prompt: Tokens.
        answer: The sum.
    """

    prompt: tuple[int, ...]
    answer: int


def make_task(rl: RL, *, seed: int, step: int, round_number: int, prompt: int) -> PromptTask:
    """Return a task: solved examples (cut off at the front), then a sum to be completed.

    The same arguments give the same task on every rank.

    Args:
        rl: Lengths and the size of the numbers.
        seed: Seed of the run.
        step: Counted from 0.
        round_number: Counted from 0; each round of dynamic sampling has other tasks.
        prompt: Number of the prompt in the step.
    """
    draw = random.Random(f"{seed} step {step} round {round_number} prompt {prompt}")  # noqa: S311 (no secret)

    def number() -> int:
        return draw.randint(0, rl.max_operand)

    first, second = number(), number()
    text = f"{first}+{second}="
    while len(text) < rl.prompt_length(prompt):
        left, right = number(), number()
        text = f"{left}+{right}={left + right};{text}"
    text = text[len(text) - rl.prompt_length(prompt) :]
    return PromptTask(prompt=tuple(map(_SYMBOLS.index, text)), answer=first + second)


def reward_of(response: Sequence[int], *, task: PromptTask) -> float:
    """Return 1 if the leading digits of the response are the answer, without zeros in front; else 0."""
    digits = ""
    for token in response:
        if token >= _NUM_DIGITS:
            break
        digits += _SYMBOLS[token]
    return float(digits == str(task.answer))
