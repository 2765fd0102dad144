from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.logs.convert import LogReading, records_of
from pytest_nemoperf.logs.evidence import guess
from pytest_nemoperf.logs.rows import LogRow
from tests.logs.log_texts import GPUS, TOKENS, context

FLOPS_PER_TOKEN = 1e11
TFLOPS = FLOPS_PER_TOKEN * TOKENS / 0.5 / GPUS / 1e12


def records(*, clock_step: float | None = None, resolution: float = 0.001, **values: float) -> LogReading:
    """Return the reading of five equal steps whose lines are written ``clock_step`` seconds apart."""
    rows = []
    for step in range(5):
        clock = None if clock_step is None else (1000 + step * clock_step, resolution)
        rows.append(LogRow(step=step, values={"step_time_sec": 0.5, **values}, where=f"a.log:{step}", clock=clock))
    return records_of(rows, context=context(flops_per_token=FLOPS_PER_TOKEN))


@pytest.mark.parametrize("factor", [0.51, 0.7, 1.0, 1.3, 1.99])
def test_a_tflops_of_another_convention_is_taken(factor: float) -> None:
    assert len(records(tflops_per_sec_per_gpu=TFLOPS * factor).records) == 5


def own_records(factor: float) -> LogReading:
    """Return the reading of steps whose TFLOP/s are counted under a known convention, times a factor."""
    values = {"step_time_sec": 0.5, "tflops_per_sec_per_gpu": TFLOPS * factor}
    rows = [LogRow(step=step, values=values, where=f"a.log:{step}") for step in range(5)]
    own = context(flops_per_token=2.5 * FLOPS_PER_TOKEN, logged_flops_per_token=FLOPS_PER_TOKEN)
    return records_of(rows, context=own)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_tflops_of_the_convention_of_its_program_may_hold_padding(factor: float) -> None:
    assert len(own_records(factor).records) == 5


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_tflops_of_the_convention_of_its_program_must_follow_closely(factor: float) -> None:
    with pytest.raises(RecordError, match=r"counted as the program that logs counts them; .* than 1\.3x"):
        own_records(factor)


def test_a_tflops_that_is_0_or_too_small_for_its_digits_tells_nothing() -> None:
    assert len(records(tflops_per_sec_per_gpu=0.0).records) == 5


WRONG_TFLOPS = {
    "times in milliseconds": (1000.0, "it is about 1000 times too much: milliseconds where seconds belong"),
    "FLOPs": (1e12, r"it is about 10\*\*12 times too much: FLOP/s where TFLOP/s belong\?"),
    "of all GPUs": (2.2, "it is about 2 times too much, the number of GPUs: of all of them where one belongs"),
    "other model": (40.0, "check the units, and that the plan's batch, length and GPUs are those of the run"),
}


@pytest.mark.parametrize(("factor", "text"), WRONG_TFLOPS.values(), ids=WRONG_TFLOPS.keys())
def test_a_tflops_that_does_not_follow_is_told_with_the_arithmetic(factor: float, text: str) -> None:
    arithmetic = rf"2,048 tokens / 0\.5 s / 2 GPUs x 1e\+11 FLOPs per token = {TFLOPS:.4g} TFLOP/s/GPU"

    with pytest.raises(RecordError, match=rf"a\.log:2: step 2: .* does not follow from {arithmetic} .*; {text}"):
        records(tflops_per_sec_per_gpu=TFLOPS * factor)


def test_a_tflops_of_the_warm_up_is_not_checked() -> None:
    rows = [
        LogRow(step=0, values={"step_time_sec": 0.5, "tflops_per_sec_per_gpu": 1e6}, where="a.log:1"),
        LogRow(step=1, values={"step_time_sec": 0.5, "tflops_per_sec_per_gpu": TFLOPS}, where="a.log:2"),
    ]

    assert records_of(rows, context=context(flops_per_token=FLOPS_PER_TOKEN)).first_step == 0


def test_a_rate_that_does_not_follow_from_tokens_and_time_is_told() -> None:
    assert len(records(tokens_per_sec_per_gpu=TOKENS / 0.5 / GPUS * 1.2).records) == 5

    with pytest.raises(
        RecordError,
        match=r"a\.log:0: step 0: tokens_per_sec=4\.096 does not follow from 2,048 tokens / 0\.5 s = 4096; "
        "it is about 1000 times too little",
    ):
        records(tokens_per_sec=TOKENS / 500)


@pytest.mark.parametrize("clock_step", [0.4, 0.5, 3.0, 40.0])
def test_step_times_that_fit_the_clock_are_taken(clock_step: float) -> None:
    assert len(records(clock_step=clock_step).records) == 5


