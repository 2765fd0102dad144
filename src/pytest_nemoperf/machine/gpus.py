"""NVIDIA GPUs as their driver reports them: visibility, links and settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from pytest_nemoperf.bounds import whole_number

_MW_PER_W = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, or a slice of one.

    Attributes:
        name: Name in the driver.
        memory_bytes: Memory of its own.
        uuid: Identifier in the driver.
        handle: NVML handle; None for a slice, which has no clocks and links of its own.
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
    """Yield the GPUs that CUDA shows: an entry that names no GPU hides itself and all further entries.

    Indices are the driver's; with GPUs of several kinds they are CUDA's only under CUDA_DEVICE_ORDER=PCI_BUS_ID.

    Args:
        installed: All GPUs, from installed_gpus.
        selection: Value of CUDA_VISIBLE_DEVICES, None if it is not set.
    """
    if selection is None:
        yield from installed
        return
    for part in selection.split(","):
        entry = part.strip()
        if entry.startswith("MIG-"):
            yield Gpu(name=entry, memory_bytes=0, uuid=entry)
            continue
        chosen: Sequence[Gpu] = ()
        index = whole_number(entry)
        if index is not None:
            chosen = installed[index : index + 1]
        elif entry.startswith("GPU-"):
            chosen = [gpu for gpu in installed if gpu.uuid.startswith(entry)]
        if len(chosen) != 1:
            return
        yield chosen[0]


def topology_of(nvml: Any, *, gpus: Sequence[Gpu]) -> str:
    """Return the links between GPUs in the words of ``nvidia-smi topo``; empty for one GPU or if unknown.

    ``NV18`` is the number of NVLinks of the GPU with fewest. Without NVLinks it is the longest path between two GPUs:
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
    levels: list[int] = []
    for one, other in combinations(handles, 2):
        level = ask(nvml, nvml.nvmlDeviceGetTopologyCommonAncestor, one, other)
        if level is not None:
            levels.append(level)
    if not levels:
        return ""
    return words.get(max(levels), "")


def settings_of(nvml: Any, *, gpus: Sequence[Gpu]) -> dict[str, str]:
    """Return the settings of an administrator, power cap and clocks, by name; different values are joined by commas."""
    facts: dict[str, dict[str, None]] = {}  # the inner ones are ordered sets
    for gpu in gpus:
        if gpu.handle is None:
            continue
        figures = {
            "gpu.max_sm_clock_mhz": ask(nvml, nvml.nvmlDeviceGetMaxClockInfo, gpu.handle, nvml.NVML_CLOCK_SM),
            "gpu.max_memory_clock_mhz": ask(nvml, nvml.nvmlDeviceGetMaxClockInfo, gpu.handle, nvml.NVML_CLOCK_MEM),
            "gpu.application_sm_clock_mhz": ask(
                nvml, nvml.nvmlDeviceGetApplicationsClock, gpu.handle, nvml.NVML_CLOCK_SM
            ),
        }
        cap = ask(nvml, nvml.nvmlDeviceGetEnforcedPowerLimit, gpu.handle)
        if cap is not None:
            figures["gpu.power_cap_w"] = round(cap / _MW_PER_W)
        for name, value in figures.items():
            if value is not None:
                facts.setdefault(name, {})[str(value)] = None
    return {name: ", ".join(values) for name, values in facts.items()}


def ask(nvml: Any, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call the driver; return its answer, or None if the GPU or driver does not support the call."""
    try:
        return call(*arguments)
    except nvml.NVMLError:
        return None


def _num_nvlinks(nvml: Any, handle: Any) -> int:
    num_links = 0
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        if ask(nvml, nvml.nvmlDeviceGetNvLinkState, handle, link) == nvml.NVML_FEATURE_ENABLED:
            num_links += 1
    return num_links


def _ask_gpu(nvml: Any, *, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = nvml.nvmlDeviceGetName(handle)
    try:
        mode, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # GPUs without slices raise an error
        mode = nvml.NVML_DEVICE_MIG_DISABLE
    if mode == nvml.NVML_DEVICE_MIG_ENABLE:
        name += " (MIG)"  # a slice is not the GPU of the catalog
    try:
        memory_bytes = nvml.nvmlDeviceGetMemoryInfo(handle).total
    except nvml.NVMLError_NotSupported:  # GPUs that share the processor's memory
        memory_bytes = 0
    return Gpu(name=name, memory_bytes=memory_bytes, uuid=nvml.nvmlDeviceGetUUID(handle), handle=handle)
