"""Files that ranks write into the run directory."""

from __future__ import annotations

import math
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest

from pytest_nemoperf.json_codec import from_json
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.native.phases import RankStep
from pytest_nemoperf.native.rank.output import ProgressWriter, step_records, write_atomic, write_error
from pytest_nemoperf.records.step import PROGRESS_FILE, Progress, RankError
from tests.native.tiny import tiny_plan

PHASES = {
    "data": 0.1,
    "forward": 0.2,
    "backward": 0.3,
    "pipeline_wait": 0.0,
    "grad_comm": 0.1,
    "optimizer": 0.2,
    "other": 0.1,
}
FAST = RankStep(step_time_sec=1.0, busy_sec=0.8, phases=PHASES, loss=4.0, grad_norm=2.0, peak_bytes=100)
SLOW = RankStep(
    step_time_sec=2.0,
    busy_sec=1.2,
    phases={name: 2 * seconds for name, seconds in PHASES.items()},
    loss=5.0,
    grad_norm=2.0,
    peak_bytes=300,
)


def test_a_step_travels_as_numbers_and_keeps_every_field() -> None:
    values = {field.name: float(number) for number, field in enumerate(fields(RankStep)) if field.name != "phases"}
    step = RankStep(**values, phases=PHASES)

    assert RankStep.from_row(step.to_row(), phases=PHASES) == step


def test_a_row_of_other_phases_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        RankStep.from_row(FAST.to_row(), phases=["generation", "other"])


def test_the_slowest_rank_gives_time_and_phases_of_a_step() -> None:
    plan = tiny_plan()

    (record,) = step_records(plan, gathered=[[FAST], [SLOW]])

    assert record.step_time_sec == 2.0
    assert record.phases["backward"] == 0.6
    assert record.rank_times_sec == (1.0, 2.0)
    assert record.rank_busy_sec == (0.8, 1.2)


def test_loss_is_the_mean_and_memory_the_largest_over_the_ranks() -> None:
    plan = tiny_plan()

    (record,) = step_records(plan, gathered=[[SLOW], [FAST]])

    assert record.loss == 4.5
    assert record.grad_norm == 2.0
    assert record.peak_memory_bytes == 300


def test_the_loss_of_a_pipeline_is_that_of_its_last_stage() -> None:
    plan = tiny_plan(layouts={"cpu": Layout(gpus=4, pp=2, dp_shard=2)})
    others = replace(FAST, loss=0.0)

    (record,) = step_records(plan, gathered=[[others], [others], [FAST], [SLOW]])

    assert record.loss == 4.5


@pytest.mark.parametrize(("layout", "num_phases"), [(Layout(gpus=2, tp=2), 6), (Layout(gpus=2, pp=2), 7)])
def test_only_a_pipeline_has_a_wait_for_its_stages(layout: Layout, num_phases: int) -> None:
    (record,) = step_records(tiny_plan(layouts={"cpu": layout}), gathered=[[FAST], [FAST]])

    assert len(record.phases) == num_phases
    assert ("pipeline_wait" in record.phases) is (layout.pp > 1)


def test_tokens_and_flops_are_those_of_all_ranks() -> None:
    plan = tiny_plan()

    (record,) = step_records(plan, gathered=[[FAST], [FAST]])

    assert record.tokens == plan.tokens_per_step == 64
    assert record.flops == 64 * plan.flops_per_token


def test_a_loss_that_is_not_a_number_is_recorded_as_such() -> None:
    (record,) = step_records(tiny_plan(), gathered=[[replace(FAST, loss=math.nan)]])

    assert record.loss is not None
    assert math.isnan(record.loss)


def test_steps_are_numbered_in_order() -> None:
    records = list(step_records(tiny_plan(), gathered=[[FAST, SLOW], [FAST, FAST]]))

    assert [(record.step, record.step_time_sec) for record in records] == [(0, 1.0), (1, 2.0)]


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")

    write_atomic(path, "new")

    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_rank_leaves_its_own_error(tmp_path: Path) -> None:
    try:
        raise ZeroDivisionError("no steps")
    except ZeroDivisionError as error:
        write_error(tmp_path, rank=3, error=error)

    left = from_json(RankError, (tmp_path / "error-rank3.json").read_bytes(), subject="error")
    assert left.rank == 3
    assert left.message == "ZeroDivisionError: no steps"
    assert 'raise ZeroDivisionError("no steps")' in left.traceback


def test_progress_is_written_now_and_then_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 10.1, 10.2, 10.3, 10.31])
    monkeypatch.setattr(time, "clock_gettime", lambda _clock: next(times))
    writer = ProgressWriter(tmp_path, last_step=4)

    for step in range(5):
        writer.step_done(step, step_time_sec=0.1)

    lines = (tmp_path / PROGRESS_FILE).read_text().splitlines()
    assert [from_json(Progress, line, subject="line").step for line in lines] == [0, 3, 4]


def test_a_full_disk_leaves_no_half_file_and_no_second_error(tmp_path: Path) -> None:
    (tmp_path / ".steps.jsonl.tmp").symlink_to("/dev/full")
    (tmp_path / ".error-rank0.json.tmp").symlink_to("/dev/full")

    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "steps.jsonl", "whole")
    write_error(tmp_path, rank=0, error=ValueError("the cause"))

    assert not list(tmp_path.iterdir())
