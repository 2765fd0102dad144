from __future__ import annotations

from typing import Any

import pytest

from pytest_nemoperf.frameworks.configs.hydra_words import hydra_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(13, "13", id="a number"),
        pytest.param(1e-6, "1e-06", id="a small number"),
        pytest.param(False, "false", id="a flag"),
        pytest.param(None, "null", id="nothing"),
        pytest.param("org/Model-1.5B", "org/Model-1.5B", id="a name"),
        pytest.param("", "''", id="an empty text"),
        pytest.param("true", "'true'", id="a text that looks like a flag"),
        pytest.param("1e-6", "'1e-6'", id="a text that looks like a number"),
        pytest.param("-inf", "'-inf'", id="a text that looks like infinity"),
        pytest.param("a,b c", "'a,b c'", id="a text with commas and blanks"),
        pytest.param("it's", r"'it\'s'", id="a quote"),
        pytest.param("a\\b", "'a\\b'", id="a backslash"),
        pytest.param("a\\", "'a\\\\'", id="a backslash at the end"),
        pytest.param("\\'", r"'\\\''", id="a backslash before a quote"),
        pytest.param(["a b", 2, None], "['a b',2,null]", id="a list"),
        pytest.param({"a": {"b": True}}, "{a:{b:true}}", id="a section"),
    ],
)
def test_a_value_is_written_in_the_grammar_of_overrides(value: Any, text: str) -> None:
    """Expected values: hydra-core 1.3 parses each text to the value."""
    assert hydra_text(value) == text
