"""Tests that use pytest-benchmark's fixture and are marked perf: its statistics, our baselines and verdicts."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nemoperf.cases import benchmark_case_id
from pytest_nemoperf.measure import Measurement, Run, round_significant
from pytest_nemoperf.metrics import TIME_PER_CALL_SEC
from pytest_nemoperf.steadiness import mad_pct, num_outliers, num_still_warming, settling_problems

if TYPE_CHECKING:
    from pytest_nemoperf.settings import Settings

_MIN_ROUNDS = 3
_SPIN_BELOW_SEC = 1e-3  # the operating system's sleep is too coarse for less


class InjectingTimer:
    """A clock for pytest-benchmark that really waits a share of the time since it was last read.

    The library reads its timer before and after the measured call, so the wait lands inside the measured time.
    """

    def __init__(self, inject_pct: float) -> None:
        self._share = inject_pct / 100.0
        self._last = time.perf_counter()
        self.__name__ = "perf_counter_with_injected_delay"

    def __call__(self) -> float:
        """Wait, then return seconds of the monotonic clock."""
        now = time.perf_counter()
        until = now + (now - self._last) * self._share
        if until - now > _SPIN_BELOW_SEC:
            time.sleep(until - now)
        while time.perf_counter() < until:
            pass
        self._last = time.perf_counter()
        return self._last


def inject_delay(item: pytest.Item, *, inject_pct: float) -> None:
    """Make pytest-benchmark measure with an InjectingTimer, whatever else the test's marker says."""
    marker = item.get_closest_marker("benchmark")
    kwargs = {**(marker.kwargs if marker else {}), "timer": InjectingTimer(inject_pct)}
    item.add_marker(pytest.mark.benchmark(**kwargs), append=False)


def measure_benchmark(item: pytest.Item, *, benchmark: Any, settings: Settings) -> Measurement:
    """Return the measurement of a test that used the benchmark fixture; not called or too short is INVALID."""
    times = list(benchmark.stats.stats.data) if benchmark.stats is not None else []
    problems: list[str] = []
    if benchmark.stats is None:
        problems.append("the benchmark fixture was never called, so there is nothing to judge")
    elif len(times) < _MIN_ROUNDS:
        problems.append(f"{len(times)} rounds were measured, {_MIN_ROUNDS} are needed for a median")
    dropped = num_still_warming(times)
    problems += settling_problems(times[dropped:])
    runs = (_run(times[dropped:], num_warmup_dropped=dropped),) if times else ()
    return Measurement(
        case=benchmark_case_id(item.nodeid),
        system=settings.system.name,
        workload={"workload": "benchmark", "test": item.nodeid},
        runs=runs,
        problems=tuple(problems),
        inject_pct=settings.inject_pct,
    )


def _run(times: list[float], *, num_warmup_dropped: int) -> Run:
    return Run(
        metrics={TIME_PER_CALL_SEC.name: round_significant(statistics.median(times))},
        num_steps=len(times),
        num_warmup_dropped=num_warmup_dropped,
        num_outliers=num_outliers(times),
        step_time_mad_pct=round_significant(mad_pct(times), digits=3),
    )
