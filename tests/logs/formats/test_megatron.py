from __future__ import annotations

import math
from pathlib import Path

import pytest

from pytest_nemoperf.errors import RecordError
from tests.logs.log_texts import BATCH, TOKENS, megatron_line, megatron_memory, read

GIB = 2**30


def test_fields_that_megatron_adds_change_nothing(tmp_path: Path) -> None:
    fields = {
        "energy per GPU (J/iter/GPU)": "300.0",
        "load_balancing_loss": "1.0E+00",
        "mtp_1 loss": "9.0E+00",
        "num zeros": "0",
        "params norm": "12.5",
    }
    plain = read("".join(map(megatron_line, range(1, 7))), log_format="megatron", tmp_path=tmp_path)

    more = "".join(megatron_line(step, fields=fields) for step in range(1, 7))

    assert read(more, log_format="megatron", tmp_path=tmp_path) == plain


def test_a_field_that_megatron_was_not_asked_for_is_not_known(tmp_path: Path) -> None:
    fields = {"throughput per GPU (TFLOP/s/GPU)": None, "grad norm": None}

    reading = read(
        "".join(megatron_line(step, fields=fields) for step in range(1, 7)), log_format="megatron", tmp_path=tmp_path
    )

    assert {record.grad_norm for record in reading.records} == {None}


def test_a_loss_that_megatron_leaves_out_is_no_number(tmp_path: Path) -> None:
    lines = [megatron_line(step, fields={"lm loss": None} if step == 4 else {}) for step in range(1, 7)]

    reading = read("".join(lines), log_format="megatron", tmp_path=tmp_path)

    assert [math.isnan(record.loss or 0) for record in reading.records] == [step == 4 for step in range(1, 7)]


@pytest.mark.parametrize("log_format", ["megatron", "megatron_bridge"])
def test_a_loss_of_another_name_is_not_known(tmp_path: Path, log_format: str) -> None:
    fields = {"lm loss": None, "mse loss": "2.500000E+00"}

    reading = read(
        "".join(megatron_line(step, fields=fields) for step in range(1, 7)), log_format=log_format, tmp_path=tmp_path
    )

    assert [record.loss for record in reading.records] == [None] * 6


def test_nan_iterations_are_a_loss_that_is_no_number_by_any_name(tmp_path: Path) -> None:
    fields = {"lm loss": None, "mse loss": "2.500000E+00"}
    lines = []
    for step in range(1, 7):
        lines.append(megatron_line(step, fields=fields | {"number of nan iterations": "  1" if step == 4 else "  0"}))

    reading = read("".join(lines), log_format="megatron", tmp_path=tmp_path)

    assert [record.loss != record.loss for record in reading.records] == [step == 4 for step in range(1, 7)]


def test_iterations_that_megatron_skipped_are_told(tmp_path: Path) -> None:
    fields = {"lm loss": "0.000000E+00", "number of skipped iterations": "  1", "number of nan iterations": "  1"}
    lines = [megatron_line(step, fields=fields if step == 4 else {}) for step in range(1, 7)]

    with pytest.raises(RecordError, match=r"run\.log:4: step 4: 1 optimizer updates were skipped"):
        read("".join(lines), log_format="megatron", tmp_path=tmp_path)


def test_a_batch_that_megatron_logs_makes_the_tokens(tmp_path: Path) -> None:
    line = megatron_line(1, fields={"global batch size": f"{BATCH // 2:5d}"})

    assert read(line, log_format="megatron", tmp_path=tmp_path).records[0].tokens == TOKENS // 2


def test_memory_lines_of_several_ranks_tell_the_largest_peak(tmp_path: Path) -> None:
    text = megatron_line(1) + megatron_memory(1, rank=0) + megatron_memory(1, rank=4, peak=6144.0)

    assert read(text, log_format="megatron", tmp_path=tmp_path).records[0].peak_memory_bytes == 6 * GIB


def test_a_line_that_repeats_its_fields_without_end_is_no_obstacle(tmp_path: Path) -> None:
    start = " iteration        5/      10 | elapsed time per iteration (ms): 1250.0 | global batch size:    16 |"

    reading = read(
        megatron_line(1) + start + " lm loss: 1.0 | grad norm: 2.0 |" * 1500 + "\n",
        log_format="megatron",
        tmp_path=tmp_path,
    )

    assert len(reading.records) == 1