def test_a_coarse_clock_does_not_contradict_short_steps() -> None:
    assert len(records(clock_step=0.0, resolution=2.0).records) == 5


@pytest.mark.parametrize(
    ("clock_step", "text"),
    [
        (
            0.0005,
            "2 s by their step times, and 0.002 s by the clock in their lines; it is about 1000 times too much",
        ),
        (
            500.0,
            "2 s by their step times, and 2000 s by the clock in their lines; it is about 1000 times too little",
        ),
        (0.2, "2 s by their step times, and 0.8 s by the clock in their lines; check the units, and"),
    ],
)
def test_step_times_that_do_not_fit_the_clock_are_told(clock_step: float, text: str) -> None:
    with pytest.raises(RecordError, match=f"a.log:4: the steps after step 0 take {text}"):
        records(clock_step=clock_step)


def test_a_clock_that_was_set_back_is_no_evidence() -> None:
    assert len(records(clock_step=-500.0).records) == 5


def stepped(clocks: Sequence[float | None], *, seconds: float = 0.5, resolution: float = 0.001) -> LogReading:
    """Return the reading of equal steps whose lines have these clocks."""
    rows = []
    for step, clock in enumerate(clocks):
        of_line = None if clock is None else (clock, resolution)
        rows.append(LogRow(step=step, values={"step_time_sec": seconds}, where=f"a.log:{step}", clock=of_line))
    return records_of(rows, context=context())


CLOCKS = [1000 + step * 0.0005 for step in range(10)]


@pytest.mark.parametrize(
    ("clocks", "left_out"),
    [
        ([*CLOCKS[:4], *[clock - 300 for clock in CLOCKS[4:]]], "1 step"),
        ([*CLOCKS[:4], None, *CLOCKS[5:]], "2 steps"),
    ],
    ids=["set back", "missing"],
)
def test_one_clock_that_is_no_evidence_leaves_the_others(clocks: Sequence[float | None], left_out: str) -> None:
    with pytest.raises(
        RecordError,
        match=rf"a\.log:9: the steps after step 0 \(without {left_out} before which it was set back, or that lack it\) "
        r"take .* it is about 1000 times too much: milliseconds where seconds belong",
    ):
        stepped(clocks)


def test_a_clock_that_was_set_back_once_does_not_contradict_the_steps() -> None:
    clocks = [1000 + step * 0.5 for step in range(10)]

    assert len(stepped([*clocks[:4], *[clock - 300 for clock in clocks[4:]]]).records) == 10


def test_a_coarse_clock_that_is_set_back_again_and_again_contradicts_nothing() -> None:
    assert len(stepped([1001.0, 1001.0, 1000.0, 1000.0, 999.0, 999.0], resolution=1.0).records) == 6


def test_lines_that_all_have_the_same_clock_are_told_as_that() -> None:
    with pytest.raises(
        RecordError,
        match=r"the steps after step 0 take 2 s by their step times, and their lines all have the same clock, which is "
        r"exact to 0\.001 s: they were written at once, or the clock stands; let the line of a step be written when it",
    ):
        records(clock_step=0.0)


def test_an_evaluation_between_two_steps_is_no_contradiction() -> None:
    rows = []
    for step in range(5):
        clock = (1000 + step * 0.5 + (600 if step > 2 else 0), 0.001)
        rows.append(LogRow(step=step, values={"step_time_sec": 0.5}, where=f"a.log:{step}", clock=clock))

    assert len(records_of(rows, context=context()).records) == 5


def test_a_rate_in_thousands_is_told_as_that() -> None:
    with pytest.raises(RecordError, match="1000 times too little: thousands of tokens per second, or") as caught:
        records(tokens_per_sec=TOKENS / 500)

    assert "milliseconds" not in str(caught.value)


def test_a_tflops_in_petaflops_is_told_as_that() -> None:
    flops_per_token = FLOPS_PER_TOKEN * 1000
    rows = [
        LogRow(step=step, values={"step_time_sec": 0.5, "tflops_per_sec_per_gpu": TFLOPS}, where=f"a.log:{step}")
        for step in range(4)
    ]

    with pytest.raises(RecordError, match="1000 times too little: PFLOP/s where TFLOP/s belong, or"):
        records_of(rows, context=context(flops_per_token=flops_per_token))


def test_a_guess_names_no_cause_for_an_odd_ratio() -> None:
    assert guess(0.0, causes=[(1000.0, "1000 times too much")], num_gpus=8).startswith("; check the units")
