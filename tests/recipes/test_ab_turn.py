"""The order of turns, as each side knows it alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.recipes.ab_turn import ABTurn
from tests.native.rank.turning import turns_of


def test_after_the_first_block_each_side_has_two() -> None:
    turns = turns_of(num_steps=8, block_steps=2)

    assert turns == [
        ("A", [0, 1]),
        ("B", [0, 1, 2, 3]),
        ("A", [2, 3, 4, 5]),
        ("B", [4, 5, 6, 7]),
        ("A", [6, 7]),
    ]


@given(num_steps=st.integers(1, 40), block_steps=st.integers(1, 5))
def test_both_sides_agree_about_the_order_and_about_who_is_last(num_steps: int, block_steps: int) -> None:
    turns = turns_of(num_steps=num_steps, block_steps=block_steps)

    for name in "AB":
        turn = ABTurn(directory="", side=name, other="", is_first=name == "A", block_steps=block_steps)
        mine = [steps for side, steps in turns if side == name]
        assert [step for steps in mine for step in steps] == list(range(num_steps))
        assert [steps[0] for steps in mine] == [step for step in range(num_steps) if turn.begins_at(step)]
        assert turn.is_last(num_steps=num_steps) == (turns[-1][0] == name)


@pytest.mark.parametrize("num_pairs", [1, 2, 3])
def test_a_straight_drift_weighs_equally_on_both_sides(num_pairs: int) -> None:
    turns = turns_of(num_steps=6 * num_pairs, block_steps=3)
    order = [(side, step) for side, steps in turns for step in steps]

    places = {name: [place for place, (side, _) in enumerate(order) if side == name] for name in "AB"}

    assert sum(places["A"]) == sum(places["B"])
