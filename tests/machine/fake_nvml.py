"""Fake of the NVIDIA driver."""

# ruff: noqa: ARG002, N802 (NVML's own names and signatures)

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

GIB = 2**30
H100_NAME = "NVIDIA H100 80GB HBM3"


@dataclass(kw_only=True)
class FakeNvml:
    """Driver of some GPUs; calls named in ``errors`` raise NVML's own errors."""

    names: Sequence[str] = (H100_NAME,) * 2
    memory_bytes: int = 80 * GIB
    errors: Mapping[str, type[Exception]] = field(default_factory=dict)
    mig: bool = False
    num_open: int = 0
    num_links: int = 0
    level: int = pynvml.NVML_TOPOLOGY_SYSTEM
    sm_clocks_mhz: dict[int, int] = field(default_factory=dict)
    throttle_reasons: int = 0
    memory_errors: int = 0
    xids: list[int] = field(default_factory=list)
    processes: dict[int, int | None] = field(default_factory=dict)
    event_sets: int = 0
    millijoules: dict[int, list[int]] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        return getattr(pynvml, name)  # constants and error classes

    def _fail(self, name: str) -> None:
        if name in self.errors:
            raise self.errors[name]

    def nvmlInit(self) -> None:
        self._fail("nvmlInit")
        self.num_open += 1

    def nvmlShutdown(self) -> None:
        self.num_open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        self._fail("nvmlSystemGetDriverVersion")
        return "570.86.15"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return self.names[handle]

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}aaaa-bbbb"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        assert handle < len(self.names)
        self._fail("nvmlDeviceGetMemoryInfo")
        return SimpleNamespace(total=self.memory_bytes)

    def nvmlDeviceGetMigMode(self, handle: int) -> tuple[int, int]:
        assert handle < len(self.names)
        self._fail("nvmlDeviceGetMigMode")
        return (pynvml.NVML_DEVICE_MIG_ENABLE, 0) if self.mig else (pynvml.NVML_DEVICE_MIG_DISABLE, 0)

    def nvmlDeviceGetNvLinkState(self, handle: int, link: int) -> int:
        if link >= self.num_links:
            raise pynvml.NVMLError_InvalidArgument
        return int(pynvml.NVML_FEATURE_ENABLED)

    def nvmlDeviceGetTopologyCommonAncestor(self, one: int, other: int) -> int:
        return self.level

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:
        return 700_000

    def nvmlDeviceGetMaxClockInfo(self, handle: int, kind: int) -> int:
        return 1980 if kind == pynvml.NVML_CLOCK_SM else 2619

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:
        return self.sm_clocks_mhz.get(handle, 1980) if kind == pynvml.NVML_CLOCK_SM else 2619

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return 61

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return 650_500

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        self._fail("nvmlDeviceGetTotalEnergyConsumption")
        values = self.millijoules.get(handle, [0])
        return values.pop(0) if len(values) > 1 else values[0]

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:
        self._fail("nvmlDeviceGetCurrentClocksThrottleReasons")
        return self.throttle_reasons

    def nvmlDeviceGetTotalEccErrors(self, handle: int, kind: int, since: int) -> int:
        self._fail("nvmlDeviceGetTotalEccErrors")
        return self.memory_errors

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid) for pid, gpu in self.processes.items() if gpu == handle]

    def nvmlEventSetCreate(self) -> str:
        self._fail("nvmlEventSetCreate")
        self.event_sets += 1
        return "events"

    def nvmlEventSetFree(self, events: str) -> None:
        self.event_sets -= 1

    def nvmlDeviceRegisterEvents(self, handle: int, kind: int, events: str) -> None:
        self._fail("nvmlDeviceRegisterEvents")

    def nvmlEventSetWait_v2(self, events: str, timeout_ms: int) -> SimpleNamespace:
        if not self.xids:
            raise pynvml.NVMLError_Timeout
        return SimpleNamespace(eventData=self.xids.pop(0))


def install(monkeypatch: pytest.MonkeyPatch, fake: FakeNvml, *, visible: str | None = None) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
