from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.logs.convert import LogReading, records_of
from pytest_nemoperf.logs.rows import LogRow
from tests.logs.log_texts import GPUS, TOKENS, context


def rows_of(*steps: Mapping[str, float], first: int = 1, apart: int = 1) -> list[LogRow]:
    rows = []
    for at, values in enumerate(steps):
        rows.append(LogRow(step=first + at * apart, values=values, where=f"a.log:{at + 1}"))
    return rows


def records(*steps: Mapping[str, float], first: int = 1, apart: int = 1, **changes: object) -> LogReading:
    return records_of(rows_of(*steps, first=first, apart=apart), context=context(**changes))


def test_records_count_from_0_whatever_the_log_counts_from() -> None:
    reading = records({"step_time_sec": 0.5}, {"step_time_sec": 0.75}, first=17)

    assert [record.step for record in reading.records] == [0, 1]
    assert (reading.first_step, reading.steps_per_record) == (17, 1)


def test_what_a_log_does_not_tell_is_not_known() -> None:
    (record,) = records({"step_time_sec": 0.5}).records

    assert (record.loss, record.grad_norm, record.peak_memory_bytes, record.flops, record.rollout) == (None,) * 5
    assert record.phases == {}


TIMES = {
    "seconds": {"step_time_sec": 0.5},
    "milliseconds": {"step_time_ms": 500.0},
    "rate of all": {"tokens_per_sec": TOKENS / 0.5},
    "rate of one": {"tokens_per_sec_per_gpu": TOKENS / 0.5 / GPUS},
    "own tokens": {"tokens": 1000.0, "tokens_per_sec": 2000.0},
}


@pytest.mark.parametrize("values", TIMES.values(), ids=TIMES.keys())
def test_a_step_time_is_told_or_follows_from_a_rate(values: Mapping[str, float]) -> None:
    (record,) = records(values).records

    assert record.step_time_sec == pytest.approx(0.5)


def test_step_times_follow_from_a_clock_and_the_first_step_only_starts_it() -> None:
    reading = records({"end_time_sec": 100.0}, {"end_time_sec": 100.5}, {"end_time_sec": 101.25})

    assert [record.step_time_sec for record in reading.records] == [0.5, 0.75]
    assert reading.first_step == 2
    assert reading.notes == ("a.log:1: step 1 was left out: it only starts the clock",)


TOKEN_COUNTS: Mapping[str, tuple[Sequence[Mapping[str, float]], list[int]]] = {
    "told": ([{"tokens": 100.0}, {"tokens": 101.0}], [100, 101]),
    "since the start": ([{"tokens_total": 5000.0}, {"tokens_total": 5100.0}], [TOKENS, 100]),
    "sequences": ([{"sequences": 4.0}, {"sequences": 4.0}], [512, 512]),
    "planned": ([{}, {}], [TOKENS, TOKENS]),
}


@pytest.mark.parametrize(("steps", "tokens"), TOKEN_COUNTS.values(), ids=TOKEN_COUNTS.keys())
def test_tokens_are_told_or_planned(steps: Sequence[Mapping[str, float]], tokens: list[int]) -> None:
    reading = records(*[{"step_time_sec": 0.5, **values} for values in steps])

    assert [record.tokens for record in reading.records] == tokens


def test_the_first_count_since_the_start_is_of_the_first_step() -> None:
    reading = records(
        {"step_time_sec": 0.5, "tokens_total": 90.0},
        {"step_time_sec": 0.5, "tokens_total": 190.0},
        has_exact_tokens=False,
    )

    assert [record.tokens for record in reading.records] == [90, 100]


def test_prompt_and_response_tokens_are_the_tokens_of_a_step() -> None:
    values = {"step_time_sec": 0.5, "rollout.num_prompt_tokens": 40.0, "rollout.num_response_tokens": 60.0}

    (record,) = records(values, has_exact_tokens=False, is_rl=True).records

    assert record.tokens == 100
    assert record.rollout is not None
    assert (record.rollout.num_response_tokens, record.rollout.num_samples) == (60, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("peak_memory_bytes", 2**30),
        ("peak_memory_mib", 1024.0),
        ("peak_memory_gib", 1.0),
        ("peak_memory_gb", 2**30 / 1e9),
    ],
)
def test_peak_memory_of_any_unit_is_bytes(name: str, value: float) -> None:
    (record,) = records({"step_time_sec": 0.5, name: value}).records

    assert record.peak_memory_bytes == 2**30


