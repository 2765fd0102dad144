"""pytest-benchmark's fixture with passes repeated until one is sound; needs that plugin to be imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from pytest_benchmark import fixture as library
from pytest_benchmark.fixture import BenchmarkFixture

from pytest_nemoperf.runs.passes import Passes

_PAUSES_PROFILERS = hasattr(library, "PauseInstrumentation")
_PAUSED = ("sys.settrace", "sys.setprofile") if _PAUSES_PROFILERS else ("sys.settrace",)
"""Tracers that the installed pytest-benchmark switches off while it times."""


class WatchedBenchmark(BenchmarkFixture):  # type: ignore[misc]  # the library has no types
    """A benchmark fixture in a perf session; see watch_benchmark."""

    passes: Passes
    pass_times: list[list[float]]
    _mode: str | None  # of the library, as the next
    _add_stats: Callable[[Any], None]

    def __call__(self, function_to_benchmark: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Time a function as the library does, until a pass is sound; return the function's last result."""
        return self._until_sound(lambda: BenchmarkFixture.__call__(self, function_to_benchmark, *args, **kwargs))

    def pedantic(self, *args: Any, **kwargs: Any) -> Any:
        """Time a function as the library's pedantic mode does, until a pass is sound."""
        return self._until_sound(lambda: BenchmarkFixture.pedantic(self, *args, **kwargs))

    def _until_sound(self, time_once: Callable[[], Any]) -> Any:
        if self.disabled or self._mode:  # a second use, for which the library raises an error
            return time_once()
        tables: list[Any] = []  # the library's statistics, one per pass
        add_stats = self._add_stats
        self._add_stats = tables.append
        self.pass_times.append([])
        try:
            while True:
                self._mode = None
                self.passes.poll(ignored=_PAUSED)
                result = time_once()
                self.passes.poll(ignored=_PAUSED)
                times = list(self.stats.stats.data)
                self.pass_times[-1] += times
                if not self.passes.end(times, budget_sec=self._budget_sec()):
                    tables.pop()
                    continue
                if self.passes.is_done():
                    break
                self.pass_times.append([])
        finally:
            self.passes.close()
            self._add_stats = add_stats
        add_stats(tables[self.passes.counted])
        return result

    def _budget_sec(self) -> float:
        """Return the library's time budget; 0 if the number of rounds is given by other options.

        The library divides it by the duration of a first round, which is often several times too long.
        """
        options = self.stats.options
        if self._mode != "benchmark(...)" or options.get("precision") is not None:
            return 0.0
        return float(options["max_time"])


def watch_benchmark(benchmark: BenchmarkFixture, *, passes: Passes) -> WatchedBenchmark:
    """Make an unused benchmark fixture repeat its timing until a pass is sound, and return it."""
    benchmark.__class__ = WatchedBenchmark
    watched = cast("WatchedBenchmark", benchmark)
    watched.passes = passes
    watched.pass_times = []
    return watched
