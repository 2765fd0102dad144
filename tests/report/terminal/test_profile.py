"""Operators in the report of a failing test."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.records.profile import CaseProfile, Operator, compare_operators
from pytest_nemoperf.report.console import to_text
from pytest_nemoperf.report.terminal.profile import (
    _MAX_ROWS,
    _calls_sentence,
    _operator_rows,
    _summary_sentence,
    profile_parts,
)
from tests.builders import make_operators, make_profile, make_provenance

WIDTH = 100
FIGURES = st.builds(Operator, calls_per_step=st.integers(1, 99).map(float), self_sec_per_step=st.floats(1e-6, 1.0))
MANY = st.dictionaries(st.integers(0, 30).map(lambda number: f"aten::op{number}"), FIGURES, max_size=30)


def text_of(found: CaseProfile, **changes: object) -> str:
    return to_text(profile_parts(found, baseline=make_provenance(**changes), width=WIDTH), width=WIDTH, color=False)


@pytest.mark.parametrize(
    ("now", "then", "sentence"),
    [
        (
            make_operators(mm=(80, 0.0244), add=(1, 0.002)),
            make_operators(mm=(40, 0.0121), add=(1, 0.001)),
            "aten::mm adds most: 12.3 ms a step, 12.1 ms -> 24.4 ms in 40 -> 80 calls",
        ),
        (
            make_operators(mm=(40, 0.02)),
            make_operators(mm=(40, 0.01)),
            "aten::mm adds most: 10 ms a step, 10 ms -> 20 ms in the same 40 calls",
        ),
        (make_operators(sort=(3, 0.5)), {}, "aten::sort adds most: 500 ms a step; it is new"),
        (
            {"(outside operators)": Operator(calls_per_step=0, self_sec_per_step=0.3)},
            {"(outside operators)": Operator(calls_per_step=0, self_sec_per_step=0.1)},
            "most is added outside operators, in Python or waiting: 200 ms a step",
        ),
        (
            make_operators(mm=(40, 0.01)),
            make_operators(mm=(40, 0.01)),
            "no operator takes more of a step than in the stored profile",
        ),
        ({}, {}, "no operator takes more of a step than in the stored profile"),
    ],
    ids=["more calls", "slower", "new", "Python", "equal", "empty"],
)
def test_the_first_line_names_what_adds_most(
    now: dict[str, Operator], then: dict[str, Operator], sentence: str
) -> None:
    assert _summary_sentence(compare_operators(now, then=then), device="cpu") == sentence


@pytest.mark.parametrize(
    ("then", "now", "sentence"),
    [
        ({"mm": (2, 0.1)}, {"mm": (2, 0.3)}, "every operator is called as often as then"),
        ({"mm": (2, 0.1), "add": (1, 0.2)}, {"mm": (4, 0.2), "add": (1, 0.9)}, "often: aten::mm 2 -> 4"),
        (
            {"a": (1, 0.1), "b": (1, 0.1), "c": (1, 0.1), "gone": (3, 0.1)},
            {"a": (2, 0.5), "b": (2, 0.4), "c": (2, 0.3), "new": (7, 0.05)},
            "often: aten::a 1 -> 2, aten::b 1 -> 2, aten::c 1 -> 2 and 2 others",
        ),
    ],
    ids=["none", "one", "many"],
)
def test_other_counts_of_calls_are_named(
    then: dict[str, tuple[float, float]], now: dict[str, tuple[float, float]], sentence: str
) -> None:
    changes = compare_operators(make_operators(**now), then=make_operators(**then))

    assert sentence in _calls_sentence(changes)


@given(now=MANY, then=MANY)
def test_the_rows_add_up_and_the_largest_changes_are_shown(now: dict[str, Operator], then: dict[str, Operator]) -> None:
    changes = compare_operators(now, then=then)

    *rows, total = _operator_rows(changes, decimals=3)

    shown = [row for row in rows if not row.name.startswith("(")]
    assert len(shown) == min(len(changes), _MAX_ROWS)
    for side in ("then_ms", "now_ms"):
        assert math.isclose(sum(getattr(row, side) for row in rows), getattr(total, side), abs_tol=1e-3)
    sizes = {change.name: abs(change.added_sec) for change in changes}
    smallest_shown = min((sizes.pop(row.name.partition(" ")[0]) for row in shown), default=0.0)
    assert all(size <= smallest_shown for size in sizes.values())


def test_new_and_gone_operators_are_marked_and_the_rest_is_summed() -> None:
    small = {f"op{number}": (1.0, 0.0001) for number in range(_MAX_ROWS)}
    now = make_profile(operators=make_operators(sort=(2, 0.03), **small))
    then = make_profile(operators=make_operators(topk=(4, 0.01), **{**small, "old": (1.0, 0.00005)}))

    text = text_of(CaseProfile(now=now, then=then))

    assert "operators (5 steps of 2 ranks under torch.profiler)" in text
    lines = {" ".join(line.split()) for line in text.splitlines()}
    assert "aten::sort (new) - 2 0.00 30.00 +30.00" in lines
    assert "aten::topk (gone) 4 - 10.00 0.00 -10.00" in lines
    assert "(3 others) 0.30 0.30 +0.00" in lines
    assert "sum 11.05 31.00 +19.95" in lines
    assert "The profiler slows steps down (here to 100 ms), so only differences count." in " ".join(text.split())


def test_a_profile_of_another_session_than_the_baseline_says_so() -> None:
    found = CaseProfile(now=make_profile(), then=make_profile())

    assert "not of the baseline's session" not in text_of(found)
    text = " ".join(text_of(found, date="2026-11-30T12:00:00Z").split())
    assert "is not of the baseline's session but of 2026-11-22T12:00:00Z, commit 0123456789ab" in text


def test_without_a_stored_profile_the_largest_are_shown_and_how_to_store_one() -> None:
    command = "pytest -m perf --update-baselines --perf-profile test_a.py::test_b"
    found = CaseProfile(now=make_profile(), problem="no profile is stored with the baseline", store_command=command)

    text = text_of(found)

    rows = [line.split()[0] for line in text.splitlines() if "aten::" in line]
    assert rows == ["aten::mm", "aten::add"]
    assert "not compared: no profile is stored with the baseline" in text
    assert command in text


def test_a_case_that_could_not_be_profiled_says_why() -> None:
    text = text_of(CaseProfile(problem="rank 0 failed: out of memory"))

    assert "not profiled: rank 0 failed: out of memory" in text


def test_the_traces_are_named_with_who_opens_them() -> None:
    text = text_of(CaseProfile(now=make_profile(), then=make_profile(), traces=("a/trace-rank0.json.gz",)))

    assert "https://ui.perfetto.dev" in text
    assert "a/trace-rank0.json.gz" in text.splitlines()[-1]
