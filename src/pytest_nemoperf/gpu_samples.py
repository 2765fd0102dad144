"""Clocks, heat, power, errors and other users of the GPUs, sampled through the driver from outside the ranks."""

from __future__ import annotations

import importlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from pytest_nemoperf.gpus import Gpu, ask, installed_gpus, visible_gpus
from pytest_nemoperf.health import GpuHealth
from pytest_nemoperf.host_samples import span_of

_MW_PER_W = 1000
_PROCESS_IDS = Path("/proc/self/ns/pid")
_OF_THE_HOST = "pid:[4026531836]"
"""Linux numbers the first namespace of process ids so (PROC_PID_INIT_INO, include/linux/proc_ns.h)."""
_MOST_EVENTS = 64
"""A broken GPU may report without end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSample:
    """One GPU at one moment; None is what the driver does not tell.

    Attributes:
        sm_clock_mhz: Of the processors.
        memory_clock_mhz: Of the memory.
        temperature_c: Degrees Celsius.
        power_w: Drawn.
        reasons: For clocks below the highest, in words.
    """

    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    temperature_c: int | None
    power_w: float | None
    reasons: frozenset[str]


class GpuSampler:
    """Asks the driver while ranks run; to be made before they start, and closed after the last question.

    Where the driver can't be asked there are no GPUs.

    Args:
        num_gpus: How many of the visible ones the ranks use.
    """

    def __init__(self, *, num_gpus: int) -> None:
        self._nvml: Any = importlib.import_module("pynvml")
        self._gpus: list[Gpu] = []
        self._is_open = ask(self._nvml, self._open) is True
        if not self._is_open:
            return
        selection = os.environ.get("CUDA_VISIBLE_DEVICES")
        self._gpus = list(visible_gpus(ask(self._nvml, installed_gpus, self._nvml) or [], selection=selection))
        self._gpus = self._gpus[:num_gpus]
        self._errors_before = [self._num_errors(gpu) for gpu in self._gpus]
        self._processes_before = [self._processes(gpu) for gpu in self._gpus]
        self._events = [self._event_set(gpu) for gpu in self._gpus]

    def __enter__(self) -> GpuSampler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_open:
            for events in self._events:
                if events is not None:
                    ask(self._nvml, self._nvml.nvmlEventSetFree, events)
            self._nvml.nvmlShutdown()

    def sample(self) -> tuple[GpuSample, ...]:
        """Return what every GPU does now."""
        return tuple(self._sample(gpu) for gpu in self._gpus)

    def health(self, samples: Sequence[Sequence[GpuSample]], *, own_pids: Collection[int]) -> tuple[GpuHealth, ...]:
        """Return what some samples, and the time since this was made, say of each GPU.

        Args:
            samples: Of each moment that counts.
            own_pids: Processes that are no strangers.
        """
        return tuple(
            self._health(number, samples=[moment[number] for moment in samples], own_pids=own_pids)
            for number in range(len(self._gpus))
        )

    def _open(self) -> bool:
        self._nvml.nvmlInit()
        return True

    def _sample(self, gpu: Gpu) -> GpuSample:
        nvml = self._nvml
        power = self._ask(nvml.nvmlDeviceGetPowerUsage, gpu)
        return GpuSample(
            sm_clock_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, gpu, nvml.NVML_CLOCK_SM),
            memory_clock_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, gpu, nvml.NVML_CLOCK_MEM),
            temperature_c=self._ask(nvml.nvmlDeviceGetTemperature, gpu, nvml.NVML_TEMPERATURE_GPU),
            power_w=None if power is None else power / _MW_PER_W,
            reasons=_reasons(self._ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, gpu) or 0, nvml=nvml),
        )

    def _health(self, number: int, *, samples: Sequence[GpuSample], own_pids: Collection[int]) -> GpuHealth:
        gpu = self._gpus[number]
        cap = self._ask(self._nvml.nvmlDeviceGetEnforcedPowerLimit, gpu)
        before, after = self._processes_before[number], self._processes(gpu)
        names = dict.fromkeys(reason for sample in samples for reason in sorted(sample.reasons))
        figures: dict[str, Any] = {
            name: span_of([value for sample in samples if (value := getattr(sample, name)) is not None])
            for name in ("sm_clock_mhz", "memory_clock_mhz", "temperature_c", "power_w")
        }
        return GpuHealth(
            gpu=number,
            **figures,
            power_cap_w=None if cap is None else cap / _MW_PER_W,
            reasons={name: sum(name in sample.reasons for sample in samples) / len(samples) for name in names},
            num_memory_errors=max(0, self._num_errors(gpu) - self._errors_before[number]),
            xids=tuple(self._xids(self._events[number])),
            foreign_processes=tuple(before[pid] for pid in sorted({*before} & {*after} - {*own_pids})),
        )

    def _ask(self, call: Any, gpu: Gpu, *arguments: Any) -> Any:
        return None if gpu.handle is None else ask(self._nvml, call, gpu.handle, *arguments)

    def _num_errors(self, gpu: Gpu) -> int:
        nvml = self._nvml
        kind, since = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_AGGREGATE_ECC
        return int(self._ask(nvml.nvmlDeviceGetTotalEccErrors, gpu, kind, since) or 0)

    def _processes(self, gpu: Gpu) -> Mapping[int, str]:
        """Return the processes that compute on a GPU, by id; none where this session can't recognise its own.

        In a container with process ids of its own the driver may count by the host's: the context that this very
        process may hold since an earlier test would look like a stranger.
        """
        if not _has_ids_of_the_host():
            return {}
        found = self._ask(self._nvml.nvmlDeviceGetComputeRunningProcesses, gpu) or []
        return {each.pid: _process_name(each.pid) for each in found}

    def _event_set(self, gpu: Gpu) -> Any:
        """Return what collects a GPU's Xid errors from now on; None where that is not supported."""
        nvml = self._nvml
        if gpu.handle is None:
            return None
        events = ask(nvml, nvml.nvmlEventSetCreate)
        if events is None:
            return None
        try:
            nvml.nvmlDeviceRegisterEvents(gpu.handle, nvml.nvmlEventTypeXidCriticalError, events)
        except nvml.NVMLError:
            ask(nvml, nvml.nvmlEventSetFree, events)
            return None
        return events

    def _xids(self, events: Any) -> list[int]:
        """Return the errors that came so far, without waiting for more: then the driver says that time is up."""
        found: list[int] = []
        while events is not None and len(found) < _MOST_EVENTS:
            event = ask(self._nvml, self._nvml.nvmlEventSetWait_v2, events, 0)
            if event is None:
                break
            found.append(int(event.eventData))
        return found


