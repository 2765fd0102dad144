"""What the benchmarks share: the machine they ran on, medians with their spread, and tables for people."""

from __future__ import annotations

import os
import platform
import random
import statistics
from collections.abc import Sequence
from importlib import metadata

from pytest_nemoperf.processor import available_cores, cpu_model

_RESAMPLES = 2000


def machine_line() -> str:
    """Return processor, cores, versions and how busy the machine is: the load is part of every figure."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "pytest"))
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    return (
        f"{cpu_model()}, {available_cores()} cores, Python {platform.python_version()}, {versions}; "
        f"load average at the end {load}"
    )


def spread(values: Sequence[float], *, digits: int = 2) -> str:
    """Return median, smallest and largest."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95% confidence interval of the median, by bootstrap; the same values give the same interval."""
    generator = random.Random(1)  # noqa: S311 (no secrets here)
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    return medians[int(0.025 * _RESAMPLES)], medians[int(0.975 * _RESAMPLES)]


def markdown_table(head: Sequence[str], *, rows: Sequence[Sequence[str]]) -> str:
    """Return a table with its columns aligned: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in (head, rule, *rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
