from __future__ import annotations

from typing import Any

import pytest

from pytest_nemoperf.parallelism import GenerationLayout, Layout
from pytest_nemoperf.pricing import Price, price_plan
from pytest_nemoperf.report.plans import render_price
from pytest_nemoperf.systems import find_system
from tests.builders import make_plan, make_rl, make_rl_plan

CPU = find_system("cpu")


def _price(*, rl: dict[str, Any] | None = None, **changes: Any) -> Price:
    return price_plan(make_rl_plan(rl=make_rl(**(rl or {})), **changes), system=CPU, baseline=None)


def _lines(price: Price) -> list[str]:
    return render_price(price, system_title="CPU").splitlines()


def test_a_price_says_what_a_step_generates_and_who_does_it() -> None:
    lines = _lines(_price())

    assert "generation            native, the same ranks, 2 replicas of tp=1, pp=1" in lines
    assert "samples per step      8 (4 prompts x 2 responses)" in lines
    assert "lengths               prompts 16, responses 24" in lines
    assert "updates per step      2" in lines
    assert "sequences per update  4 (micro batches of 1)" in lines
    assert "tokens per step       320" in lines
    assert any(line.startswith("  generation: 2.62 MB weights, 164 kB cache (4 slots), beside train") for line in lines)
    assert any(line.startswith("  total, generating ") for line in lines)
    assert "not in these figures: log-probability and generation passes (their FLOPs and" in lines
    assert all(len(line) <= 80 for line in lines[1:])


def test_ranks_of_their_own_and_what_is_not_known_before_are_told() -> None:
    generation = GenerationLayout(gpus=2, tp=2, is_colocated=False)
    lines = _lines(
        _price(
            rl={"max_staleness": 2, "response_lengths": "sampled", "min_prompt_len": 12},
            layouts={"cpu": Layout(gpus=2, dp_shard=2, generation=generation)},
        )
    )

    assert "generation            native, 2 ranks of its own, 1 replica of tp=2, pp=1" in lines
    assert "steps off policy      2 at most" in lines
    assert "lengths               prompts 12 to 16, responses until they stop, 24 at most" in lines
    assert any(line.startswith("tokens per step ") and line.endswith(" at most") for line in lines)
    assert any(line.endswith("on its own ranks") for line in lines)
    assert not any(line.startswith("  total, generating ") for line in lines)


def test_recorded_lengths_are_replayed() -> None:
    assert "lengths               prompts 16, responses 3 to 9, replayed" in _lines(
        _price(rl={"response_lengths": (9, 3)})
    )


@pytest.mark.parametrize("word", ["generation", "reference", "update", "not in these figures"])
def test_a_price_of_pre_training_has_none_of_it(word: str) -> None:
    lines = _lines(price_plan(make_plan(), system=CPU, baseline=None))

    assert not any(word in line for line in lines)
