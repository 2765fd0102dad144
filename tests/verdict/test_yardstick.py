"""Sentences on yardsticks: the machine or the code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.records.yardstick import Yardstick
from pytest_nemoperf.verdict.yardstick import yardstick_change, yardstick_sentence
from tests.builders import make_run

QUIET = (0.99, 1.0, 1.01, 0.995, 1.005)
"""Times of five runs, relative to their mean."""


def runs_of(
    *, matmul: float = 1.0, copy: float = 1.0, all_reduce: float | None = 1.0, scatter: Sequence[float] = QUIET
) -> list[Run]:
    """Return a run of two ranks for each factor of a scatter."""
    runs = []
    for factor in scatter:
        each = Yardstick(
            matmul_sec=1e-3 * matmul * factor,
            copy_sec=2e-3 * copy * factor,
            all_reduce_sec=None if all_reduce is None else 3e-3 * all_reduce * factor,
        )
        runs.append(replace(make_run(), yardsticks=(each, each)))
    return runs


def sentence(now: Sequence[Run], then: Sequence[Run], *, loss_pct: float = 21.3, others: bool = False) -> str:
    return yardstick_sentence(now, then, loss_pct=loss_pct, has_other_libraries=others)


def test_a_machine_that_is_slower_than_then_is_named_with_each_part() -> None:
    text = sentence(runs_of(matmul=1.26, copy=1.19, all_reduce=1.31), runs_of())

    assert text == (
        "the fixed workload of the ranks took 25% longer than when the baseline was recorded (matrix product +26%, "
        "copy +19%, all-reduce +31%), the step 27% longer: the machine moved, which would explain 94% of the loss"
    )


def test_a_machine_that_is_as_fast_as_then_leaves_the_code() -> None:
    text = sentence(runs_of(matmul=1.01, copy=0.98, all_reduce=None), runs_of(all_reduce=None))

    assert text.startswith("the fixed workload of the ranks took as long as when the baseline was recorded (matrix")
    assert "(matrix product +1%, copy -2%), the step 27% longer" in text
    assert re.search(r"the machine did not move by as much, and explains at most \d% of the loss$", text)


def test_a_faster_machine_explains_a_gain() -> None:
    text = sentence(runs_of(matmul=0.8, copy=0.8, all_reduce=0.8), runs_of(), loss_pct=-20.0)

    assert "took 20% less long than when" in text
    assert text.endswith("the step 17% less long: the machine moved, which would explain all of the gain")


def test_a_machine_that_moved_the_other_way_explains_nothing() -> None:
    text = sentence(runs_of(matmul=0.8, copy=0.8, all_reduce=0.8), runs_of())

    assert text.endswith("explains at most 0% of the loss")


def test_a_yardstick_that_scatters_by_as_much_does_not_tell() -> None:
    restless = (0.7, 1.5, 0.9, 1.2, 0.8)

    text = sentence(runs_of(matmul=1.1, copy=1.1, all_reduce=1.1, scatter=restless), runs_of(scatter=restless))

    assert re.search(r"itself is known to \d+% only, which does not tell whether the machine moved$", text)


def test_one_run_each_does_not_tell() -> None:
    text = sentence(runs_of(matmul=1.5, copy=1.5, all_reduce=1.5, scatter=(1.0,)), runs_of(scatter=(1.0,)))

    assert text.endswith("one run each does not tell whether the machine moved")


def test_other_libraries_may_have_slowed_the_yardstick_too() -> None:
    text = sentence(runs_of(matmul=1.3, copy=1.3, all_reduce=1.3), runs_of(), others=True)

    assert "took 30% longer" in text
    assert text.endswith("the driver or the device others than then, that does not tell the machine from them")


def test_a_baseline_recorded_before_there_were_yardsticks_says_so_and_nothing_else() -> None:
    text = sentence(runs_of(), [make_run(), make_run()])

    assert text.startswith("the baseline was recorded without a yardstick, so nothing tells")
    assert "%" not in text


@pytest.mark.parametrize(
    ("now", "loss_pct"),
    [
        pytest.param([make_run()], 21.3, id="these runs have no yardstick"),
        pytest.param(runs_of(matmul=1.3), 0.5, id="the speed is as it was"),
        pytest.param(runs_of(), 100.0, id="no speed is left"),
    ],
)
def test_otherwise_there_is_nothing_to_say(now: list[Run], loss_pct: float) -> None:
    assert sentence(now, runs_of(), loss_pct=loss_pct) == ""


def test_runs_without_a_yardstick_beside_others_are_left_out() -> None:
    now = [*runs_of(matmul=2.0), make_run()]

    change = yardstick_change(now, [*runs_of(), make_run()])

    assert change is not None
    assert change == yardstick_change(runs_of(matmul=2.0), runs_of())


def test_an_all_reduce_counts_only_if_both_have_one() -> None:
    change = yardstick_change(runs_of(), runs_of(all_reduce=None))

    assert change is not None
    assert set(change.parts) == {"matmul_sec", "copy_sec"}


def test_a_single_rank_that_is_far_slower_is_named_beside_the_sum() -> None:
    now = []
    for run in runs_of():
        first, second = run.yardsticks
        now.append(replace(run, yardsticks=(first, replace(second, matmul_sec=2e-3))))

    text = sentence(now, runs_of())

    assert text.endswith(
        "; rank 1 did its matrix product at 50% of its speed in the baseline and at 50% of the other ranks' speed"
    )
