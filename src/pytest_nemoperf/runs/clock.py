"""Monotonic clock that tests can't replace.

Tests replace the functions of module time, by hand or with freezegun or time-machine. These are bound at import, and
those two don't replace clock_gettime(CLOCK_MONOTONIC), so a measured duration is real time.
"""

from __future__ import annotations

from time import CLOCK_MONOTONIC, clock_gettime, sleep


def now() -> float:
    """Return seconds of the monotonic clock, which time.perf_counter reads too."""
    return clock_gettime(CLOCK_MONOTONIC)


def wait(seconds: float) -> None:
    """Sleep for some seconds."""
    sleep(seconds)
