"""Laws of reading logs: noise changes nothing, and damage leaves the first steps or is an error."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.logs.convert import LogReading
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.reading import read_log
from pytest_nemoperf.records.step import StepRecord
from tests.logs.log_texts import (
    BY_HAND,
    automodel_console_line,
    automodel_line,
    bridge_memory,
    by_hand,
    context,
    megatron_line,
    megatron_memory,
    titan_line,
)

FIRST_STEP = 3
NUM_STEPS = 8
COLUMNS = {"step": "step", "step_time_sec": "time", "loss": "loss"}


NOISE = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(str.encode),
    st.sampled_from(
        [
            b"NCCL INFO Channel 00/08 : 0 1 2 3",
            b"\xff\xfe\x00garbage",
            b"\x1b[31mWARNING\x1b[0m step loss took iteration",
            b"  5%|#5        | 5/100 [00:05<01:35,  1.00it/s]\r  6%|#6        | 6/100",
            b"[rank3]: Traceback (most recent call last):",
            b"validation loss at iteration 5 | lm loss value: 9.0E+00 | lm loss PPL: 8.1E+03 |",
            b"Step Time : 1.25s GPU utilization: 101.3MODEL_TFLOP/s/GPU",
        ]
    ),
)
WITHOUT_BRACES = NOISE.map(lambda raw: raw.replace(b"{", b"("))
BLANKS = st.text(" \t\r", max_size=5).map(str.encode)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A format, and the lines of a log of it.

    Attributes:
        log_format: The format.
        lines: Those of each step in order; the first may be a head.
        noise: Lines that are none of the format, so that they may stand anywhere.
    """

    log_format: str | LogFormat
    lines: Sequence[bytes]
    noise: st.SearchStrategy[bytes]


def case(
    line_of: Callable[[int], str],
    log_format: str | LogFormat,
    *,
    head: str = "",
    noise: st.SearchStrategy[bytes] = NOISE,
) -> Case:
    text = head + "".join(map(line_of, range(FIRST_STEP, FIRST_STEP + NUM_STEPS)))
    return Case(log_format=log_format, lines=text.encode().splitlines(keepends=True), noise=noise)


def seconds_of(step: int) -> float:
    return 1.25 + step / 16


CASES = {
    "text": case(lambda step: by_hand([step], seconds=seconds_of(step)), BY_HAND),
    "megatron": case(lambda step: megatron_line(step, seconds=1.25) + megatron_memory(step), "megatron"),
    "bridge": case(lambda step: megatron_line(step, seconds=1.25) + bridge_memory(step), "megatron_bridge"),
    "torchtitan": case(lambda step: titan_line(step, tps=819.2), "torchtitan"),
    "automodel": case(automodel_line, "automodel", noise=WITHOUT_BRACES),
    "automodel console": case(automodel_console_line, "automodel_console"),
    "dict": case(
        lambda step: f"{{'step': {step}, 'time': {seconds_of(step)}, 'loss': '{9 - step / 8:.3f}'}}\n",
        LogFormat(kind=LogKind.DICT, fields=COLUMNS),
        noise=WITHOUT_BRACES,
    ),
    "csv": case(
        lambda step: f"{step},{9 - step / 8:.3f},{seconds_of(step)},0.0\n",
        LogFormat(kind=LogKind.CSV, fields=COLUMNS),
        head="step,loss,time,epoch\n",
        noise=BLANKS,
    ),
}
ALL = pytest.mark.parametrize("name", CASES)

UNLIKE_NUMBERS = st.binary(min_size=1, max_size=12).filter(lambda raw: not set(raw) & set(b"0123456789.,eE+-_ \t"))
"""Bytes that make no other number of the one they fall into, as digits, signs and blanks would."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file that every example writes anew."""
    return tmp_path_factory.mktemp("laws") / "run.log"


def read(raw: bytes, log_format: str | LogFormat, *, file: Path) -> LogReading:
    file.write_bytes(raw)
    return read_log([file], log_format=log_format, context=context(warmup_steps=0))


@cache
def whole(name: str, *, file: Path) -> tuple[StepRecord, ...]:
    records = read(b"".join(CASES[name].lines), CASES[name].log_format, file=file).records
    assert len(records) == NUM_STEPS
    return records


def read_or_refuse(raw: bytes, log_format: str | LogFormat, *, file: Path) -> LogReading | None:
    try:
        return read(raw, log_format, file=file)
    except RecordError:
        return None


def check_steps(reading: LogReading | None, *, expected: Sequence[StepRecord]) -> None:
    """Check that a reading, if there is one, tells steps of the whole log; what no step needs may be missing."""
    if reading is None:
        return
    for at, record in enumerate(reading.records):
        right = expected[reading.first_step + at * reading.steps_per_record - FIRST_STEP]
        assert (record.step_time_sec, record.tokens) == (right.step_time_sec, right.tokens)
        assert record.loss == right.loss or record.loss is None or record.loss != record.loss
        assert record.grad_norm in (right.grad_norm, None)
        assert record.peak_memory_bytes in (right.peak_memory_bytes, None)


