from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_nemoperf.records.health import CpuHealth, HealthReport
from pytest_nemoperf.records.tracers import tracer_problems
from pytest_nemoperf.runs.passes import _MAX_PASSES, Passes

STEADY = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0, 1.01, 0.99, 1.0] * 2
SLOWER = [1.0 + 0.02 * step for step in range(20)]
FASTER = SLOWER[::-1]


def report_of(*, foreign: float) -> HealthReport:
    cpu = CpuHealth(num_cores=2, own_share=0.5, foreign_share=foreign, idle_share=0.0, steal_share=0.0)
    return HealthReport(seconds=1.0, num_samples=2, is_measured_steps=True, cpu=cpu)


class Machine:
    """Machine with a given load and given tracers in each pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, is_watched: bool = True) -> None:
        self.foreign = 0.0
        self.tracers: tuple[str, ...] = ()
        monkeypatch.setattr(
            "pytest_nemoperf.machine.monitor.Monitor.report", lambda *_, **__: report_of(foreign=self.foreign)
        )
        monkeypatch.setattr("pytest_nemoperf.runs.passes.active_tracers", lambda: self.tracers)
        self.said: list[str] = []
        self.passes = Passes("bench-test", num_gpus=0, report=self.said.append, min_sec=0.0, is_watched=is_watched)

    def measure(self, times: Sequence[float], *, foreign: float = 0.0, tracers: tuple[str, ...] = ()) -> bool:
        """Measure a pass, and return whether no further one is needed."""
        self.foreign = foreign
        self.tracers = tracers
        self.passes.poll(ignored=["sys.settrace"])
        assert self.passes.end(times)
        return self.passes.is_done()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_a_sound_pass_is_enough(machine: Machine) -> None:
    assert machine.measure(STEADY)

    assert (machine.passes.counted, machine.passes.problems, machine.said) == (0, [], [])


def test_a_pass_on_a_busy_machine_is_dropped_and_says_why(machine: Machine) -> None:
    assert not machine.measure(STEADY, foreign=0.5)
    assert machine.measure(STEADY)

    assert (machine.passes.counted, machine.passes.problems) == (1, [])
    assert machine.said[0].startswith("pass 1 of bench-test is dropped and measured again: other processes took 50%")


def test_a_machine_that_stays_busy_makes_the_case_invalid(machine: Machine) -> None:
    enough = [machine.measure(STEADY, foreign=0.5) for _ in range(_MAX_PASSES)]

    assert enough == [False] * (_MAX_PASSES - 1) + [True]
    assert "other processes took 50%" in machine.passes.problems[0]


def test_other_load_is_no_problem_where_two_revisions_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, is_watched=False)

    assert machine.measure(STEADY, foreign=0.5)

    assert (machine.passes.counted, machine.passes.problems, machine.said) == (0, [], [])


def test_work_that_drifts_in_every_pass_is_invalid(machine: Machine) -> None:
    for _ in range(_MAX_PASSES):
        machine.measure(SLOWER)

    (problem,) = machine.passes.problems
    assert problem.endswith("look for throttling, a leak or other load; so in 5 of as many tries")


def test_a_machine_that_goes_up_and_down_is_no_problem_of_the_work(machine: Machine) -> None:
    for times in (SLOWER, FASTER, SLOWER, SLOWER, SLOWER):
        machine.measure(times)

    counted = machine.passes.finished[machine.passes.counted]
    assert machine.passes.problems == []
    assert counted.drift is not None
    assert counted.drift.pct > 10


def test_a_pass_that_drifted_counts_before_one_on_a_busy_machine(machine: Machine) -> None:
    for times, foreign in ((SLOWER, 0.0), (FASTER, 0.0), (STEADY, 0.5), (STEADY, 0.5), (STEADY, 0.5)):
        machine.measure(times, foreign=foreign)

    assert (machine.passes.counted, machine.passes.problems) == (1, [])


def test_a_tracer_ends_measuring_at_once(machine: Machine) -> None:
    assert machine.measure(STEADY, tracers=("coverage (sys.monitoring)",))

    assert "coverage (sys.monitoring) was active" in machine.passes.problems[0]


def test_a_tracer_that_is_paused_while_the_work_is_timed_does_no_harm(machine: Machine) -> None:
    assert machine.measure(STEADY, tracers=("coverage (sys.settrace)",))

    assert machine.passes.problems == []


def test_a_pass_left_before_a_unit_was_complete_does_not_count(machine: Machine) -> None:
    machine.measure(SLOWER)
    machine.passes.poll()

    machine.passes.close()

    assert len(machine.passes.finished) == 1


@pytest.mark.parametrize(
    ("tracers", "message"),
    [
        pytest.param(("coverage (sys.settrace)",), "--no-cov", id="coverage"),
        pytest.param(("pydevd (sys.settrace)", "tracemalloc"), "pydevd (sys.settrace) and tracemalloc were", id="two"),
    ],
)
def test_a_tracer_is_named_with_what_to_do(tracers: tuple[str, ...], message: str) -> None:
    (problem,) = tracer_problems(tracers)

    assert message in problem