def test_a_peak_of_0_is_none() -> None:
    (record,) = records({"step_time_sec": 0.5, "peak_memory_gib": 0.0}).records

    assert record.peak_memory_bytes is None


def test_phases_are_completed_by_the_rest_of_the_step() -> None:
    (record,) = records({"step_time_sec": 0.5, "phase.data_sec": 0.125, "phase.forward_sec": 0.25}).records

    assert record.phases == {"data": 0.125, "forward": 0.25, "other": 0.125}


def test_a_loss_that_is_not_finite_is_left_to_be_judged() -> None:
    (record,) = records({"step_time_sec": 0.5, "loss": math.nan, "grad_norm": math.inf}).records

    assert math.isnan(record.loss or 0)
    assert record.grad_norm == math.inf


def test_lines_some_steps_apart_are_means_over_them() -> None:
    reading = records({"step_time_sec": 0.5}, {"step_time_sec": 0.75}, {"step_time_sec": 0.25}, first=10, apart=10)

    assert (reading.steps_per_record, reading.first_step) == (10, 10)
    assert [record.step_time_sec for record in reading.records] == [0.5, 0.75, 0.25]


def test_clock_and_total_of_lines_some_steps_apart_are_divided() -> None:
    reading = records(
        {"end_time_sec": 100.0, "tokens_total": 0.0},
        {"end_time_sec": 105.0, "tokens_total": 1000.0},
        first=10,
        apart=10,
    )

    assert [(record.step_time_sec, record.tokens) for record in reading.records] == [(0.5, 100)]


@pytest.mark.parametrize(("first", "total"), [(9, 1000.0), (10, 1000.0), (0, 100.0)])
def test_a_first_total_is_of_the_steps_before_its_line(first: int, total: float) -> None:
    lines = [{"tokens_total": total + 1000.0 * at, "tokens_per_sec": 200.0} for at in range(4)]

    reading = records(*lines, first=first, apart=10, has_exact_tokens=False)

    assert [(record.tokens, record.step_time_sec) for record in reading.records] == [(100, 0.5)] * 4


def test_a_first_step_that_is_logged_beside_every_tenth_is_left_out() -> None:
    first, *rest = rows_of(*[{"step_time_sec": 0.5}] * 4)
    rows = [first] + [LogRow(step=10 * at, values=row.values, where=row.where) for at, row in enumerate(rest, start=1)]

    reading = records_of(rows, context=context())

    assert (reading.steps_per_record, reading.first_step, len(reading.records)) == (10, 10, 3)
    assert reading.notes == ("a.log:1: step 1 was left out: the lines after it are 10 steps apart",)


def test_a_step_whose_time_is_not_there_yet_is_left_out_at_the_end() -> None:
    reading = records({"step_time_sec": 0.5}, {"step_time_sec": 0.5}, {"loss": 2.5})

    assert len(reading.records) == 2
    assert reading.notes == ("a.log:3: step 3 was left out: its line with a time is missing at the end",)


def test_a_skipped_update_in_the_warm_up_is_no_loss() -> None:
    skipped = {"step_time_sec": 0.5, "skipped_updates": 1.0, "loss": 0.0}

    reading = records(skipped, {"step_time_sec": 0.5, "skipped_updates": 0.0, "loss": 2.5})

    assert [record.loss for record in reading.records] == [None, 2.5]


