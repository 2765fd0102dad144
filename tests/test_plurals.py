from __future__ import annotations

import pytest

from pytest_nemoperf.plurals import count_text


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "case", "0 cases"),
        (1, "case", "1 case"),
        (12_000, "case", "12,000 cases"),
        (2, "launch", "2 launches"),
        (2, "loss", "2 losses"),
    ],
)
def test_a_noun_agrees_with_its_number(number: int, noun: str, text: str) -> None:
    assert count_text(number, noun) == text
