"""Timing of a step and its phases, without synchronising the device between them."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path

import torch

from pytest_nemoperf.records.step import PRETRAIN_PHASES

_WAITING_PHASES = ("grad_comm", "pipeline_wait", "exposed_generation", "idle")
"""Phases in which a rank waits for others; waiting inside other phases can't be distinguished from work."""
_SCHEDSTAT = Path("/proc/thread-self/schedstat")
_LONGEST_LINE = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStep:
    """One step as a rank times it.

    Attributes:
        step_time_sec: Wall time, device synchronised at both ends.
        busy_sec: Part of it in which this rank worked or was ready to, and did not wait for others; see _busy_sec_of.
        phases: Seconds by phase; they sum to step_time_sec. Empty if phases are not recorded.
        loss: Mean over the tokens this rank trained on; 0 on ranks without a loss.
        grad_norm: Norm of the whole gradient before clipping; 0 on ranks that only generate.
        peak_bytes: Peak memory so far; 0 before the last step.
        generation_sec: Time this rank generated responses.
        num_generated_tokens: Tokens its replica generated, in all rounds.
        num_slot_passes: Its replica's passes of the model, each counted once for every slot of the decoding batch.
    """

    step_time_sec: float
    busy_sec: float
    phases: Mapping[str, float]
    loss: float = 0.0
    grad_norm: float = 0.0
    peak_bytes: float = 0.0
    generation_sec: float = 0.0
    num_generated_tokens: float = 0.0
    num_slot_passes: float = 0.0

    def to_row(self) -> list[float]:
        """Return the step as numbers for a collective: fields in their order, then phases in the clock's."""
        values = [getattr(self, name) for name in _COLUMNS]
        return [*values, *self.phases.values()]

    @classmethod
    def from_row(cls, row: Sequence[float], *, phases: Iterable[str]) -> RankStep:
        """Return the step of a row from to_row.

        Args:
            row: Row of a rank with the same phases.
            phases: Their names, in the clock's order.
        """
        size = len(_COLUMNS)
        values = dict(zip(_COLUMNS, row[:size], strict=True))
        return cls(phases=dict(zip(phases, row[size:], strict=True)), **values)


_COLUMNS = tuple(field.name for field in fields(RankStep) if field.name != "phases")


class RunnableClock:
    """CPU time plus run-queue wait of the thread that made it.

    Blocked time is neither: a thread that waits for a collective of gloo sleeps. A sum of zero means that the kernel
    keeps no statistics. The file stays open: opening it costs
    ten times as much as reading it.

    Args:
        path: Nanoseconds run, nanoseconds waited, and a count.

    References:
        Linux, Documentation/scheduler/sched-stats.rst, ``/proc/<pid>/schedstat``.
    """

    def __init__(self, *, path: Path = _SCHEDSTAT) -> None:
        self._descriptor: int | None = None
        with suppress(OSError):  # not Linux, or a kernel without these counts
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._descriptor)

    def runnable_sec(self) -> float | None:
        """Return seconds since the thread began; None if the kernel keeps no statistics."""
        if self._descriptor is None:
            return None
        run_ns, waited_ns, _ = os.pread(self._descriptor, _LONGEST_LINE, 0).split()
        runnable_ns = int(run_ns) + int(waited_ns)
        return runnable_ns * 1e-9 if runnable_ns else None


