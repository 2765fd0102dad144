from __future__ import annotations

import pytest

from pytest_nemoperf.options.parse import parse_count


@pytest.mark.parametrize("text", ["3", " 3", "\x1c\r\n3"])
def test_blanks_around_a_count_are_no_part_of_it(text: str) -> None:
    assert parse_count(text, subject="--perf-runs") == 3


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "\u0663", "1" * 5000], ids=repr)
def test_a_count_is_of_ascii_digits_and_at_least_one(text: str) -> None:
    with pytest.raises(pytest.UsageError, match="must be a whole number >= 1: a verdict needs"):
        parse_count(text, subject="--perf-runs")
