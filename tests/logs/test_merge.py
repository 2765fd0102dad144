from __future__ import annotations

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.logs.merge import merge_rows
from pytest_nemoperf.logs.rows import LogRow


def row(
    step: int | None, *, line: int, file: str = "a.log", rank: str = "", redrawn: bool = False, **values: float
) -> LogRow:
    return LogRow(step=step, values=values, where=f"{file}:{line}", rank=rank, is_redrawn=redrawn)


def test_rows_of_one_step_are_merged() -> None:
    steps = merge_rows([row(5, line=1, loss=2.5), row(5, line=2, step_time_sec=0.5), row(6, line=3, loss=2.25)])

    assert [(step.step, step.values) for step in steps] == [
        (5, {"loss": 2.5, "step_time_sec": 0.5}),
        (6, {"loss": 2.25}),
    ]
    assert steps[0].places == {"step": "a.log:1", "loss": "a.log:1", "step_time_sec": "a.log:2"}


def test_a_row_without_a_step_is_of_the_step_before_it() -> None:
    steps = merge_rows([row(5, line=1, loss=2.5), row(None, line=2, step_time_sec=0.5)])

    assert [step.values for step in steps] == [{"loss": 2.5, "step_time_sec": 0.5}]


def test_a_row_that_names_only_its_step_begins_it() -> None:
    steps = merge_rows([row(5, line=1), row(None, line=2, step_time_sec=0.5), row(6, line=3)])

    assert [(step.step, step.values, step.where) for step in steps] == [
        (5, {"step_time_sec": 0.5}, "a.log:1"),
        (6, {}, "a.log:3"),
    ]


def test_rows_that_name_no_step_are_one_each() -> None:
    steps = merge_rows([row(None, line=1, loss=2.5), row(None, line=2, loss=2.25)])

    assert [step.step for step in steps] == [0, 1]


def test_a_later_row_may_complete_an_earlier_step() -> None:
    steps = merge_rows([row(5, line=1, loss=2.5), row(6, line=2, loss=2.25), row(5, line=3, grad_norm=1.5)])

    assert steps[0].values == {"loss": 2.5, "grad_norm": 1.5}


def test_the_largest_peak_of_all_ranks_counts_whenever_it_is_told() -> None:
    rows = [
        row(1, line=1, rank="0", peak_memory_mib=512),
        row(1, line=2, rank="3", loss=2.5),
        row(2, line=3, rank="3", loss=2.25),
        row(1, line=4, rank="1", peak_memory_mib=768),
        row(2, line=5, rank="1", peak_memory_mib=256),
        row(9, line=6, rank="1", peak_memory_mib=999),
    ]

    assert [step.values["peak_memory_mib"] for step in merge_rows(rows)] == [768, 256]


def test_a_progress_bar_may_show_a_step_again() -> None:
    steps = merge_rows([row(1, line=1, loss=2.5), row(1, line=1, redrawn=True, loss=2.5)])

    assert len(steps) == 1


CONFLICTS = {
    "two ranks": (
        [row(1, line=1, rank="0", loss=2.5), row(1, line=2, rank="1", loss=2.5)],
        "step 1 is logged twice, at a.log:1 and at a.log:2: by rank 0 and by rank 1; let only one rank log",
    ),
    "two files": (
        [row(1, line=1, loss=2.5), row(1, line=1, file="b.log", loss=2.5)],
        "step 1 is logged twice, at a.log:1 and at b.log:1: two files tell the same steps, of two ranks or of two runs",
    ),
    "the same line again": (
        [row(1, line=1, loss=2.5), row(1, line=2, loss=2.5)],
        "step 1 is logged twice, at a.log:1 and at a.log:2, with the same numbers: several ranks or two loggers write",
    ),
    "other numbers": (
        [row(1, line=1, loss=2.5), row(1, line=2, loss=2.25)],
        "step 1 is logged twice, at a.log:1 and at a.log:2, with another loss: several ranks or two loggers write",
    ),
    "a bar with other numbers": (
        [row(1, line=1, loss=2.5), row(1, line=1, redrawn=True, loss=2.25)],
        "step 1 is logged twice, at a.log:1 and at a.log:1, with another loss",
    ),
    "two runs": (
        [row(1, line=1, loss=2.5), row(2, line=2, loss=2.5), row(1, line=7, loss=2.5), row(2, line=8, loss=2.5)],
        "a.log:7: step 1 after step 2: two runs in one log, the first from a.log:1 to a.log:2, the next from a.log:7; "
        "give each run a file of its own",
    ),
    "two runs of other steps": (
        [row(5, line=1, loss=2.5), row(6, line=2, loss=2.5), row(1, line=7, loss=2.5)],
        "a.log:7: step 1 after step 6: two runs in one log, the first from a.log:1 to a.log:2, the next from a.log:7",
    ),
    "no step yet": (
        [row(None, line=1, step_time_sec=0.5), row(1, line=2, loss=2.5)],
        "a.log:1: step_time_sec before any line that names a step; let the line name it",
    ),
    "ranks without steps": (
        [row(None, line=1, rank="0", loss=2.5), row(None, line=2, rank="1", loss=2.5)],
        "ranks 0 and 1 both log, at a.log:1 and at a.log:2; let only one rank log",
    ),
}


@pytest.mark.parametrize(("rows", "reason"), CONFLICTS.values(), ids=CONFLICTS.keys())
def test_numbers_that_repeat_or_go_backwards_are_told(rows: list[LogRow], reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        merge_rows(rows)

    assert str(caught.value).startswith(reason)
