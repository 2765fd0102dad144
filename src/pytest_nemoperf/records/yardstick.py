"""Times of a fixed small workload on each rank, which no change of the code under test can touch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

YARDSTICK_VARIABLE: Final = "NEMOPERF_YARDSTICK"
YARDSTICK_OFF: Final = "off"
"""Value of the variable with which ranks leave the yardstick out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """Times of the fixed workload on one rank, in seconds; each the median of a few repeats.

    Attributes:
        matmul_sec: A product of square matrices at the precision of the case.
        copy_sec: A copy through memory, larger than caches.
        all_reduce_sec: An all-reduce over the ranks of the run; None for a single rank.
    """

    matmul_sec: float
    copy_sec: float
    all_reduce_sec: float | None = None


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
