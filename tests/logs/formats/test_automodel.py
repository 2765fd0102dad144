from __future__ import annotations

from pathlib import Path

import pytest

from pytest_nemoperf.errors import RecordError
from tests.logs.log_texts import automodel_console_line, automodel_line, read


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
