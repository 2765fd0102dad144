from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.records.step import StepRecord
from pytest_nemoperf.runs.step_times import Arrival, check_step_times


def records(step_time_sec: float, *, num: int = 12) -> list[StepRecord]:
    return [StepRecord(step=step, step_time_sec=step_time_sec, tokens=8) for step in range(num)]


def arrivals(*times: float) -> Sequence[Arrival]:
    """Return sightings of steps 0, 1, 2 ... at these times."""
    return [Arrival(step=step, time_sec=time) for step, time in enumerate(times)]


EACH_SECOND = tuple(map(float, range(12)))


@pytest.mark.parametrize(
    ("step_time_sec", "lived_sec", "times"),
    [
        pytest.param(1.0, 20.0, EACH_SECOND, id="as the clock says"),
        pytest.param(0.05, 20.0, EACH_SECOND, id="evaluation between steps"),
        pytest.param(1e-9, 0.1, (), id="a run too short to tell"),
        pytest.param(0.005, 60.0, (), id="short steps after a long start"),
        pytest.param(0.001, 2.0, (), id="very short steps after a start"),
        pytest.param(0.005, 60.0, (50.0,) * 12, id="written at once"),
        pytest.param(0.005, 60.0, (50.0,) * 11 + (50.5,), id="seen twice, close together"),
        pytest.param(1.0, 9.0, EACH_SECOND, id="ranks in turns"),
    ],
)
def test_times_that_can_be_pass(step_time_sec: float, lived_sec: float, times: tuple[float, ...]) -> None:
    check_step_times(records(step_time_sec), lived_sec=lived_sec, arrivals=arrivals(*times))


@pytest.mark.parametrize(
    ("step_time_sec", "reason"),
    [
        (
            50.0,
            r"took 600 s, but the run only 1 s .*either they are in milliseconds \(0\.6 s would fit\), or they were",
        ),
        (5e4, r"took 6e\+05 s, .*in microseconds \(0\.6 s would fit\)"),
        (
            0.2,
            r"took 2\.4 s, but the run only 1 s from its start to its end: they were not measured in this run; write",
        ),
    ],
)
def test_steps_that_take_longer_than_their_run_are_told_with_a_guess(step_time_sec: float, reason: str) -> None:
    with pytest.raises(RecordError, match=reason):
        check_step_times(records(step_time_sec), lived_sec=1.0, arrivals=())


@pytest.mark.parametrize(
    ("step_time_sec", "reason"),
    [
        (
            0.001,
            r"steps 1 to 11 took 0\.011 s by the records, which came 11 s apart: seconds seem to be read as milli",
        ),
        (1e-6, r"seconds seem to be read as microseconds; write the time of the whole step, in seconds"),
        (0.0001, r"they leave most of each step out, or the device was not synchronised"),
    ],
)
def test_records_that_come_far_apart_for_so_short_steps_are_told(step_time_sec: float, reason: str) -> None:
    with pytest.raises(RecordError, match=reason):
        check_step_times(records(step_time_sec), lived_sec=20.0, arrivals=arrivals(*EACH_SECOND))


@pytest.mark.parametrize("times", [(), (50.0,) * 12], ids=["not seen", "written at once"])
def test_steps_that_are_next_to_nothing_of_their_run_are_told(times: tuple[float, ...]) -> None:
    with pytest.raises(
        RecordError, match=r"took 0\.006 s together, in a run of 4 s .* seconds are read as milliseconds"
    ):
        check_step_times(records(0.0005), lived_sec=4.0, arrivals=arrivals(*times))


def test_short_steps_of_the_native_engine_are_its_own() -> None:
    check_step_times(records(0.0005), lived_sec=4.0, arrivals=(), is_foreign=False)


def test_steps_that_are_seen_together_count_from_the_last_of_them() -> None:
    times = (5.0, 5.0, 5.0, 8.0)

    with pytest.raises(RecordError, match=r"step 3 took 0\.001 s by the records, which came 3 s apart"):
        check_step_times(records(0.001, num=4), lived_sec=20.0, arrivals=arrivals(*times))
