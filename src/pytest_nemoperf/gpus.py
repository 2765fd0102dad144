"""NVIDIA GPUs as their driver tells of them: which are visible, how they are linked, how they are set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

_MW_PER_W = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, or a slice of one.

    Attributes:
        name: As the driver calls it.
        memory_bytes: Of its own.
        uuid: Of the driver.
        handle: What the driver is asked by; None for a slice, which has no clocks and links of its own.
    """

    name: str
    memory_bytes: int
    uuid: str
    handle: Any = None


def installed_gpus(nvml: Any) -> list[Gpu]:
    """Return every GPU of the machine in the driver's order.

    Raises:
        NVMLError: If the driver does not answer.
    """
    return [_ask_gpu(nvml, index=index) for index in range(nvml.nvmlDeviceGetCount())]


def visible_gpus(installed: Sequence[Gpu], *, selection: str | None) -> Iterator[Gpu]:
    """Yield what CUDA shows: the first entry that names no GPU hides itself and all that follow.

    Indices count as the driver does; with GPUs of several kinds CUDA does so too only under
    CUDA_DEVICE_ORDER=PCI_BUS_ID.

    Args:
        installed: From installed_gpus.
        selection: Value of CUDA_VISIBLE_DEVICES, None where it is not set.
    """
    if selection is None:
        yield from installed
        return
    for entry in (part.strip() for part in selection.split(",")):
        if entry.startswith("MIG-"):
            yield Gpu(name=entry, memory_bytes=0, uuid=entry)
            continue
        if entry.isdecimal():
            chosen = installed[int(entry) : int(entry) + 1]
        else:
            chosen = [gpu for gpu in installed if entry.startswith("GPU-") and gpu.uuid.startswith(entry)]
        if len(chosen) != 1:
            return
        yield chosen[0]


def topology_of(nvml: Any, *, gpus: Sequence[Gpu]) -> str:
    """Return how these GPUs are linked, in the words of ``nvidia-smi topo``; empty for one GPU or if not told.

    ``NV18`` counts the NVLinks of the GPU with fewest; without any it is the kind of the longest way between two:
    ``PIX`` (one PCIe bridge), ``PXB`` (several), ``PHB`` (the processor's bridge), ``NODE``, ``SYS`` (between sockets).
    """
    handles = [gpu.handle for gpu in gpus if gpu.handle is not None]
    if len(handles) < 2:  # noqa: PLR2004 (a link has two ends)
        return ""
    num_links = min(_num_nvlinks(nvml, handle) for handle in handles)
    if num_links:
        return f"NV{num_links}"
    words = {
        nvml.NVML_TOPOLOGY_INTERNAL: "PSB",
        nvml.NVML_TOPOLOGY_SINGLE: "PIX",
        nvml.NVML_TOPOLOGY_MULTIPLE: "PXB",
        nvml.NVML_TOPOLOGY_HOSTBRIDGE: "PHB",
        nvml.NVML_TOPOLOGY_NODE: "NODE",
        nvml.NVML_TOPOLOGY_SYSTEM: "SYS",
    }
    levels = [
        ask(nvml, nvml.nvmlDeviceGetTopologyCommonAncestor, one, other) for one, other in combinations(handles, 2)
    ]
    known = [level for level in levels if level is not None]
    return words.get(max(known), "") if known else ""


def settings_of(nvml: Any, *, gpus: Sequence[Gpu]) -> dict[str, str]:
    """Return what an administrator may have set: power cap and clocks; values of GPUs that differ are all there."""
    facts: dict[str, list[str]] = {}
    for gpu in gpus:
        if gpu.handle is None:
            continue
        cap = ask(nvml, nvml.nvmlDeviceGetEnforcedPowerLimit, gpu.handle)
        clocks = {
            "gpu.max_sm_clock_mhz": ask(nvml, nvml.nvmlDeviceGetMaxClockInfo, gpu.handle, nvml.NVML_CLOCK_SM),
            "gpu.max_memory_clock_mhz": ask(nvml, nvml.nvmlDeviceGetMaxClockInfo, gpu.handle, nvml.NVML_CLOCK_MEM),
            "gpu.application_sm_clock_mhz": ask(
                nvml, nvml.nvmlDeviceGetApplicationsClock, gpu.handle, nvml.NVML_CLOCK_SM
            ),
            "gpu.power_cap_w": None if cap is None else round(cap / _MW_PER_W),
        }
        for name, value in clocks.items():
            if value is not None:
                facts.setdefault(name, []).append(str(value))
    return {name: ", ".join(dict.fromkeys(values)) for name, values in facts.items()}


def ask(nvml: Any, call: Callable[..., Any], *arguments: Any) -> Any:
    """Return what the driver answers, or None where this GPU or driver does not know it."""
    try:
        return call(*arguments)
    except nvml.NVMLError:
        return None


def _num_nvlinks(nvml: Any, handle: Any) -> int:
    states = (ask(nvml, nvml.nvmlDeviceGetNvLinkState, handle, link) for link in range(nvml.NVML_NVLINK_MAX_LINKS))
    return sum(1 for state in states if state == nvml.NVML_FEATURE_ENABLED)


def _ask_gpu(nvml: Any, *, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = nvml.nvmlDeviceGetName(handle)
    try:
        mode, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # GPUs that can't be cut say so by an error
        mode = nvml.NVML_DEVICE_MIG_DISABLE
    if mode == nvml.NVML_DEVICE_MIG_ENABLE:
        name += " (MIG)"  # a slice is not the GPU of the catalog
    try:
        memory_bytes = nvml.nvmlDeviceGetMemoryInfo(handle).total
    except nvml.NVMLError_NotSupported:  # GPUs that share the processor's memory
        memory_bytes = 0
    return Gpu(name=name, memory_bytes=memory_bytes, uuid=nvml.nvmlDeviceGetUUID(handle), handle=handle)
