"""Measurements of perf tests that use pytest-benchmark's fixture."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.measure.calls import run_of_calls, settled_calls
from pytest_nemoperf.measure.kernel import kernel_of
from pytest_nemoperf.measure.measurement import Measurement, Run
from pytest_nemoperf.measure.metric_values import TimedCalls, call_values
from pytest_nemoperf.measure.stored_workload import BENCHMARK
from pytest_nemoperf.recipes.case_id import benchmark_case_id
from pytest_nemoperf.records.fingerprint import watched_variables
from pytest_nemoperf.runs import clock

if TYPE_CHECKING:
    from pytest_nemoperf.options.settings import Settings
    from pytest_nemoperf.plugin.watched_benchmark import WatchedBenchmark
    from pytest_nemoperf.runs.passes import Passes

_MIN_ROUNDS = 3
_DEFAULT_TIMER = "time.perf_counter"
_SPIN_BELOW_SEC = 1e-3  # the operating system's sleep is too coarse for less


class _InjectingTimer:
    """Clock for pytest-benchmark that waits a share of the time since its last reading.

    The library reads its timer before and after the measured call, so the wait becomes part of the measured time.
    """

    def __init__(self, inject_pct: float) -> None:
        self._share = inject_pct / 100.0
        self._last = clock.now()
        self.__name__ = "perf_counter_with_injected_delay"

    def __call__(self) -> float:
        """Wait, then return seconds of the monotonic clock."""
        now = clock.now()
        until = now + (now - self._last) * self._share
        if until - now > _SPIN_BELOW_SEC:
            clock.wait(until - now)
        while clock.now() < until:
            pass
        self._last = clock.now()
        return self._last


def inject_delay(item: pytest.Item, *, inject_pct: float) -> None:
    """Make pytest-benchmark delay a test; other options of the test's benchmark marker stay."""
    marker = item.get_closest_marker("benchmark")
    kwargs = dict(marker.kwargs) if marker else {}
    kwargs["timer"] = _InjectingTimer(inject_pct)
    item.add_marker(pytest.mark.benchmark(**kwargs), append=False)


def watched(fixture: Any, *, passes: Passes) -> WatchedBenchmark | None:
    """Make pytest-benchmark's fixture repeat its timing until a pass is sound; return None for another fixture."""
    if importlib.util.find_spec("pytest_benchmark") is None:
        return None
    from pytest_benchmark.fixture import BenchmarkFixture  # noqa: PLC0415 (an extra)

    from pytest_nemoperf.plugin.watched_benchmark import watch_benchmark  # noqa: PLC0415 (it imports that extra)

    if not isinstance(fixture, BenchmarkFixture):
        return None
    return watch_benchmark(fixture, passes=passes)


def measure_benchmark(item: pytest.Item, *, benchmark: WatchedBenchmark, settings: Settings) -> Measurement:
    """Return the measurement of a test that used the benchmark fixture; without enough rounds it has problems.

    Raises:
        RecipeError: If what the test states of its kernel in ``benchmark.extra_info`` is impossible.
    """
    kernel = kernel_of(benchmark.extra_info)
    passes = benchmark.passes
    runs: list[Run] = []
    if not passes.finished:
        problems = ["the benchmark fixture was never called, so there is nothing to judge"]
    else:
        problems = passes.problems
        times = benchmark.pass_times[passes.counted]
        calls = TimedCalls(times=settled_calls(times))
        if kernel is not None:
            calls = replace(calls, flops=kernel.flops, num_bytes=kernel.num_bytes)
        runs.append(run_of_calls(times, values=call_values(calls), drift_pct=passes.drift_pct))
        if len(times) < _MIN_ROUNDS:
            problems.append(f"measured {count_text(len(times), 'round')}, and a median needs {_MIN_ROUNDS}")
    workload: dict[str, Any] = {"workload": BENCHMARK, "test": item.nodeid, **_timing_options(benchmark)}
    if kernel is not None:
        workload |= kernel.workload
    return Measurement(
        case=benchmark_case_id(item.nodeid),
        system=settings.system.name,
        workload=workload,
        runs=tuple(runs),
        environment=watched_variables(os.environ),
        problems=tuple(problems),
        inject_pct=settings.inject_pct,
    )


def _timing_options(benchmark: WatchedBenchmark) -> dict[str, Any]:
    """Return the library's options that change the measured time, without its defaults."""
    if not benchmark.passes.finished:
        return {}
    options = benchmark.stats.options
    changed: dict[str, Any] = {}
    timer = options["timer"]
    name = _DEFAULT_TIMER if isinstance(timer, _InjectingTimer) else _name_of(timer)
    if name != _DEFAULT_TIMER:
        changed["timer"] = name
    if options["disable_gc"]:
        changed["disable_gc"] = True
    return changed


def _name_of(timer: Any) -> str:
    named = timer if hasattr(timer, "__qualname__") else type(timer)
    return f"{named.__module__}.{named.__qualname__}"
