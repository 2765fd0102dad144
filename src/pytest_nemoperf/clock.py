"""The clock of what this process measures itself.

Tests replace the functions of module time, by hand or with freezegun or time-machine. These here are bound at import,
and those two leave clock_gettime with CLOCK_MONOTONIC alone, so a test's own time does not become the figure.
"""

from __future__ import annotations

from time import CLOCK_MONOTONIC, clock_gettime, sleep


def now() -> float:
    """Return seconds of the monotonic clock, the one that time.perf_counter reads too."""
    return clock_gettime(CLOCK_MONOTONIC)


def wait(seconds: float) -> None:
    """Sleep so long."""
    sleep(seconds)
