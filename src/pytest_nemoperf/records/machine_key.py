"""Key of a machine: the properties that two machines share if their measurements of a case compare. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_DEVICE: Final = "device"
_GPUS: Final = "gpus"
_TOPOLOGY: Final = "topology"


def is_gpu_key(key: Mapping[str, str | int]) -> bool:
    """Return True if a key is of a machine with GPUs: it names them."""
    return _DEVICE in key


def key_of_case(key: Mapping[str, str | int], *, num_gpus: int) -> dict[str, str | int]:
    """Return the part of a machine's key that a case of so many GPUs depends on.

    Links matter from two GPUs on. The number of GPUs of a host matters to a case of several hosts alone: it says how
    many of its GPUs share the network of one. A stored key may hold more: an older version wrote it, or it was stated.
    The key of a CPU machine is the same for every case.

    Args:
        key: Key of a machine, or of a case on it.
        num_gpus: GPUs of the case.
    """
    kept = dict(key)
    if not is_gpu_key(key):
        return kept
    if num_gpus == 1:
        kept.pop(_TOPOLOGY, None)
    gpus_of_host = key.get(_GPUS)
    if isinstance(gpus_of_host, int) and num_gpus <= gpus_of_host:
        del kept[_GPUS]
    return kept


def num_gpus_of(workload: Mapping[str, Any]) -> int:
    """Return the GPUs of a stored workload; 1 for one that names none: a benchmark test runs in one process.

    A workload without a number that makes sense, as of a torn file, is taken for one GPU's: its reader tells the fault.
    """
    layout = workload.get("layout")
    if not isinstance(layout, Mapping):
        return _count(workload.get("num_gpus"))
    num_gpus = _count(layout.get("gpus"))
    generation = layout.get("generation")
    if isinstance(generation, Mapping) and generation.get("is_colocated") is False:
        num_gpus += _count(generation.get("gpus"))
    return num_gpus


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 1
