"""Rank, clock and memory of a training script, read from the modules that it has imported."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, Final

RANK_VARIABLES: Final = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
"""Variables in which launchers tell a process its rank; the first that is set counts, torchrun's before Slurm's."""
_STATUS: Final = Path("/proc/self/status")


def current_rank() -> int:
    """Return the rank of this process; 0 if it is the only one."""
    distributed = _loaded("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    for name in RANK_VARIABLES:
        value = os.environ.get(name, "")
        if value.isdecimal():
            return int(value)
    return 0


def _loaded(module: str) -> Any:
    """Return a module that the script has imported, or None; none is imported for a perf run."""
    return sys.modules.get(module)


def _cuda() -> Any:
    """Return ``torch.cuda`` if the script uses it, else None."""
    cuda = _loaded("torch.cuda")
    return cuda if cuda is not None and cuda.is_initialized() else None


def synchronize() -> None:
    """Wait for the device; on a CPU work is done when a call returns."""
    cuda = _cuda()
    if cuda is not None:
        cuda.synchronize()


def device_mark() -> Any:
    """Return this moment: an event on the current CUDA stream, or the clock."""
    cuda = _cuda()
    if cuda is None:
        return time.perf_counter()
    event = cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(start: Any, end: Any) -> float:
    """Return seconds between two marks; 0 if CUDA was first used between them."""
    if isinstance(start, float):
        return end - start if isinstance(end, float) else 0.0
    return float(start.elapsed_time(end)) / 1e3  # from ms


def largest_memory_bytes(device: str) -> int | None:
    """Return this process's largest memory so far; None if it is not known.

    On CUDA that of torch's allocator, on a CPU the resident set of the whole process.
    """
    if device == "cuda":
        cuda = _cuda()
        return None if cuda is None else int(cuda.max_memory_allocated())
    try:
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):  # that of getrusage(2) may be the one of the process that started this one
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # no procfs
    return None