def _reasons(bits: int, *, nvml: Any) -> frozenset[str]:
    known = {
        "idle": nvml.nvmlClocksThrottleReasonGpuIdle,
        "application_clocks": nvml.nvmlClocksThrottleReasonApplicationsClocksSetting,
        "sw_power_cap": nvml.nvmlClocksThrottleReasonSwPowerCap,
        "hw_slowdown": nvml.nvmlClocksThrottleReasonHwSlowdown,
        "sync_boost": nvml.nvmlClocksThrottleReasonSyncBoost,
        "sw_thermal_slowdown": nvml.nvmlClocksThrottleReasonSwThermalSlowdown,
        "hw_thermal_slowdown": nvml.nvmlClocksThrottleReasonHwThermalSlowdown,
        "hw_power_brake": nvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
        "display_clock": nvml.nvmlClocksThrottleReasonDisplayClockSetting,
    }
    return frozenset(name for name, bit in known.items() if bits & bit)


def _has_ids_of_the_host() -> bool:
    """Tell whether this process's id is the host's; where the system does not say, it may be another."""
    try:
        return str(_PROCESS_IDS.readlink()) == _OF_THE_HOST
    except OSError:
        return False


def _process_name(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).name()} (process {pid})"
    except psutil.Error:  # of another container, or of another user
        return f"process {pid}"
