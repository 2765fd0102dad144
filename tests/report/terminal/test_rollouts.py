from __future__ import annotations

from typing import Any

import pytest

from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.pricing.price import Price, price_plan
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.report.terminal.plans import render_price
from tests.builders import make_plan, make_rl, make_rl_plan
from tests.report.blocks import facts

CPU = find_system("cpu")


def _price(*, rl: dict[str, Any] | None = None, **changes: Any) -> Price:
    return price_plan(make_rl_plan(rl=make_rl(**(rl or {})), **changes), system=CPU, baseline=None)


def _text(price: Price) -> str:
    return render_price(price, system_title="CPU")


def test_a_price_says_what_a_step_generates_and_who_does_it() -> None:
    price = _price()

    text = _text(price)

    values = facts(text)
    assert values["generation"] == "native, the same ranks, 2 replicas of tp=1, pp=1"
    assert values["its precision"] == "fp32"
    assert values["samples per step"] == "8 (4 prompts x 2 responses)"
    assert values["lengths"] == "prompts 16, responses 24"
    assert values["updates per step"] == "2"
    assert values["sequences per update"] == "4 (micro batches of 1)"
    assert values["tokens per step"] == "320"
    assert "\n  generation: 2.5 MiB weights, 160 KiB cache (4 slots), beside training's\n" in text
    assert "\n  total, generating " in text
    assert "\nnot in these figures: log-probability and generation passes" in text
    assert max(len(line) for line in text.splitlines() if line != price.plan.case) <= 80


def test_ranks_of_their_own_and_what_is_not_known_before_are_told() -> None:
    generation = GenerationLayout(gpus=2, tp=2, is_colocated=False)
    text = _text(
        _price(
            rl={"max_staleness": 2, "response_lengths": "sampled", "min_prompt_len": 12},
            layouts={"cpu": Layout(gpus=2, dp_shard=2, generation=generation)},
        )
    )

    values = facts(text)
    assert values["generation"] == "native, 2 ranks of its own, 1 replica of tp=2, pp=1"
    assert values["steps off policy"] == "2 at most"
    assert values["lengths"] == "prompts 12 to 16, responses until they stop, 24 at most"
    assert values["tokens per step"].endswith(" at most")
    assert "on its own ranks\n" in text
    assert "total, generating" not in text


def test_recorded_lengths_are_replayed() -> None:
    values = facts(_text(_price(rl={"response_lengths": (9, 3)})))

    assert values["lengths"] == "prompts 16, responses 3 to 9, replayed"


@pytest.mark.parametrize("word", ["generation", "reference", "update", "not in these figures"])
def test_a_price_of_pre_training_has_none_of_it(word: str) -> None:
    assert word not in _text(price_plan(make_plan(), system=CPU, baseline=None))
