"""Monitor of the machine during a run: samples taken by the process that waits for the ranks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

import psutil

from pytest_nemoperf.machine.energy import EnergyMeter, EnergyReading, PackageMeter, energy_between, read_energy
from pytest_nemoperf.machine.gpu_samples import GpuMeter, GpuSample, GpuSampler
from pytest_nemoperf.machine.host_samples import HostSample, HostSampler, cpu_health, use_between
from pytest_nemoperf.records.health import MIN_JUDGED_SEC, Energy, GpuHealth, HealthReport

_INTERVAL_SEC = 0.5
_MIN_REST = 100
"""Pause after a sample, in multiples of its duration: with thousands of processes on a host it takes long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    time_sec: float
    num_finished: int
    host: HostSample | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Interval:
    seconds: float
    num_finished: int  # at its start
    use: HostSample | None
    gpus: tuple[GpuSample, ...]  # at its end


class Monitor:
    """Sampler of host, GPUs and energy: enter it before the ranks start, ``poll`` while they run, then ``report``.

    Each sample has the number of finished steps, so that the report covers the measured steps. Besides the regular
    samples one is taken at the end of warm-up and one at the end of the last step.

    Args:
        first_step: Samples count from this number of finished steps on: the warm-up steps.
        last_step: Samples count up to this number of finished steps: all steps.
        num_gpus: Number of visible GPUs that the ranks use.
        host: Sampler of the host.
        packages: Energy counters of the host, for a run without GPUs; None for those of this host.
        now: Clock in seconds.
    """

    def __init__(
        self,
        *,
        first_step: int,
        last_step: int,
        num_gpus: int,
        host: HostSampler | None = None,
        packages: EnergyMeter | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first_step = first_step
        self._last_step = last_step
        self._num_gpus = num_gpus
        self._host = host or HostSampler()
        self._now = now
        self._gpus: GpuSampler | None = None
        self._packages = packages
        self._meter: EnergyMeter | None = None
        self._readings: list[tuple[int, EnergyReading]] = []  # with the number of finished steps
        self._stack = ExitStack()
        self._last: _Sample | None = None
        self._intervals: list[_Interval] = []
        self._next_time = 0.0

    def __enter__(self) -> Monitor:
        if self._num_gpus:
            self._gpus = self._stack.enter_context(GpuSampler(num_gpus=self._num_gpus))
            self._meter = GpuMeter(self._gpus, num_gpus=self._num_gpus)
        else:
            self._meter = self._packages or PackageMeter()
        self._take(num_finished=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def poll(self, *, num_finished: int) -> None:
        """Take a sample if one is due."""
        before = 0 if self._last is None else self._last.num_finished
        is_warmup_end = before < self._first_step <= num_finished
        is_end = before < self._last_step <= num_finished
        if is_warmup_end or is_end or self._now() >= self._next_time:
            self._take(num_finished=num_finished)

    def report(self, *, num_finished: int) -> HealthReport:
        """Take the last sample and return the report on all that count."""
        self._take(num_finished=num_finished)
        intervals, is_measured = self._counted()
        seconds = 0.0
        uses: list[HostSample] = []
        gpu_samples: list[tuple[GpuSample, ...]] = []
        for interval in intervals:
            seconds += interval.seconds
            gpu_samples.append(interval.gpus)
            if interval.use is not None:
                uses.append(interval.use)
        gpus: tuple[GpuHealth, ...] = ()
        if self._gpus is not None:
            gpus = self._gpus.health(gpu_samples, own_pids=_own_pids())
        return HealthReport(
            seconds=round(seconds, 3),
            num_samples=len(intervals),
            is_measured_steps=is_measured,
            cpu=cpu_health(uses, num_cores=self._host.num_cores, num_allowed_cores=self._host.num_allowed_cores),
            gpus=gpus,
            energy=self._energy(),
        )

    def _take(self, *, num_finished: int) -> None:
        """Take a sample, and keep only its difference from the last one: a whole sample lists all processes."""
        started = self._now()
        if self._meter is not None:
            reading = read_energy(self._meter, time_sec=started)
            if reading is not None:
                self._readings.append((num_finished, reading))
        gpus: tuple[GpuSample, ...] = ()
        if self._gpus is not None:
            gpus = self._gpus.sample()
        sample = _Sample(time_sec=started, num_finished=num_finished, host=self._host.sample())
        if self._last is not None:
            use = None
            if self._last.host is not None and sample.host is not None:
                use = use_between(self._last.host, sample.host)
            interval = _Interval(
                seconds=sample.time_sec - self._last.time_sec,
                num_finished=self._last.num_finished,
                use=use,
                gpus=gpus,
            )
            self._intervals.append(interval)
        self._last = sample
        ended = self._now()
        self._next_time = ended + max(_INTERVAL_SEC, _MIN_REST * (ended - started))

    def _energy(self) -> Energy | None:
        """Return the energy within the measured steps.

        The reading after the last step is left out: it is up to a poll late, and the devices rest until then.
        """
        if self._meter is None:
            return None
        within = []
        for num_finished, reading in self._readings:
            if self._first_step <= num_finished < self._last_step:
                within.append(reading)
        return energy_between(within, meter=self._meter)

    def _counted(self) -> tuple[Sequence[_Interval], bool]:
        """Return the intervals within the measured steps and True; without any, the last intervals and False."""
        measured = []
        for interval in self._intervals:
            if self._first_step <= interval.num_finished < self._last_step:
                measured.append(interval)
        if measured:
            return measured, True
        seconds = 0.0
        for number, interval in enumerate(reversed(self._intervals), start=1):
            seconds += interval.seconds
            if seconds >= MIN_JUDGED_SEC:
                return self._intervals[-number:], False
        return self._intervals, False


def _own_pids() -> set[int]:
    own = psutil.Process()
    return {process.pid for process in (own, *own.children(recursive=True))}