@ALL
@given(data=st.data())
def test_noise_around_the_lines_changes_nothing(name: str, data: st.DataObject, file: Path) -> None:
    raw = b""
    for line in CASES[name].lines:
        noise = data.draw(st.lists(CASES[name].noise, max_size=3))
        raw += b"".join(each.replace(b"\n", b"") + b"\n" for each in noise) + line

    records = read(raw, CASES[name].log_format, file=file).records

    assert records == whole(name, file=file)


@pytest.mark.parametrize(
    "prefix", [b"[rank0]: ", b"[default7]:", b" 3: ", b"[1,0]<stdout>: ", b"\x1b[36m(W pid=1)\x1b[0m "]
)
@pytest.mark.parametrize("name", [name for name in CASES if name != "csv"])
def test_a_launcher_s_prefix_changes_nothing(name: str, prefix: bytes, file: Path) -> None:
    raw = b"".join(prefix + line for line in CASES[name].lines)

    records = read(raw, CASES[name].log_format, file=file).records

    assert records == whole(name, file=file)


@ALL
@given(data=st.data())
def test_a_log_that_is_cut_gives_its_first_steps_or_an_error(name: str, data: st.DataObject, file: Path) -> None:
    raw = b"".join(CASES[name].lines)

    cut = raw[: data.draw(st.integers(0, len(raw)))]

    reading = read_or_refuse(cut, CASES[name].log_format, file=file)

    assert reading is None or reading.first_step == FIRST_STEP
    check_steps(reading, expected=whole(name, file=file))


@ALL
@given(data=st.data())
def test_broken_bytes_leave_the_first_steps_or_are_an_error(name: str, data: st.DataObject, file: Path) -> None:
    raw = bytearray(b"".join(CASES[name].lines))
    for _ in range(data.draw(st.integers(1, 3))):
        garbage = data.draw(UNLIKE_NUMBERS)
        at = data.draw(st.integers(0, len(raw) - len(garbage)))
        raw[at : at + len(garbage)] = garbage

    reading = read_or_refuse(bytes(raw), CASES[name].log_format, file=file)

    check_steps(reading, expected=whole(name, file=file))


@ALL
@given(data=st.data())
def test_a_line_that_is_lost_inside_is_an_error(name: str, data: st.DataObject, file: Path) -> None:
    lines = [line for line in CASES[name].lines if b"memory (" not in line]
    first = 2 if name == "csv" else 1

    del lines[data.draw(st.integers(first, len(lines) - 2))]

    with pytest.raises(RecordError, match="are missing between"):
        read(b"".join(lines), CASES[name].log_format, file=file)


@ALL
@given(data=st.data())
def test_lines_that_change_places_or_repeat_are_an_error(name: str, data: st.DataObject, file: Path) -> None:
    lines = [line for line in CASES[name].lines if b"memory (" not in line]
    head = [lines.pop(0)] if name == "csv" else []
    one, other = data.draw(st.integers(0, len(lines) - 1)), data.draw(st.integers(0, len(lines) - 1))
    if one == other:
        lines.insert(one, lines[one])
    else:
        lines[one], lines[other] = lines[other], lines[one]

    with pytest.raises(RecordError, match=r"logged twice|two runs in one log|are missing between"):
        read(b"".join(head + lines), CASES[name].log_format, file=file)


@ALL
@given(data=st.data())
def test_any_bytes_are_read_or_refused(name: str, data: st.DataObject, file: Path) -> None:
    raw = bytearray(b"".join(CASES[name].lines))
    for _ in range(data.draw(st.integers(0, 5))):
        start = data.draw(st.integers(0, len(raw)))
        end = data.draw(st.integers(start, min(len(raw), start + 40)))
        raw[start:end] = data.draw(
            st.binary(max_size=12) | st.text("0123456789.,eE+-naif|{}:'\"\r\n", max_size=12).map(str.encode)
        )

    read_or_refuse(bytes(raw), CASES[name].log_format, file=file)


@given(raw=st.binary(max_size=300), name=st.sampled_from(sorted(CASES)))
def test_a_file_of_any_bytes_has_no_steps(raw: bytes, name: str, file: Path) -> None:
    assume(b"{" not in raw)

    assert read_or_refuse(raw, CASES[name].log_format, file=file) is None


OBJECT = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text("0123456789time/", max_size=5), children, max_size=4)
    ),
    max_leaves=8,
)
"""Any value that JSON can hold."""


@given(value=st.fixed_dictionaries({}, optional={"time": OBJECT, "loss": OBJECT}))
def test_any_object_is_read_or_refused(value: object, file: Path) -> None:
    raw = json.dumps(value).encode()

    read_or_refuse(raw, LogFormat(kind=LogKind.JSON, fields={"step_time_sec": "time", "loss": "loss"}), file=file)
    read_or_refuse(
        raw,
        LogFormat(kind=LogKind.JSONL, fields={"step_time_sec": "time", "loss": "loss"}),
        file=file,
    )