GOOD = {"step_time_sec": 0.5}
IMPOSSIBLE: Mapping[str, tuple[list[Mapping[str, float]], str]] = {
    "no time": (
        [{"loss": 2.5}],
        "a.log:1: no time in the log: it tells loss, but neither step_time_sec or step_time_ms",
    ),
    "time missing": ([GOOD, {"loss": 2.5}, GOOD], "a.log:2: step 2 has no time, though others have one"),
    "one reading": ([{"end_time_sec": 1.0}], "a.log:1: one reading of a clock makes no step time"),
    "time is NaN": ([{"step_time_sec": math.nan}], "a.log:1: step 1: step_time_sec=nan makes a step time of nan s"),
    "time is infinite": ([{"step_time_ms": math.inf}], "a.log:1: step 1: step_time_ms=inf makes a step time of inf s"),
    "time is 0": ([{"step_time_sec": 0.0}], "a.log:1: step 1: step_time_sec=0 makes a step time of 0 s, which must be"),
    "time is negative": ([{"step_time_ms": -5.0}], "a.log:1: step 1: step_time_ms=-5 makes a step time of -0.005 s"),
    "time beyond reason": ([{"step_time_sec": 1e300}], "a.log:1: step 1: step_time_sec=1e+300 is beyond 1e+30"),
    "clock goes back": ([{"end_time_sec": 2.0}, {"end_time_sec": 1.0}], "a.log:2: step 2: end_time_sec=1 makes a step"),
    "rate of 0": ([{"tokens_per_sec": 0.0}], "a.log:1: step 1: tokens_per_sec=0 must be positive and finite"),
    "rate is infinite": ([{"tokens_per_sec": math.inf}], "a.log:1: step 1: tokens_per_sec=inf must be positive"),
    "no tokens": ([{**GOOD, "tokens": 0.0}], "a.log:1: step 1: tokens=0 must be >= 1"),
    "tokens are NaN": ([{**GOOD, "tokens": math.nan}], "a.log:1: step 1: tokens=nan must be >= 1"),
    "total stands still": (
        [{**GOOD, "tokens_total": 5.0}, {**GOOD, "tokens_total": 5.0}],
        "a.log:2: step 2: tokens_total=5 after 5; it must grow with each step",
    ),
    "memory is negative": ([{**GOOD, "peak_memory_mib": -1.0}], "a.log:1: step 1: peak_memory_mib=-1 must be finite"),
    "memory is NaN": ([{**GOOD, "peak_memory_gib": math.nan}], "a.log:1: step 1: peak_memory_gib=nan must be finite"),
    "phases too long": (
        [{**GOOD, "phase.data_sec": 400.0}],
        "a.log:1: step 1: its phases data sum to 400 s, and the step took 0.5 s; name phases that don't overlap",
    ),
    "phase is negative": ([{**GOOD, "phase.data_sec": -1.0}], "a.log:1: step 1: phase.data_sec=-1 must be finite"),
    "rollout is NaN": (
        [{**GOOD, "rollout.num_response_tokens": math.nan}],
        "a.log:1: step 1: num_response_tokens=nan must be finite",
    ),
    "skipped": (
        [GOOD, GOOD, {**GOOD, "skipped_updates": 2.0}],
        "a.log:3: step 3: 2 optimizer updates were skipped (its gradients were not finite, or",
    ),
}


@pytest.mark.parametrize(("steps", "reason"), IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_impossible_numbers_are_told_with_their_line(steps: list[Mapping[str, float]], reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        records(*steps)

    assert str(caught.value).startswith(reason)


def test_tokens_that_the_plan_does_not_know_must_be_told() -> None:
    with pytest.raises(RecordError, match=r"a\.log:1: step 1: the log does not tell its tokens, .* at most 2,048"):
        records({"step_time_sec": 0.5}, has_exact_tokens=False)


@pytest.mark.parametrize(("gone", "text"), [([3], "steps 4 to 4"), ([3, 4, 5], "steps 4 to 6"), ([1], "steps 2 to 2")])
def test_steps_that_are_missing_in_the_middle_are_named(gone: list[int], text: str) -> None:
    rows = [row for at, row in enumerate(rows_of(*[GOOD] * 10)) if at not in gone]
    before, after = gone[0], gone[-1] + 2

    where = re.escape(f"between a.log:{before} (step {before}) and a.log:{after} (step {after})")
    with pytest.raises(RecordError, match=f"{text} are missing {where}: their lines are torn"):
        records_of(rows, context=context())


def test_quantities_as_logged_become_ours_by_a_function() -> None:
    rows = rows_of({"raw.minutes": 0.5})

    reading = records_of(rows, context=context(), convert=lambda values: {"step_time_sec": values["raw.minutes"] * 60})

    assert reading.records[0].step_time_sec == 30.0
