"""Device and host of a rank: threads, memory, names."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
from pathlib import Path

import torch
import torch.distributed as dist

from pytest_nemoperf.records.fingerprint import watched_variables
from pytest_nemoperf.records.tracers import TRACERS, active_tracers

_M_TRIM_THRESHOLD = -1  # malloc.h
_M_MMAP_MAX = -4  # malloc.h
_NEVER_TRIM = -1  # mallopt(3)
_NO_BLOCKS = 0  # mallopt(3)


def available_cores() -> int:
    """Return the number of cores this process may use, by affinity and cgroup quota, at least 1."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):  # no cgroup v2
        return cores
    if quota == "max":
        return cores
    return max(1, min(cores, int(quota) // int(period)))


def tune_host_memory() -> None:
    """Let the C library keep the memory this process frees; glibc only.

    By default glibc gives large blocks back to the kernel at once, so that every activation is faulted in
    page by page again: up to half the time of a matrix product, and noise.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, _NO_BLOCKS)
        mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM)


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak that peak_memory_bytes returns."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM, see proc(5)
    except OSError:
        return  # not Linux, or not allowed: the peak counts from the start of the process


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak since reset_peak_memory.

    On CUDA that of torch's allocator. On CPU the resident set of the whole process: imports, weights and
    activations; since the start of the process if the kernel has no resettable mark.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # no procfs
    unit = 1 if platform.system() == "Darwin" else 1024  # bytes or KiB, see getrusage(2)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_name(device: torch.device) -> str:
    """Return the device's name as the driver or, for a CPU, the kernel reports it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # no procfs
    return platform.processor() or platform.machine()


def environment(device: torch.device) -> dict[str, str]:
    """Return versions, settings, environment variables and tracers that affect this rank's speed."""
    facts = {
        "torch": str(torch.__version__),
        "distributed_backend": dist.get_backend(),
        "num_threads": str(torch.get_num_threads()),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        facts["cuda"] = str(torch.version.cuda)
        facts["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]  # torch leaves it
        facts["cuda_capability"] = f"{major}.{minor}"
        facts["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]  # torch leaves it
    else:
        facts["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    if tracers := active_tracers():
        facts[TRACERS] = " and ".join(tracers)
    return facts | watched_variables(os.environ)
