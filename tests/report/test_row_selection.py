from __future__ import annotations

import pytest

from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.report.row_columns import find_column
from pytest_nemoperf.report.row_selection import has_words, parse_condition, sorted_rows
from tests.results.row_builders import make_row

ROW = make_row(model="LLAMA3.1_70B", gpus=64, vp=None)


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("model=llama*", True),
        ("model=*70b", True),
        ("model=llama3", False),
        ("model!=llama*", False),
        ("precision=bf16", True),
        ("gpus=64", True),
        ("gpus!=64", False),
        ("gpus>=64", True),
        ("gpus>64", False),
        ("gpus<65", True),
        ("gpus<=63", False),
        ("gbs=128", True),
        ("tokens>=12,000", True),
        ("runs=3", True),
        ("vp=n/a", True),
        ("vp!=n/a", False),
        ("vp!=2", True),
        ("vp<2", False),
        ("tp!=n/a", True),
        ("release=n/a", True),
    ],
)
def test_a_condition_holds_or_not(*, condition: str, holds: bool) -> None:
    assert parse_condition(condition, subject="--where").holds(ROW) is holds


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("gpus", r"^--where: 'gpus' is no condition; write COLUMN=VALUE, or gpus>=64 for a number$"),
        ("gpu=8", r"^--where: unknown column 'gpu'; did you mean gpus"),
        ("model>8", r"^--where: 'model>8': model holds text, and > compares numbers; use model=PATTERN"),
        ("gpus>=many", r"^--where: gpus holds numbers, and 'many' is none; write e.g. gpus>=8, or gpus=n/a"),
        ("gpus=nan", r"^--where: gpus holds numbers, and 'nan' is none"),
        ("vp>n/a", r"^--where: 'vp>n/a': no value is less or more than n/a; use = or !="),
    ],
)
def test_a_condition_that_is_none_says_what_to_write(condition: str, message: str) -> None:
    with pytest.raises(BaselineError, match=message):
        parse_condition(condition, subject="--where")


@pytest.mark.parametrize(
    ("words", "is_found"),
    [
        ([], True),
        (["70b"], True),
        (["LLAMA3.1", "torch"], True),
        (["70b", "fp8"], False),
        (["not", "fp8"], True),
        (["70b", "not", "torch"], False),
    ],
)
def test_words_are_looked_for_in_case_model_and_framework(*, words: list[str], is_found: bool) -> None:
    assert has_words(ROW, words=words) is is_found


def test_rows_are_sorted_by_the_first_column_then_the_next_and_unknown_values_are_last() -> None:
    rows = [
        make_row(case="a", gpus=8, vp=None),
        make_row(case="b", gpus=16, vp=2),
        make_row(case="c", gpus=16, vp=4),
        make_row(case="d", gpus=8, vp=1),
    ]
    by_gpus, by_vp = find_column("gpus", subject="--sort"), find_column("vp", subject="--sort")

    ordered = sorted_rows(rows, columns=[(by_gpus, True), (by_vp, False)])

    assert [row.case for row in ordered] == ["b", "c", "d", "a"]
    assert [row.case for row in sorted_rows(rows, columns=[(by_vp, True)])] == ["c", "b", "d", "a"]


def test_text_is_sorted_without_regard_to_capitals() -> None:
    rows = [make_row(model=name) for name in ("b", "C", "a")]

    ordered = sorted_rows(rows, columns=[(find_column("model", subject="--sort"), False)])

    assert [row.model for row in ordered] == ["a", "b", "C"]
