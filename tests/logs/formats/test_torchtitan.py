from __future__ import annotations

from pathlib import Path

from tests.logs.log_texts import TOKENS, read, titan_line


def test_a_validation_line_of_torchtitan_is_no_step(tmp_path: Path) -> None:
    validation = (
        "[titan] 2026-02-01 00:00:00,000 - root - INFO - validate step:  2  loss: 8.5  memory:  5.50GiB(68%)  tps: 9\n"
    )

    reading = read(titan_line(1) + titan_line(2) + validation, log_format="torchtitan", tmp_path=tmp_path)

    assert len(reading.records) == 2


def test_a_torchtitan_line_with_thousands_commas_is_read_right(tmp_path: Path) -> None:
    text = titan_line(1, tps=64_000, tflops=1234.5)
    assert "tps: 64,000" in text
    assert "tflops: 1,234.50" in text

    assert read(text, log_format="torchtitan", tmp_path=tmp_path).records[0].step_time_sec == TOKENS / 128_000
