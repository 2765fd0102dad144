"""Clocks, temperature, power, errors and foreign processes of the GPUs, sampled through the driver."""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import psutil

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.machine.energy import NVML_PERIOD_SEC
from pytest_nemoperf.machine.gpus import Gpu, ask, installed_gpus, visible_gpus
from pytest_nemoperf.machine.host_samples import min_median_max
from pytest_nemoperf.records.health import GpuHealth

_MW_PER_W = 1000
_UJ_PER_MJ = 1000  # mJ: millijoules
_PROCESS_IDS = Path("/proc/self/ns/pid")
_HOST_NAMESPACE = "pid:[4026531836]"
"""Linux's number of the first namespace of process ids (PROC_PID_INIT_INO, include/linux/proc_ns.h)."""
_MAX_EVENTS = 64
"""Xid events that are read at most: a broken GPU may report errors without end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSample:
    """State of one GPU at one moment; None for values that the driver does not report.

    Attributes:
        sm_clock_mhz: Clock of the streaming multiprocessors.
        memory_clock_mhz: Clock of the memory.
        temperature_c: Temperature in degrees Celsius.
        power_w: Power draw.
        reasons: Names of the reasons for clocks below the maximum.
    """

    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    temperature_c: int | None
    power_w: float | None
    reasons: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """State of one GPU before the ranks start.

    Attributes:
        gpu: The GPU.
        num_errors: Uncorrected memory errors since the GPU was made.
        processes: Names of the processes that compute on it, by id.
        events: NVML event set that collects Xid errors from now on; None if not supported.
    """

    gpu: Gpu
    num_errors: int
    processes: Mapping[int, str]
    events: Any


class GpuSampler:
    """Queries the driver while ranks run; create it before they start.

    Without a driver that answers there are no GPUs.

    Args:
        num_gpus: Number of visible GPUs that the ranks use.
    """

    def __init__(self, *, num_gpus: int) -> None:
        self._nvml: Any = importlib.import_module("pynvml")
        self._starts: list[_Start] = []
        self._is_open = ask(self._nvml, self._open) is True
        if not self._is_open:
            return
        installed = ask(self._nvml, installed_gpus, self._nvml) or []
        visible = visible_gpus(installed, selection=os.environ.get("CUDA_VISIBLE_DEVICES"))
        for gpu in islice(visible, num_gpus):
            start = _Start(
                gpu=gpu,
                num_errors=self._num_errors(gpu),
                processes=self._processes(gpu),
                events=self._event_set(gpu),
            )
            self._starts.append(start)

    def __enter__(self) -> GpuSampler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_open:
            for start in self._starts:
                if start.events is not None:
                    ask(self._nvml, self._nvml.nvmlEventSetFree, start.events)
            self._nvml.nvmlShutdown()

    def sample(self) -> tuple[GpuSample, ...]:
        """Return the present state of every GPU."""
        return tuple(self._sample(start.gpu) for start in self._starts)

    @property
    def num_watched(self) -> int:
        """Number of GPUs that are watched; fewer than asked for if the driver knows fewer."""
        return len(self._starts)

    def millijoules(self) -> tuple[int | None, ...]:
        """Return the energy of each GPU since its driver was loaded; None without such a counter."""
        values: list[int | None] = []
        for start in self._starts:
            values.append(self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption, start.gpu))
        return tuple(values)

    def health(self, samples: Sequence[Sequence[GpuSample]], *, own_pids: Collection[int]) -> tuple[GpuHealth, ...]:
        """Return the health of each GPU: from samples, and from errors and processes since this was created.

        Args:
            samples: Samples that count, each of all GPUs.
            own_pids: Processes of this session.
        """
        health: list[GpuHealth] = []
        for number in range(len(self._starts)):
            own_samples = [moment[number] for moment in samples]
            health.append(self._health(number, samples=own_samples, own_pids=own_pids))
        return tuple(health)

    def _open(self) -> bool:
        self._nvml.nvmlInit()
        return True

    def _sample(self, gpu: Gpu) -> GpuSample:
        nvml = self._nvml
        return GpuSample(
            sm_clock_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, gpu, nvml.NVML_CLOCK_SM),
            memory_clock_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, gpu, nvml.NVML_CLOCK_MEM),
            temperature_c=self._ask(nvml.nvmlDeviceGetTemperature, gpu, nvml.NVML_TEMPERATURE_GPU),
            power_w=self._power_w(nvml.nvmlDeviceGetPowerUsage, gpu),
            reasons=_reasons(self._ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, gpu) or 0, nvml=nvml),
        )

    def _health(self, number: int, *, samples: Sequence[GpuSample], own_pids: Collection[int]) -> GpuHealth:
        start = self._starts[number]
        foreign = sorted(start.processes.keys() & self._processes(start.gpu).keys() - {*own_pids})
        counts: Counter[str] = Counter()
        for sample in samples:
            counts.update(sorted(sample.reasons))
        shares = {}
        for reason, count in counts.items():
            shares[reason] = count / len(samples)
        return GpuHealth(
            gpu=number,
            sm_clock_mhz=min_median_max([sample.sm_clock_mhz for sample in samples]),
            memory_clock_mhz=min_median_max([sample.memory_clock_mhz for sample in samples]),
            temperature_c=min_median_max([sample.temperature_c for sample in samples]),
            power_w=min_median_max([sample.power_w for sample in samples]),
            power_cap_w=self._power_w(self._nvml.nvmlDeviceGetEnforcedPowerLimit, start.gpu),
            reasons=shares,
            num_memory_errors=max(0, self._num_errors(start.gpu) - start.num_errors),
            xids=tuple(self._xids(start.events)),
            foreign_processes=tuple(start.processes[pid] for pid in foreign),
        )

    def _ask(self, call: Any, gpu: Gpu, *arguments: Any) -> Any:
        if gpu.handle is None:
            return None
        return ask(self._nvml, call, gpu.handle, *arguments)

    def _power_w(self, call: Any, gpu: Gpu) -> float | None:
        milliwatts: int | None = self._ask(call, gpu)
        if milliwatts is None:
            return None
        return milliwatts / _MW_PER_W

    def _num_errors(self, gpu: Gpu) -> int:
        nvml = self._nvml
        num_errors = self._ask(
            nvml.nvmlDeviceGetTotalEccErrors, gpu, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_AGGREGATE_ECC
        )
        return int(num_errors or 0)

    def _processes(self, gpu: Gpu) -> Mapping[int, str]:
        """Return the processes that compute on a GPU, by id; none in a container with process ids of its own.

        There the driver may report the host's ids, by which this process, if an earlier test has left it a CUDA
        context, would look foreign.
        """
        if not _is_host_namespace():
            return {}
        processes = self._ask(self._nvml.nvmlDeviceGetComputeRunningProcesses, gpu) or []
        return {process.pid: _process_name(process.pid) for process in processes}

    def _event_set(self, gpu: Gpu) -> Any:
        """Start to collect a GPU's Xid errors; return the event set, or None if that is not supported."""
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
        """Return the Xid errors so far; without a further one the driver raises a time-out at once."""
        xids: list[int] = []
        while events is not None and len(xids) < _MAX_EVENTS:
            event = ask(self._nvml, self._nvml.nvmlEventSetWait_v2, events, 0)
            if event is None:
                break
            xids.append(int(event.eventData))
        return xids


