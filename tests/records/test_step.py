from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.errors import BaselineError, RecordError
from pytest_nemoperf.json_codec import from_data, from_json, to_data, to_json, to_json_line
from pytest_nemoperf.records.step import PRETRAIN_PHASES, GroupStep, RankError, RunResult, StepRecord, error_file
from tests.schema_check import schema_faults

seconds = st.floats(1e-6, 1e4)
finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def _records(draw: st.DrawFn) -> StepRecord:
    phases = draw(st.dictionaries(st.sampled_from(PRETRAIN_PHASES), seconds))
    return StepRecord(
        step=draw(st.integers(0, 10**6)),
        step_time_sec=math.fsum(phases.values()) if phases else draw(seconds),
        tokens=draw(st.integers(1, 10**12)),
        phases=phases,
        flops=draw(st.none() | st.floats(1, 1e20)),
        loss=draw(st.none() | finite),
        grad_norm=draw(st.none() | finite),
        peak_memory_bytes=draw(st.none() | st.integers(0, 2**40)),
        rank_times_sec=tuple(draw(st.lists(seconds, max_size=4))),
    )


def _make(**changes: Any) -> StepRecord:
    values: dict[str, Any] = {"step": 0, "step_time_sec": 1.0, "tokens": 8}
    return StepRecord(**(values | changes))


@given(_records())
def test_a_step_record_survives_being_written_and_read(record: StepRecord) -> None:
    line = to_json_line(record)

    assert schema_faults(json.loads(line), name="step") == []
    assert line.count("\n") == 1
    assert from_json(StepRecord, line, subject="line") == record


def test_a_loss_that_is_not_a_number_can_be_recorded() -> None:
    read = from_json(StepRecord, to_json_line(_make(loss=math.nan)), subject="line")

    assert read.loss is not None
    assert math.isnan(read.loss)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"step": -1}, r"step -1: steps count from 0", id="negative step"),
        pytest.param({"step_time_sec": 0.0}, r"step 0: step_time_sec=0.0 must be positive", id="no time"),
        pytest.param({"step_time_sec": -1.0}, r"step_time_sec=-1.0 must be positive", id="negative time"),
        pytest.param({"step_time_sec": math.nan}, r"step_time_sec=nan must be positive and finite", id="nan time"),
        pytest.param({"tokens": 0}, r"tokens=0 must be >= 1", id="no tokens"),
        pytest.param({"flops": math.inf}, r"flops=inf must be positive and finite", id="endless FLOPs"),
        pytest.param(
            {"phases": {"data": -0.5, "forward": 1.5}}, r"data=-0.5 s must be finite and not negative", id="phase"
        ),
        pytest.param({"rank_times_sec": (1.0, math.nan)}, r"rank 1=nan s must be finite", id="rank time"),
        pytest.param({"step_time_sec": 1e-320}, r"step_time_sec=1e-320 .* at least 1e-09", id="no clock"),
        pytest.param(
            {"groups": {"generation": GroupStep(step_time_sec=math.inf, phases={"generation": math.inf})}},
            r"group generation: step_time_sec=inf must be finite",
            id="endless group",
        ),
        pytest.param(
            {"phases": {"data": 0.5}},
            r"phases sum to 0.500000 s, the step took 1.000000 s; they must agree",
            id="phases that don't sum up",
        ),
    ],
)
def test_an_impossible_step_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        _make(**changes)


def test_an_impossible_step_in_a_file_is_named_with_the_file() -> None:
    with pytest.raises(RecordError, match=r"steps\.jsonl line 3: step 0: step_time_sec=-1\.0 must be positive"):
        from_json(StepRecord, '{"step": 0, "step_time_sec": -1.0, "tokens": 8}', subject="steps.jsonl line 3")


def test_plain_data_equals_what_is_read_back() -> None:
    record = _make(rank_times_sec=(1.0, 2.0))

    assert to_data(record) == json.loads(to_json(record))


def test_half_a_line_is_not_json() -> None:
    with pytest.raises(RecordError, match=r"steps\.jsonl line 3: not JSON"):
        from_json(StepRecord, to_json_line(_make())[:20], subject="steps.jsonl line 3")


def test_a_wrong_type_is_named_with_its_json_path_and_the_callers_error() -> None:
    with pytest.raises(BaselineError, match=r"here: \$\.tokens is .*; it must be a whole number"):
        from_data(StepRecord, {"step": 0, "step_time_sec": 1.0, "tokens": "8"}, subject="here", error=BaselineError)


def test_another_schema_version_is_refused() -> None:
    text = to_json(RunResult(num_ranks=1, num_steps=4, device_name="cpu")).replace(
        '"schema_version": 1', '"schema_version": 2'
    )

    with pytest.raises(RecordError, match=r"\$\.schema_version is 2, which is none of the known words"):
        from_json(RunResult, text, subject="result.json")


def test_stored_json_is_sorted_and_ends_with_a_newline() -> None:
    text = to_json(RankError(rank=1, time_sec=2.5, message="ValueError: no", traceback="..."))

    assert text == (
        '{"error_type": "", "message": "ValueError: no", "rank": 1, "schema_version": 1, "time_sec": 2.5, '
        '"traceback": "..."}\n'
    )


def test_what_does_not_fit_on_a_line_has_a_line_for_each_entry() -> None:
    text = to_json(RankError(rank=1, time_sec=2.5, message="m" * 100, traceback="t" * 100))

    keys = [line.split('"')[1] for line in text.splitlines()[1:-1]]
    assert keys == ["error_type", "message", "rank", "schema_version", "time_sec", "traceback"]
    assert json.loads(text)["rank"] == 1


def test_stored_json_never_holds_a_number_that_is_none() -> None:
    with pytest.raises(ValueError, match="Out of range float values"):
        to_json(_make(loss=math.nan))


def test_each_rank_has_its_own_error_file() -> None:
    assert error_file(3) == "error-rank3.json"
