"""Laws of profiles and their comparison."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.records.profile import Operator, RankProfile, compare_operators, merge_ranks

NAMES = st.sampled_from(["aten::mm", "aten::add", "aten::softmax", "(outside operators)"])
OPERATORS = st.dictionaries(
    NAMES,
    st.builds(
        Operator,
        calls_per_step=st.integers(0, 1000).map(float),
        self_sec_per_step=st.floats(0.0, 10.0, allow_subnormal=False),
    ),
)
RANKS = st.builds(RankProfile, step_time_sec=st.floats(0.0, 10.0), operators=OPERATORS)


@given(now=OPERATORS, then=OPERATORS)
def test_differences_sum_to_the_difference_of_the_sums(now: dict[str, Operator], then: dict[str, Operator]) -> None:
    changes = compare_operators(now, then=then)

    sums = [math.fsum(operator.self_sec_per_step for operator in side.values()) for side in (now, then)]
    assert math.isclose(math.fsum(change.added_sec for change in changes), sums[0] - sums[1], abs_tol=1e-9)
    assert {change.name for change in changes} == {*now, *then}


@given(now=OPERATORS, then=OPERATORS)
def test_what_adds_most_comes_first_and_turns_round_with_the_sides(
    now: dict[str, Operator], then: dict[str, Operator]
) -> None:
    added = {change.name: change.added_sec for change in compare_operators(now, then=then)}
    turned = {change.name: change.added_sec for change in compare_operators(then, then=now)}

    assert list(added.values()) == sorted(added.values(), reverse=True)
    assert added == {name: -seconds for name, seconds in turned.items()}


def test_a_new_operator_adds_all_it_takes_and_a_gone_one_saves_it() -> None:
    operator = Operator(calls_per_step=2, self_sec_per_step=0.5)

    new, gone = compare_operators({"aten::new": operator}, then={"aten::gone": operator})

    assert (new.name, new.then, new.added_sec) == ("aten::new", None, 0.5)
    assert (gone.name, gone.now, gone.added_sec) == ("aten::gone", None, -0.5)


@given(ranks=st.lists(RANKS, min_size=1, max_size=4))
def test_of_all_ranks_the_most_counts_whatever_their_order(ranks: list[RankProfile]) -> None:
    merged = merge_ranks(ranks)

    assert merged == merge_ranks(ranks[::-1])
    assert merged == merge_ranks([merged, *ranks])
    for rank in ranks:
        assert merged.step_time_sec >= rank.step_time_sec
        for name, operator in rank.operators.items():
            assert merged.operators[name].self_sec_per_step >= operator.self_sec_per_step
