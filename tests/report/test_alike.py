from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from pytest_nemoperf.report.alike import with_ranges, without_numbers


def test_numbers_that_differ_become_a_range_and_others_stay() -> None:
    texts = ["finds 25.3% of 1,200 with 4 runs", "finds 9% of 900 with 4 runs"]

    assert with_ranges(texts) == "finds 9..25.3% of 900..1,200 with 4 runs"


def test_digits_of_names_and_dates_are_no_numbers() -> None:
    text = "llama3-8b of 2026-11-30 on rank0"

    assert without_numbers(text) == text


@given(text=st.text(alphabet="0179.,- x%"))
@example("1.5.2,3 x-1 1,5-3")
def test_texts_that_differ_in_numbers_alone_have_as_many(text: str) -> None:
    without = without_numbers(text)

    assert without_numbers(without) == without
    assert with_ranges([text, text]) == text
    with_ranges([without, text])  # raises if one has more numbers
