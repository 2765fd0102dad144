from __future__ import annotations

from pathlib import Path

import pytest

from pytest_nemoperf.errors import RecordError
from tests.logs.log_texts import BATCH, TOKENS, automodel_console_line, automodel_line, read

COUNTED = TOKENS - BATCH
"""Tokens that are logged where the last of each sequence has no label."""


def test_tokens_of_automodel_are_those_of_the_step(tmp_path: Path) -> None:
    lines = [automodel_line(step, num_tokens_per_step=1000 + step, tps=(1000 + step) / 1.25) for step in range(3)]

    reading = read("".join(lines), log_format="automodel", tmp_path=tmp_path, has_exact_tokens=False)

    assert [record.tokens for record in reading.records] == [1000, 1001, 1002]
    assert [record.step_time_sec for record in reading.records] == pytest.approx([1.25] * 3)


def test_the_console_of_automodel_is_no_source_where_lengths_vary(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="the log does not tell its tokens"):
        read(automodel_console_line(1), log_format="automodel_console", tmp_path=tmp_path, has_exact_tokens=False)


def test_the_training_file_of_automodel_that_two_runs_wrote_is_told(tmp_path: Path) -> None:
    text = "".join(map(automodel_line, (*range(5), *range(5))))

    with pytest.raises(RecordError, match=r"run\.log:6: step 0 after step 4: two runs in one log"):
        read(text, log_format="automodel", tmp_path=tmp_path)


def test_the_last_token_of_each_full_sequence_counts_too(tmp_path: Path) -> None:
    lines = [automodel_line(step, num_tokens_per_step=COUNTED, tps=COUNTED / 1.25) for step in range(3)]

    records = read("".join(lines), log_format="automodel", tmp_path=tmp_path).records

    assert [record.tokens for record in records] == [TOKENS] * 3
    assert [record.step_time_sec for record in records] == pytest.approx([1.25] * 3)


@pytest.mark.parametrize("tokens", [TOKENS, COUNTED - 1])
def test_any_other_number_of_tokens_is_what_was_trained(tokens: int, tmp_path: Path) -> None:
    lines = [automodel_line(step, num_tokens_per_step=tokens, tps=tokens / 1.25) for step in range(3)]

    records = read("".join(lines), log_format="automodel", tmp_path=tmp_path).records

    assert [record.tokens for record in records] == [tokens] * 3


def test_where_lengths_vary_the_logged_tokens_are_those_of_the_step(tmp_path: Path) -> None:
    lines = [automodel_line(step, num_tokens_per_step=COUNTED, tps=COUNTED / 1.25) for step in range(3)]

    records = read("".join(lines), log_format="automodel", tmp_path=tmp_path, has_exact_tokens=False).records

    assert [record.tokens for record in records] == [COUNTED] * 3
