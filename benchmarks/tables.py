"""Output and timing of the benchmarks: the machine they ran on, medians with their spread, tables."""

from __future__ import annotations

import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from importlib import metadata

from pytest_nemoperf.machine.processor import available_cores, cpu_model

_RESAMPLES = 2000


def machine_line() -> str:
    """Return processor, cores, versions and load average: the load is part of every figure."""
    load_1m, load_5m, load_15m = os.getloadavg()
    return (
        f"{cpu_model()}, {available_cores()} cores, Python {platform.python_version()}, "
        f"torch {metadata.version('torch')}, pytest {metadata.version('pytest')}; "
        f"load average at the end {load_1m:.1f}, {load_5m:.1f}, {load_15m:.1f}"
    )


def timed(call: Callable[[], object], *, repeats: int = 1) -> float:
    """Return the mean seconds of a call."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def ratios(values: Sequence[float], *, to: Sequence[float]) -> list[float]:
    """Return values over those of the same rounds in another sequence."""
    return [value / base for value, base in zip(values, to, strict=True)]


def rates(amount: float, *, seconds: Sequence[float]) -> list[float]:
    """Return an amount per second, for each time."""
    return [amount / each for each in seconds]


def spread(values: Sequence[float], *, scale: float = 1.0, digits: int = 2) -> str:
    """Return median, smallest and largest, multiplied by a scale (1e3 turns seconds into ms)."""
    median = scale * statistics.median(values)
    return f"{median:.{digits}f} ({scale * min(values):.{digits}f} to {scale * max(values):.{digits}f})"


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95% confidence interval of the median, by bootstrap; the same values give the same interval."""
    generator = random.Random(1)  # noqa: S311 (no secrets here)
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    return medians[int(0.025 * _RESAMPLES)], medians[int(0.975 * _RESAMPLES)]


def markdown_table(head: Sequence[str], *, rows: Sequence[Sequence[str]]) -> str:
    """Return a table with aligned columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = [f"{'-' * (width - 1)}:" for width in widths]
    rule[0] = "-" * widths[0]
    columns = [f"{{:>{width}}}" for width in widths]
    columns[0] = f"{{:<{widths[0]}}}"
    line = f"| {' | '.join(columns)} |"
    return "\n".join(line.format(*row) for row in (head, rule, *rows))
