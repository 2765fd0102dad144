"""Where the time of a step goes, without slowing it down."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from pytest_nemoperf.records import PRETRAIN_PHASES


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTiming:
    """Times of one step on one rank.

    Attributes:
        step_time_sec: Wall time, device synchronised at both ends.
        phases: Seconds by phase; they sum to step_time_sec. Empty if phases are not recorded.
    """

    step_time_sec: float
    phases: Mapping[str, float]


class PhaseClock:
    """Times a step and its phases on a device that has done its work when a call returns: the CPU.

    ``start``, then ``mark`` at the end of each phase, as often as phases alternate, then ``stop``. Between
    start and stop nothing is computed, gathered or written: a mark takes the time and puts it on a list.

    Args:
        names: Every phase a mark may end, in the order they are reported; the last is ``other``.
        is_recording: Record phases; without, only whole steps are timed.
    """

    def __init__(self, *, names: Sequence[str] = PRETRAIN_PHASES, is_recording: bool = True) -> None:
        self._names = names
        self._is_recording = is_recording
        self._phases: list[str] = []
        self._times: list[float] = []
        self._start = 0.0

    def start(self) -> None:
        """Begin a step."""
        self._phases.clear()
        self._times.clear()
        self.synchronize()
        self._start = time.perf_counter()
        if self._is_recording:
            self._mark()

    def mark(self, phase: str) -> None:
        """End a phase: the time since the last mark, or the start, belongs to it."""
        if self._is_recording:
            self._phases.append(phase)
            self._mark()

    def delay(self, percent: float) -> None:
        """Sleep so many percent of the time the step has taken so far; the time counts as ``other``."""
        self.synchronize()
        time.sleep((time.perf_counter() - self._start) * percent / 100)

    def stop(self) -> StepTiming:
        """End the step; what no mark claimed is ``other``."""
        self.synchronize()
        step_time_sec = time.perf_counter() - self._start
        if not self._is_recording:
            return StepTiming(step_time_sec=step_time_sec, phases={})
        phases = dict.fromkeys(self._names, 0.0)
        for phase, seconds in zip(self._phases, self._seconds_between_marks(), strict=True):
            phases[phase] += seconds
        # Event clocks have their own rounding: never less than nothing.
        phases["other"] += max(0.0, step_time_sec - sum(phases.values()))
        return StepTiming(step_time_sec=step_time_sec, phases=phases)

    def synchronize(self) -> None:
        """Wait for the device; nothing to wait for here."""

    def _mark(self) -> None:
        self._times.append(time.perf_counter())

    def _seconds_between_marks(self) -> list[float]:
        return [end - start for start, end in pairwise(self._times)]


class CudaPhaseClock(PhaseClock):
    """The same by events on the current stream: no wait between start and stop.

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
        """Wait for the current stream, which all of a step is ordered on; weights may travel on another meanwhile."""
        torch.cuda.current_stream(self._device).synchronize()

    def _mark(self) -> None:
        number = len(self._phases)  # 0 is the start
        if number == len(self._events):
            self._events.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]  # torch leaves it
        self._events[number].record()

    def _seconds_between_marks(self) -> list[float]:
        used = self._events[: len(self._phases) + 1]
        return [start.elapsed_time(end) / 1e3 for start, end in pairwise(used)]  # from ms


def phase_clock(
    device: torch.device, *, names: Sequence[str] = PRETRAIN_PHASES, is_recording: bool = True
) -> PhaseClock:
    """Return the clock of that device."""
    if device.type == "cuda":
        return CudaPhaseClock(device, names=names, is_recording=is_recording)
    return PhaseClock(names=names, is_recording=is_recording)
