"""Which processor this machine has, and how much of it this process may use."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from pytest_nemoperf.plurals import plural

_ROOT = Path("/")
_CPUS = "sys/devices/system/cpu"
_PACKAGE = "topology/physical_package_id"
_IMAGE_VARIABLES = ("NVIDIA_PYTORCH_VERSION", "NVIDIA_BUILD_ID", "APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")
_THROTTLED_UNITS_SEC: Mapping[str, float] = MappingProxyType({"throttled_usec": 1e-6, "throttled_time": 1e-9})
"""Counts of ``cpu.stat``: of control groups version 2, and of version 1 (kernel, Documentation/scheduler/sched-bwc)."""


def cpu_model(*, root: Path = _ROOT) -> str:
    """Return the processor's name, or at least its architecture; ``root`` is where ``/proc`` is found."""
    fields = (line.partition(":") for line in _lines(root / "proc/cpuinfo"))
    names = (value.strip() for key, _, value in fields if key.strip() == "model name")
    return next(names, "") or platform.machine()


def available_cores(*, root: Path = _ROOT, affinity: int | None = None) -> int:
    """Return how many cores this process may keep busy, by affinity and by the quotas of its control groups.

    Args:
        root: Where ``/proc`` and ``/sys`` are found.
        affinity: How many it may run on; None asks the system.
    """
    affinity = len(os.sched_getaffinity(0)) if affinity is None else affinity
    return max(1, min([affinity, *(math.ceil(quota) for quota in _cpu_quotas(root))]))


def cpu_topology(*, root: Path = _ROOT) -> str:
    """Return how many sockets and NUMA nodes there are, e.g. ``2 sockets, 4 NUMA nodes``; those not told count as 1."""
    packages = {line for path in (root / _CPUS).glob("cpu[0-9]*") for line in _lines(path / _PACKAGE)[:1]}
    nodes = list((root / "sys/devices/system/node").glob("node[0-9]*"))
    return f"{_counted(len(packages), 'socket')}, {_counted(len(nodes), 'NUMA node')}"


def host_settings(*, root: Path = _ROOT, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what may make the same processor faster or slower: its governor, its threads, the container.

    Args:
        root: Where ``/sys`` and the marks of containers are found.
        environ: Variables of this process.
    """
    facts = {
        "cpu.governor": _first_line(root / _CPUS / "cpu0/cpufreq/scaling_governor"),
        "cpu.smt": _first_line(root / _CPUS / "smt/active"),
        "container": ", ".join(_container(root, environ=environ)),
    }
    return {name: value for name, value in facts.items() if value}


def throttled_sec(*, root: Path = _ROOT) -> dict[str, float]:
    """Return for how long a quota has stopped each of this process's control groups, over all cores, by folder.

    Groups without a quota are left out. The counts are since each group began, so only differences compare.
    """
    found = {}
    for folder in _groups(root):
        for line in _lines(folder / "cpu.stat"):
            name, _, value = line.partition(" ")
            if name in _THROTTLED_UNITS_SEC:
                found[str(folder)] = int(value) * _THROTTLED_UNITS_SEC[name]
    return found


def _container(root: Path, *, environ: Mapping[str, str]) -> Iterator[str]:
    for mark, name in ((".dockerenv", "docker"), ("run/.containerenv", "podman")):
        if (root / mark).exists():
            yield name
    if "KUBERNETES_SERVICE_HOST" in environ:
        yield "kubernetes"
    for name in _IMAGE_VARIABLES:
        if name in environ:
            yield f"{name}={environ[name]}"


def _counted(number: int, noun: str) -> str:
    number = max(1, number)
    return f"{number} {plural(noun, number=number)}"


def _first_line(path: Path) -> str:
    return next(iter(_lines(path)), "").strip()


def _groups(root: Path) -> Iterator[Path]:
    """Yield this process's control group: of version 2 with its ancestors, then a container's of version 1."""
    groups = root / "sys/fs/cgroup"
    own = next((line[3:] for line in _lines(root / "proc/self/cgroup") if line.startswith("0::")), "/")
    folder = groups / own.lstrip("/")
    yield from (each for each in (folder, *folder.parents) if each.is_relative_to(groups))
    yield groups / "cpu"


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Yield quotas in cores: of the version 2 group and its ancestors, and of a container's version 1 group."""
    for folder in _groups(root):
        for line in _lines(folder / "cpu.max"):
            quota, _, period = line.partition(" ")
            if quota != "max":
                yield int(quota) / int(period)
        quotas, periods = (_lines(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quotas and periods and int(quotas[0]) > 0:
            yield int(quotas[0]) / int(periods[0])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