class PhaseClock:
    """Clock of a step and its phases on the CPU: work is done when a call returns.

    ``start``, then ``mark`` at the end of each phase, as often as phases alternate, then ``stop``. Between
    start and stop nothing is computed, gathered or written: a mark appends the time to a list.

    Args:
        names: Every phase a mark may end, in the order they are reported; the last is ``other``.
        is_recording: Record phases; if not, only whole steps are timed.
    """

    def __init__(self, *, names: Sequence[str] = PRETRAIN_PHASES, is_recording: bool = True) -> None:
        self._names = names
        self._is_recording = is_recording
        self._phases: list[str] = []
        self._times: list[float] = []
        self._start = 0.0
        self._thread = RunnableClock()
        self._runnable_start: float | None = None

    def start(self) -> None:
        """Begin a step."""
        self._phases.clear()
        self._times.clear()
        self.synchronize()
        self._runnable_start = self._runnable_sec()
        self._start = time.perf_counter()
        if self._is_recording:
            self._mark()

    def mark(self, phase: str) -> None:
        """End a phase that began at the last mark, or at the start."""
        if self._is_recording:
            self._phases.append(phase)
            self._mark()

    def delay(self, percent: float) -> None:
        """Sleep so many percent of the time the step has taken so far; the time counts as ``other``."""
        self.synchronize()
        time.sleep((time.perf_counter() - self._start) * percent / 100)

    def stop(self) -> RankStep:
        """End the step and return its times; time outside all marks is ``other``."""
        self.synchronize()
        step_time_sec = time.perf_counter() - self._start
        runnable_end = self._runnable_sec()
        if not self._is_recording:
            return RankStep(step_time_sec=step_time_sec, busy_sec=step_time_sec, phases={})
        phases = dict.fromkeys(self._names, 0.0)
        for phase, seconds in zip(self._phases, self._seconds_between_marks(), strict=True):
            phases[phase] += seconds
        # CUDA rounds the times between events, so the rest may be slightly negative.
        phases["other"] += max(0.0, step_time_sec - sum(phases.values()))
        runnable_sec = None
        if self._runnable_start is not None and runnable_end is not None:
            runnable_sec = runnable_end - self._runnable_start
        busy_sec = _busy_sec_of(phases, step_time_sec=step_time_sec, runnable_sec=runnable_sec)
        return RankStep(step_time_sec=step_time_sec, busy_sec=busy_sec, phases=phases)

    def synchronize(self) -> None:
        """Wait for the device; on the CPU there is nothing to wait for."""

    def _runnable_sec(self) -> float | None:
        """Return seconds this thread has run or waited for a core; None if not known."""
        return self._thread.runnable_sec()

    def _mark(self) -> None:
        self._times.append(time.perf_counter())

    def _seconds_between_marks(self) -> list[float]:
        return [end - start for start, end in pairwise(self._times)]


class CudaPhaseClock(PhaseClock):
    """Clock of a step and its phases by events on the current stream: no wait between start and stop.

    Args:
        device: The GPU.
        names: As in PhaseClock.
        is_recording: As in PhaseClock.
    """

    def __init__(
        self, device: torch.device, *, names: Sequence[str] = PRETRAIN_PHASES, is_recording: bool = True
    ) -> None:
        super().__init__(names=names, is_recording=is_recording)
        self._device = device
        self._events: list[torch.cuda.Event] = []  # used again each step: making one costs more than a mark

    def synchronize(self) -> None:
        """Wait for the current stream, the one of the whole step; a refit may be sending weights on another."""
        torch.cuda.current_stream(self._device).synchronize()

    def _runnable_sec(self) -> float | None:
        """Return None: this thread's time is not the device's."""
        return None

    def _mark(self) -> None:
        number = len(self._phases)  # 0 is the start
        if number == len(self._events):
            self._events.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]  # torch leaves it
        self._events[number].record()

    def _seconds_between_marks(self) -> list[float]:
        used = self._events[: len(self._phases) + 1]
        return [start.elapsed_time(end) / 1e3 for start, end in pairwise(used)]  # from ms


def _busy_sec_of(phases: Mapping[str, float], *, step_time_sec: float, runnable_sec: float | None) -> float:
    """Return seconds of a step that were a rank's own work.

    If the kernel counts it: the time the rank's main thread ran or was ready to run, so that waiting inside forward and
    backward (as under FSDP) is not counted. Otherwise, as on GPUs: the step without the phases of waiting;
    waiting inside other phases counts as work.
    """
    if runnable_sec is not None:
        return min(runnable_sec, step_time_sec)
    return max(0.0, step_time_sec - sum(phases.get(name, 0.0) for name in _WAITING_PHASES))


def phase_clock(
    device: torch.device, *, names: Sequence[str] = PRETRAIN_PHASES, is_recording: bool = True
) -> PhaseClock:
    """Return a clock for a device."""
    if device.type == "cuda":
        return CudaPhaseClock(device, names=names, is_recording=is_recording)
    return PhaseClock(names=names, is_recording=is_recording)
