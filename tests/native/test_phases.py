"""The clock of a step, with a time that tests advance."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pytest_nemoperf.native.phases import PhaseClock, RunnableClock, _busy_sec_of
from pytest_nemoperf.records.step import PRETRAIN_PHASES


class Time:
    """Time that the clock reads and sleeps on."""

    def __init__(self) -> None:
        self.now = 100.0

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> Time:
    fake = Time()
    monkeypatch.setattr(time, "perf_counter", lambda: fake.now)
    monkeypatch.setattr(time, "sleep", fake.advance)
    return fake


def run_step(clock: PhaseClock, fake_time: Time, *, marks: dict[str, float], rest: float = 0.0) -> None:
    clock.start()
    for phase, seconds in marks.items():
        fake_time.advance(seconds)
        clock.mark(phase)
    fake_time.advance(rest)


def test_a_mark_claims_the_time_since_the_last_one(fake_time: Time) -> None:
    clock = PhaseClock()
    run_step(clock, fake_time, marks={"forward": 2.0, "backward": 5.0})

    timing = clock.stop()

    assert timing.step_time_sec == pytest.approx(7.0)
    assert timing.phases["forward"] == pytest.approx(2.0)
    assert timing.phases["backward"] == pytest.approx(5.0)


def test_a_phase_that_comes_again_is_added_up(fake_time: Time) -> None:
    clock = PhaseClock()
    clock.start()
    for phase in ("forward", "backward") * 3:
        fake_time.advance(1.0)
        clock.mark(phase)

    assert clock.stop().phases["forward"] == pytest.approx(3.0)


def test_what_no_mark_claims_is_other(fake_time: Time) -> None:
    clock = PhaseClock()
    run_step(clock, fake_time, marks={"forward": 2.0}, rest=0.5)

    timing = clock.stop()

    assert timing.phases["other"] == pytest.approx(0.5)
    assert sum(timing.phases.values()) == pytest.approx(timing.step_time_sec)


def test_every_phase_of_the_contract_is_there_in_order(fake_time: Time) -> None:
    clock = PhaseClock()
    run_step(clock, fake_time, marks={"optimizer": 1.0, "data": 1.0})

    assert tuple(clock.stop().phases) == PRETRAIN_PHASES


def test_a_step_begins_with_nothing_of_the_last_one(fake_time: Time) -> None:
    clock = PhaseClock()
    run_step(clock, fake_time, marks={"forward": 2.0})
    clock.stop()
    fake_time.advance(50.0)
    run_step(clock, fake_time, marks={"backward": 1.0})

    timing = clock.stop()

    assert timing.step_time_sec == pytest.approx(1.0)
    assert timing.phases["forward"] == 0


def test_a_delay_lengthens_the_step_by_its_percentage_and_is_other(fake_time: Time) -> None:
    clock = PhaseClock()
    run_step(clock, fake_time, marks={"forward": 4.0})

    clock.delay(25)
    timing = clock.stop()

    assert timing.step_time_sec == pytest.approx(5.0)
    assert timing.phases["other"] == pytest.approx(1.0)


def test_a_clock_that_does_not_record_still_times_the_step(fake_time: Time) -> None:
    clock = PhaseClock(is_recording=False)
    run_step(clock, fake_time, marks={"forward": 2.0}, rest=1.0)

    timing = clock.stop()

    assert timing.step_time_sec == pytest.approx(3.0)
    assert timing.phases == {}


def test_a_threads_own_time_is_what_it_ran_and_what_it_waited_for_a_core(tmp_path: Path) -> None:
    path = tmp_path / "schedstat"
    path.write_text("2000000000 500000000 42\n")

    assert RunnableClock(path=path).runnable_sec() == pytest.approx(2.5)
    assert RunnableClock(path=tmp_path / "missing").runnable_sec() is None


def test_a_kernel_that_does_not_count_tells_no_time(tmp_path: Path) -> None:
    path = tmp_path / "schedstat"
    path.write_text("0 0 0\n")

    assert RunnableClock(path=path).runnable_sec() is None


def test_sleeping_is_not_working() -> None:
    thread = RunnableClock()
    before = thread.runnable_sec()
    time.sleep(0.05)
    slept = thread.runnable_sec()
    sum(number * number for number in range(300_000))
    worked = thread.runnable_sec()

    assert before is not None
    assert slept is not None
    assert worked is not None
    assert slept - before < worked - slept


@pytest.mark.parametrize(
    ("runnable", "busy"),
    [(0.4, 0.4), (1.2, 1.0), (None, 0.7)],
    ids=["counted", "never more than the step", "not counted: without phases of waiting"],
)
def test_a_ranks_own_work_is_what_the_kernel_counts_else_the_step_without_waiting(
    runnable: float | None, busy: float
) -> None:
    phases = {"forward": 0.3, "backward": 0.4, "grad_comm": 0.2, "pipeline_wait": 0.1}

    assert _busy_sec_of(phases, step_time_sec=1.0, runnable_sec=runnable) == pytest.approx(busy)