class GpuMeter:
    """Energy counters of the GPUs of a run, from Volta on.

    Args:
        sampler: Sampler of these GPUs.
        num_gpus: Number of GPUs that the ranks use.
    """

    source: Literal["nvml", "powercap"] = "nvml"
    period_sec = NVML_PERIOD_SEC

    def __init__(self, sampler: GpuSampler, *, num_gpus: int) -> None:
        self._sampler = sampler
        self.problem = ""
        if sampler.num_watched < num_gpus:
            asked = count_text(num_gpus, "GPU")
            self.problem = f"the driver on this host tells of {sampler.num_watched} of the {asked} of the run"
            return
        for number, value in enumerate(sampler.millijoules()):
            if value is None:
                self.problem = f"the driver has no energy counter of GPU {number}, as before Volta, or under MIG"
                return

    def microjoules(self) -> tuple[int, ...]:
        """Return the counter of every GPU; empty if one can't be read."""
        values = []
        for value in self._sampler.millijoules():
            if value is None:
                return ()
            values.append(_UJ_PER_MJ * value)
        return tuple(values)

    def range_of(self, index: int) -> int | None:  # noqa: ARG002 (all counters have 64 bits)
        """Return None: a counter of 64 bits does not start again."""
        return None


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


def _is_host_namespace() -> bool:
    """Return whether this process has the host's process ids; False if unknown."""
    try:
        return str(_PROCESS_IDS.readlink()) == _HOST_NAMESPACE
    except OSError:
        return False


def _process_name(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).name()} (process {pid})"
    except psutil.Error:  # of another container, or of another user
        return f"process {pid}"
