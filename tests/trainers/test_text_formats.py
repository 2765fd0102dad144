"""Presets of text logs on what the frameworks' own code writes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.logs.context import LogContext
from pytest_nemoperf.logs.convert import LogReading
from pytest_nemoperf.logs.reading import read_log
from tests.trainers import metric_writers
from tests.trainers.megatron_writers import (
    BATCH,
    FLOPS_PER_STEP,
    GPUS,
    PEAK_BYTES,
    Iteration,
    megatron_bridge_log,
    megatron_lm_log,
)
from tests.trainers.metric_writers import automodel_logs, torchtitan_log

pytestmark = pytest.mark.trainers

SEQ_LEN = 128
SECONDS = [1.0 + step / 64 for step in range(1, 13)]

Writer = Callable[..., str]


def megatron_writers() -> list[Any]:
    """Return the writers at hand: Megatron-LM is in no package, so MEGATRON_LM names a checkout of it."""
    writers = [pytest.param("megatron_bridge", megatron_bridge_log, id="bridge")]
    if "MEGATRON_LM" in os.environ:
        source = Path(os.environ["MEGATRON_LM"])
        writers.append(pytest.param("megatron", lambda *args, **keys: megatron_lm_log(source, *args, **keys), id="lm"))
    return writers


def context(**changes: Any) -> LogContext:
    values: dict[str, Any] = {
        "num_gpus": GPUS,
        "tokens_per_step": BATCH * SEQ_LEN,
        "seq_len": SEQ_LEN,
        "has_exact_tokens": True,
        "flops_per_token": FLOPS_PER_STEP / (BATCH * SEQ_LEN),
        "warmup_steps": 3,
    }
    return LogContext(**{**values, **changes})


def read(text: str, *, log_format: str, tmp_path: Path, **changes: Any) -> LogReading:
    path = tmp_path / "console.log"
    path.write_text(text)
    return read_log([path], log_format=log_format, context=context(**changes))


def iterations(**changes: Any) -> list[Iteration]:
    return [Iteration(seconds=seconds, **changes) for seconds in SECONDS]


@pytest.mark.parametrize(("log_format", "write"), megatron_writers())
def test_each_iteration_of_megatron_is_a_record(log_format: str, write: Writer, tmp_path: Path) -> None:
    reading = read(write(iterations(loss=8.25)), log_format=log_format, tmp_path=tmp_path)

    assert (reading.first_step, reading.steps_per_record) == (1, 1)
    for record, seconds in zip(reading.records[2:], SECONDS[2:], strict=True):  # Megatron-LM's second is a mean of two
        assert record.step_time_sec == pytest.approx(seconds, abs=5e-5)  # the line has tenths of a millisecond
        assert record.tokens == BATCH * SEQ_LEN
        assert (record.loss, record.grad_norm) == (8.25, 1.5)
    assert reading.records[0].peak_memory_bytes == pytest.approx(PEAK_BYTES, rel=1e-4)


@pytest.mark.parametrize(("log_format", "write"), megatron_writers())
def test_a_log_interval_of_megatron_is_told(log_format: str, write: Writer, tmp_path: Path) -> None:
    reading = read(write(iterations(), log_interval=4), log_format=log_format, tmp_path=tmp_path)

    assert (reading.first_step, reading.steps_per_record, len(reading.records)) == (4, 4, 3)
    assert reading.records[1].step_time_sec == pytest.approx(sum(SECONDS[4:8]) / 4, abs=5e-5)


@pytest.mark.parametrize(("log_format", "write"), megatron_writers())
def test_a_loss_that_megatron_leaves_out_is_not_finite(log_format: str, write: Writer, tmp_path: Path) -> None:
    steps = iterations()
    steps[6] = Iteration(seconds=SECONDS[6], loss=math.nan)

    reading = read(write(steps), log_format=log_format, tmp_path=tmp_path)

    losses = [record.loss for record in reading.records]
    assert [at for at, loss in enumerate(losses) if loss is None or not math.isfinite(loss)] == [6]


@pytest.mark.parametrize(("log_format", "write"), megatron_writers())
def test_an_iteration_that_megatron_skipped_is_an_error(log_format: str, write: Writer, tmp_path: Path) -> None:
    steps = iterations()
    steps[6] = Iteration(seconds=SECONDS[6], is_skipped=True)

    with pytest.raises(RecordError, match=r"step 7: 1 optimizer updates were skipped"):
        read(write(steps), log_format=log_format, tmp_path=tmp_path)


@pytest.mark.parametrize("is_coloured", [True, False], ids=["coloured", "plain"])
def test_each_line_of_torchtitan_is_a_record(is_coloured: bool, tmp_path: Path) -> None:  # noqa: FBT001 (a case)
    tokens_per_rank = BATCH * SEQ_LEN // 4  # two ranks work on the same tokens
    text = torchtitan_log(SECONDS, tokens=tokens_per_rank, is_coloured=is_coloured)
    assert ("\x1b[" in text) == is_coloured

    reading = read(text, log_format="torchtitan", tmp_path=tmp_path, flops_per_token=metric_writers.FLOPS_PER_TOKEN)

    for record, seconds in zip(reading.records, SECONDS, strict=True):
        assert record.step_time_sec == pytest.approx(seconds, rel=0.5 / 200)  # the line has whole tokens per second
        assert record.peak_memory_bytes == metric_writers.PEAK_GIB * 2**30
        assert record.loss == pytest.approx(7.9 - record.step / 10)
        assert record.grad_norm == 1.25


def test_a_rate_of_torchtitan_with_thousands_commas_is_read_right(tmp_path: Path) -> None:
    tokens = 10_000_000
    text = torchtitan_log([1.5] * 4, tokens=tokens // 4)
    assert "tps: 833,333" in text

    reading = read(text, log_format="torchtitan", tmp_path=tmp_path, tokens_per_step=tokens, flops_per_token=None)

    assert reading.records[0].step_time_sec == pytest.approx(1.5, rel=1e-6)


def test_a_log_frequency_of_torchtitan_is_told(tmp_path: Path) -> None:
    text = torchtitan_log(SECONDS, tokens=BATCH * SEQ_LEN // 4, log_freq=3)

    reading = read(text, log_format="torchtitan", tmp_path=tmp_path, flops_per_token=None)

    assert (reading.first_step, reading.steps_per_record, len(reading.records)) == (3, 3, 4)
    assert "step 1 was left out" in reading.notes[0]


def test_the_training_file_of_automodel_is_read_to_the_last_digit(tmp_path: Path) -> None:
    path = tmp_path / "training.jsonl"
    automodel_logs(SECONDS, tokens=BATCH * SEQ_LEN, gpus=GPUS, path=path)

    reading = read_log([path], log_format="automodel", context=context())

    assert [record.step_time_sec for record in reading.records] == pytest.approx(SECONDS, rel=1e-12)
    assert {record.tokens for record in reading.records} == {BATCH * SEQ_LEN}
    assert {record.peak_memory_bytes for record in reading.records} == {round(metric_writers.PEAK_GIB * 2**30)}
    assert reading.records[3].loss == pytest.approx(7.7)


def test_the_console_of_automodel_is_read_with_the_tokens_of_the_plan(tmp_path: Path) -> None:
    text = automodel_logs(SECONDS, tokens=BATCH * SEQ_LEN, gpus=GPUS, path=tmp_path / "training.jsonl")

    reading = read(text, log_format="automodel_console", tmp_path=tmp_path)

    assert [record.step_time_sec for record in reading.records] == pytest.approx(SECONDS, rel=1e-5)
    assert reading.records[3].loss == pytest.approx(7.7)
