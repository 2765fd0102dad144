"""Times of a fixed small workload on each rank, which no change of the code under test can touch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from pytest_nemoperf.errors import RecordError

YARDSTICK_VARIABLE: Final = "NEMOPERF_YARDSTICK"
_MIN_SEC: Final = 1e-9
_MAX_SEC: Final = 3600.0
YARDSTICK_ON: Final = "on"
YARDSTICK_OFF: Final = "off"
"""Value of the variable with which ranks leave the yardstick out."""

YARDSTICK_FILE: Final = "yardstick.json"
"""Yardsticks by rank, written by ranks that time nothing else."""
RUN_YARDSTICKS_FILE: Final = "yardsticks.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """Times of the fixed workload on one rank, in seconds; each the median of a few repeats.

    Attributes:
        matmul_sec: A product of square matrices at the precision of the case.
        copy_sec: A copy through memory, larger than the caches of a core.
        all_reduce_sec: An all-reduce over the ranks of the run; None for a single rank.

    Raises:
        RecordError: If a time is impossible.
    """

    matmul_sec: float
    copy_sec: float
    all_reduce_sec: float | None = None

    def __post_init__(self) -> None:
        for name in ("matmul_sec", "copy_sec", "all_reduce_sec"):
            seconds = getattr(self, name)
            if seconds is not None and not _MIN_SEC <= seconds <= _MAX_SEC:
                raise RecordError(
                    f"{name}={seconds:g} of a yardstick must be from {_MIN_SEC:g} to {_MAX_SEC:g} s; record it again"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunYardsticks:
    """Yardsticks around a run of another framework; ``yardsticks.json`` of a run directory.

    Attributes:
        before: Before the run, by rank; empty if not timed.
        after: After the run, by rank; empty if not timed.
    """

    before: tuple[Yardstick, ...] = ()
    after: tuple[Yardstick, ...] = ()
    schema_version: Literal[1] = 1


def mean_yardstick(before: Yardstick, after: Yardstick) -> Yardstick:
    """Return the geometric means of two measurements of one rank, with four significant digits."""
    all_reduce_sec = None
    if before.all_reduce_sec is not None and after.all_reduce_sec is not None:
        all_reduce_sec = _mean(before.all_reduce_sec, after.all_reduce_sec)
    return Yardstick(
        matmul_sec=_mean(before.matmul_sec, after.matmul_sec),
        copy_sec=_mean(before.copy_sec, after.copy_sec),
        all_reduce_sec=all_reduce_sec,
    )


def _mean(one: float, other: float) -> float:
    return float(f"{math.sqrt(one * other):.4g}")
