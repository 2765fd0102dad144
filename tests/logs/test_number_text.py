from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.logs.number_text import NumberTextError, _numbers, is_cut, number_of

READ = {
    "12.5": 12.5,
    " 12 ": 12.0,
    "-1e-05": -1e-05,
    "1.234560E+01": 12.3456,
    ".5": 0.5,
    "5.": 5.0,
    "1_000": 1000.0,
    "1,234.5": 1234.5,
    "1,234,567": 1234567.0,
    "1.234,5": 1234.5,
    "1.234.567,25": 1234567.25,
    "0,5": 0.5,
    "12,3456": 12.3456,
    "1,5e-3": 0.0015,
    "inf": math.inf,
    "-inf": -math.inf,
}


@pytest.mark.parametrize(("text", "value"), READ.items())
def test_a_number_is_read_right(text: str, value: float) -> None:
    assert number_of(text) == value


@pytest.mark.parametrize("text", ["nan", "NaN", "-nan", "NAN"])
def test_nan_is_a_number_that_is_judged_later(text: str) -> None:
    assert math.isnan(number_of(text))


@pytest.mark.parametrize("text", ["1,234", "12,345", "-999,999"])
def test_a_comma_that_may_be_either_is_refused(text: str) -> None:
    with pytest.raises(NumberTextError, match="thousands comma or one with a decimal comma; say which with comma="):
        number_of(text)


@pytest.mark.parametrize(("comma", "value"), [("thousands", 1234.0), ("decimal", 1.234)])
def test_the_format_says_which_comma_it_is(comma: Any, value: float) -> None:
    assert number_of("1,234", comma=comma) == value


@pytest.mark.parametrize(("text", "comma"), [("0,5", "thousands"), ("1,234.5", "decimal"), ("1,234,567", "decimal")])
def test_a_number_that_contradicts_the_format_is_refused(text: str, comma: Any) -> None:
    with pytest.raises(NumberTextError, match=f'is no number with comma="{comma}"'):
        number_of(text, comma=comma)


@pytest.mark.parametrize("text", ["", "fast", "1.2.3", "1,23,456.0", "12,34.5", "0x10", "--1", "1e", "5 s", "1 234"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(NumberTextError, match="is no number"):
        number_of(text)


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["", "thousands", "decimal"]))
def test_a_number_as_python_writes_it_is_read_back(value: float, comma: Any) -> None:
    assert number_of(repr(value), comma=comma) == value


@given(st.integers(-(10**15), 10**15), st.integers(0, 6))
def test_thousands_commas_are_read_back_or_refused(value: int, digits: int) -> None:
    text = f"{value / 10**digits:,.{digits}f}"

    try:
        read = number_of(text)
    except NumberTextError:
        read = number_of(text, comma="thousands")

    assert read == float(text.replace(",", ""))


CUT = [
    ("took 1,234 ms", "234", "1,234"),
    ("took 1,234 ms", "1", "1,234"),
    ("loss 1.2e-05", "1.2", "1.2e-05"),
    ("loss: -0.5 |", "0.5", "-0.5"),
    ("took 12.75s", "75", "12.75"),
    ("took 12,5 s", "12", "12,5"),
]


@pytest.mark.parametrize(("text", "part", "whole"), CUT)
def test_a_part_of_a_number_is_told_from_a_number(text: str, part: str, whole: str) -> None:
    start = text.rindex(part)

    assert is_cut(text, start=start, end=start + len(part)) == whole


WHOLE = [
    ("step 5/10 |", "5"),
    ("step5", "5"),
    ("tps 5646.27(5646.27/gpu)", "5646.27"),
    ("took 12.5s", "12.5"),
    ("took 12.5.", "12.5"),
    ("took 12.5, then", "12.5"),
    ("loss=2.5,time=3.5", "2.5"),
    ("at 2.5,3.5,4.5 in", "3.5"),
    ("run-7 ended", "7"),
    ("2026-01-31", "01"),
    ("loss: -0.5 |", "-0.5"),
    ("loss: 1.2e-05", "1.2e-05"),
    ("loss: nan", "nan"),
    ("tps: 5,646  mfu", "5,646"),
]


@pytest.mark.parametrize(("text", "part"), WHOLE)
def test_a_whole_number_is_no_part(text: str, part: str) -> None:
    start = text.index(part)

    assert is_cut(text, start=start, end=start + len(part)) == ""


def cut_in_whole_line(text: str, *, start: int, end: int) -> str:
    """Return the number that a part belongs to by a search from the beginning of the line, for comparison."""
    for first, shown in _numbers(text, after=start, from_char=0, to_char=len(text)):
        if first > start:
            return ""
        if first + len(shown) > start:
            return shown if first < start or first + len(shown) > end else ""
    return ""


@given(
    st.text("0123456789.,_eE+-: \t|x\u0663", max_size=40) | st.text(max_size=20),
    st.integers(0, 40),
    st.integers(0, 40),
)
def test_the_characters_around_a_part_tell_all_that_the_line_tells(text: str, one: int, other: int) -> None:
    start, end = min(one, other, len(text)), min(max(one, other), len(text))

    assert is_cut(text, start=start, end=end) == cut_in_whole_line(text, start=start, end=end)
