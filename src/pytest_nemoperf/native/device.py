"""What a rank asks of its device and host: threads, memory, names."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
from pathlib import Path

import torch
import torch.distributed as dist

from pytest_nemoperf.fingerprint import watched_variables
from pytest_nemoperf.tracers import TRACERS, active_tracers

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_NEVER_TRIM, _NO_BLOCKS = -1, 0  # mallopt(3)


def available_cores() -> int:
    """Return how many cores this process may use, by affinity and cgroup quota, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):  # no cgroup v2
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def tune_host_memory() -> None:
    """Let the C library keep the memory this process frees; glibc alone, nothing to tune elsewhere.

    By default glibc gives large blocks back to the kernel at once, so that every activation is faulted in
    page by page again: up to half the time of a matrix product, and noise.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, _NO_BLOCKS)
        mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM)


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new peak: what peak_memory_bytes returns from now on counts from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM, see proc(5)
    except OSError:
        return  # not Linux, or not allowed: the peak since the start of the process stands


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak since reset_peak_memory.

    On CUDA what torch's allocator handed out. On CPU the resident set of the whole process: its imports,
    weights and activations; where the kernel has no resettable mark, since the start of the process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # no procfs
    unit = 1 if platform.system() == "Darwin" else 1024  # getrusage(2) differs
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_name(device: torch.device) -> str:
    """Return what the driver, or the kernel, calls the device."""
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
    """Return versions, settings, environment variables and tracers that decide how fast this rank is."""
    facts = {
        "torch": str(torch.__version__),
        "distributed_backend": dist.get_backend(),
        "num_threads": str(torch.get_num_threads()),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        facts["cuda"] = str(torch.version.cuda)
        facts["nccl"] = ".".join(str(part) for part in torch.cuda.nccl.version())  # type: ignore[no-untyped-call]  # torch leaves it
        facts["cuda_capability"] = f"{major}.{minor}"
        facts["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]  # torch leaves it
    else:
        facts["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    if tracers := active_tracers():
        facts[TRACERS] = " and ".join(tracers)
    return facts | watched_variables(os.environ)
