"""Which processor this machine has, and how much of it this process may use."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def cpu_model(*, root: Path = _ROOT) -> str:
    """Return the processor's name, or at least its architecture; ``root`` is where ``/proc`` is found."""
    fields = (line.partition(":") for line in _lines(root / "proc/cpuinfo"))
    names = (value.strip() for key, _, value in fields if key.strip() == "model name")
    return next(names, "") or platform.machine()


def available_cores(*, root: Path = _ROOT) -> int:
    """Return how many cores this process may keep busy, by affinity and by the quotas of its control groups.

    Args:
        root: Where ``/proc`` and ``/sys`` are found.
    """
    affinity = len(os.sched_getaffinity(0))
    return max(1, min([affinity, *(math.ceil(quota) for quota in _cpu_quotas(root))]))


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Yield quotas in cores: of the version 2 group and its ancestors, and of a container's version 1 group."""
    groups = root / "sys/fs/cgroup"
    own = next((line[3:] for line in _lines(root / "proc/self/cgroup") if line.startswith("0::")), "/")
    folder = groups / own.lstrip("/")
    for ancestor in (folder, *folder.parents):
        if not ancestor.is_relative_to(groups):
            break
        for line in _lines(ancestor / "cpu.max"):
            quota, _, period = line.partition(" ")
            if quota != "max":
                yield int(quota) / int(period)
    quotas, periods = (_lines(groups / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    if quotas and periods and int(quotas[0]) > 0:
        yield int(quotas[0]) / int(periods[0])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
