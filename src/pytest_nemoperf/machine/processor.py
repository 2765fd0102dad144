"""Processor of this machine: model, topology, settings, and the cores that this process may use."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from pytest_nemoperf.errors import plural

_ROOT = Path("/")
_CPUS = "sys/devices/system/cpu"
_PACKAGE = "topology/physical_package_id"
IMAGE_VARIABLES = ("NVIDIA_PYTORCH_VERSION", "NVIDIA_BUILD_ID", "APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")
_THROTTLED_UNITS_SEC: Mapping[str, float] = MappingProxyType({"throttled_usec": 1e-6, "throttled_time": 1e-9})
"""Units of counts in ``cpu.stat``: control groups version 2, version 1 (kernel, Documentation/scheduler/sched-bwc)."""


def cpu_model(*, root: Path = _ROOT) -> str:
    """Return the processor's name, or its architecture if it has none; ``root`` is the folder of ``proc``."""
    for line in _lines(root / "proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip() or platform.machine()
    return platform.machine()


def available_cores(*, root: Path = _ROOT, affinity: int | None = None) -> int:
    """Return the number of cores that this process may keep busy, by affinity and quotas of its control groups.

    Args:
        root: Folder of ``proc`` and ``sys``.
        affinity: Number of cores that it may run on; None for the system's answer.
    """
    cores = len(os.sched_getaffinity(0)) if affinity is None else affinity
    for quota in _cpu_quotas(root):
        cores = min(cores, math.ceil(quota))
    return max(1, cores)


def cpu_topology(*, root: Path = _ROOT) -> str:
    """Return the numbers of sockets and NUMA nodes, e.g. ``2 sockets, 4 NUMA nodes``; unknown ones count as 1."""
    sockets = {_first_line(path / _PACKAGE) for path in (root / _CPUS).glob("cpu[0-9]*")} - {""}
    nodes = list((root / "sys/devices/system/node").glob("node[0-9]*"))
    return f"{_counted(len(sockets), 'socket')}, {_counted(len(nodes), 'NUMA node')}"


def host_settings(*, root: Path = _ROOT, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return settings that change the speed of the same processor: governor, simultaneous threads, container.

    Args:
        root: Folder of ``sys`` and of the files that mark containers.
        environ: Environment variables of this process.
    """
    settings = {
        "cpu.governor": _first_line(root / _CPUS / "cpu0/cpufreq/scaling_governor"),
        "cpu.smt": _first_line(root / _CPUS / "smt/active"),
        "container": ", ".join(_container(root, environ=environ)),
    }
    return {name: value for name, value in settings.items() if value}


def throttled_sec(*, root: Path = _ROOT) -> dict[str, float]:
    """Return seconds over all cores during a quota's stops of this process's control groups, by folder.

    Groups without a quota are left out. Each count begins with its group, so only differences can be compared.
    """
    seconds: dict[str, float] = {}
    for folder in _groups(root):
        for line in _lines(folder / "cpu.stat"):
            name, _, value = line.partition(" ")
            if name in _THROTTLED_UNITS_SEC:
                seconds[str(folder)] = int(value) * _THROTTLED_UNITS_SEC[name]
    return seconds


def _container(root: Path, *, environ: Mapping[str, str]) -> Iterator[str]:
    for mark, name in ((".dockerenv", "docker"), ("run/.containerenv", "podman")):
        if (root / mark).exists():
            yield name
    if "KUBERNETES_SERVICE_HOST" in environ:
        yield "kubernetes"
    for name in IMAGE_VARIABLES:
        if name in environ:
            yield f"{name}={environ[name]}"


def _counted(number: int, noun: str) -> str:
    number = max(1, number)
    return f"{number} {plural(noun, number=number)}"


def _first_line(path: Path) -> str:
    lines = _lines(path)
    return lines[0].strip() if lines else ""


def _groups(root: Path) -> Iterator[Path]:
    """Yield folders of this process's control groups: version 2 with its ancestors, then a container's version 1."""
    groups = root / "sys/fs/cgroup"
    folder = groups
    for line in _lines(root / "proc/self/cgroup"):
        if line.startswith("0::"):
            folder = groups / line[3:].lstrip("/")
            break
    while folder.is_relative_to(groups):
        yield folder
        folder = folder.parent
    yield groups / "cpu"


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Yield the quotas of all control groups, in cores."""
    for folder in _groups(root):
        for line in _lines(folder / "cpu.max"):
            quota, _, period = line.partition(" ")
            if quota != "max":
                yield int(quota) / int(period)
        quota = _first_line(folder / "cpu.cfs_quota_us")
        period = _first_line(folder / "cpu.cfs_period_us")
        if quota and period and int(quota) > 0:
            yield int(quota) / int(period)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
