from __future__ import annotations

import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.report.terminal.commands import command_lines

words = st.lists(st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=120), min_size=1, max_size=6)
NODEID = "perf_tests/test_pretrain.py::test_llama_tiny[" + "a layout's name " * 8 + "]"


@given(words, st.integers(20, 120))
def test_a_folded_command_is_the_same_command_and_fits(argv: list[str], width: int) -> None:
    lines = command_lines(shlex.join(argv), width=width)

    assert all(len(line) <= width for line in lines)
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == argv


def test_a_command_that_fits_is_one_indented_line() -> None:
    assert command_lines("pytest -m perf tests", width=80) == ["  pytest -m perf tests"]


def test_words_stay_whole_where_they_fit() -> None:
    lines = command_lines("pytest -m perf --system=cpu tests/test_one.py::test_two", width=40)

    assert lines == ["  pytest -m perf --system=cpu \\", "  tests/test_one.py::test_two"]


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_shell_reads_a_cut_word_as_one(width: int) -> None:
    lines = command_lines(shlex.join(["printf", "%s|", NODEID, "$HOME", "end"]), width=width)

    output = subprocess.run(["sh", "-c", "\n".join(lines)], capture_output=True, text=True, check=True).stdout

    assert output == f"{NODEID}|$HOME|end|"


def test_a_command_no_shell_could_parse_is_left_alone() -> None:
    assert command_lines("echo 'unfinished", width=40) == ["echo 'unfinished"]
