from __future__ import annotations

from pathlib import Path

import pytest

from pytest_nemoperf.errors import RecordError
from tests.logs.log_texts import TOKENS, clock, read

NAME = "automodel_benchmark"


def lines_of(step: int, *, seconds: float = 1.25) -> str:
    """Return what rank 0 prints of an iteration."""
    prefix = f"{clock(step, seconds=seconds):%Y-%m-%d %H:%M:%S} | INFO | nemo_automodel.recipes.llm.benchmark | "
    return (
        f"{prefix}Rank 0 | Iteration {step}\n"
        f"num_label_tokens=508 | loss={9 - step / 8:.4f}\n"
        f"{prefix}Rank 0 | Iteration {step} | num_label_tokens=508 | Max Memory Allocated: 5.50 GB | "
        f"loss={9 - step / 8:.4f}\n"
        f"{prefix}Max iter time: {seconds:.6f} seconds\n"
        f"{prefix}MFU: 41.500000%\n"
    )


def test_a_step_is_the_slowest_rank_s_with_the_tokens_of_the_plan(tmp_path: Path) -> None:
    reading = read("".join(map(lines_of, range(6))), log_format=NAME, tmp_path=tmp_path)

    assert (len(reading.records), reading.first_step) == (6, 0)
    record = reading.records[4]
    assert (record.step_time_sec, record.tokens, record.loss) == (1.25, TOKENS, 8.5)
    assert record.peak_memory_bytes == 5.5 * 2**30


def test_lengths_that_vary_are_not_told(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="the log does not tell its tokens"):
        read(lines_of(0), log_format=NAME, tmp_path=tmp_path, has_exact_tokens=False)


def test_the_summary_at_its_end_is_no_step(tmp_path: Path) -> None:
    summary = "Total iteration time (20 steps): 25.00 seconds\nAverage iteration time: 1.250 seconds\n"

    assert len(read(lines_of(0) + summary, log_format=NAME, tmp_path=tmp_path).records) == 1
