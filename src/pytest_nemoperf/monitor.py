"""Monitor of the machine while a run goes on: a sample now and then, by the process that waits for the ranks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

import psutil

from pytest_nemoperf.gpu_samples import GpuSample, GpuSampler
from pytest_nemoperf.health import MIN_JUDGED_SEC, HealthReport
from pytest_nemoperf.host_samples import HostSample, HostSampler, cpu_health, use_between

_INTERVAL_SEC = 0.5
_LEAST_REST = 100
"""A sample that takes long, as on a host with thousands of processes, is followed by so many times its own time."""


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
    """Samples the host and the GPUs; enter it before the ranks start, ``poll`` while they run, then ``report``.

    Each sample is tagged with the number of finished steps, so that the report speaks of measured steps. Besides the
    regular ones a sample is taken when warm-up has ended and when the last step has.

    Args:
        first_step: Finished steps from which on samples count: the warm-up steps.
        last_step: Finished steps from which on they don't any more: all steps.
        num_gpus: How many of the visible GPUs the ranks use.
        host: Takes samples of the host.
        now: The clock, seconds.
    """

    def __init__(
        self,
        *,
        first_step: int,
        last_step: int,
        num_gpus: int,
        host: HostSampler | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first_step, self._last_step = first_step, last_step
        self._num_gpus = num_gpus
        self._host = host or HostSampler()
        self._now = now
        self._gpus: GpuSampler | None = None
        self._stack = ExitStack()
        self._last: _Sample | None = None
        self._intervals: list[_Interval] = []
        self._next_time = 0.0

    def __enter__(self) -> Monitor:
        if self._num_gpus:
            self._gpus = self._stack.enter_context(GpuSampler(num_gpus=self._num_gpus))
        self._take(num_finished=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def poll(self, *, num_finished: int) -> None:
        """Take a sample if it is time for one."""
        before = 0 if self._last is None else self._last.num_finished
        is_border = any(before < border <= num_finished for border in (self._first_step, self._last_step))
        if is_border or self._now() >= self._next_time:
            self._take(num_finished=num_finished)

    def report(self, *, num_finished: int) -> HealthReport:
        """Take the last sample and return what all of them say."""
        self._take(num_finished=num_finished)
        intervals, is_measured = self._counted()
        gpus = () if self._gpus is None else self._gpus.health([each.gpus for each in intervals], own_pids=_own_pids())
        return HealthReport(
            seconds=round(sum(each.seconds for each in intervals), 3),
            num_samples=len(intervals),
            is_measured_steps=is_measured,
            cpu=cpu_health(
                [each.use for each in intervals if each.use is not None],
                num_cores=self._host.num_cores,
                num_allowed_cores=self._host.num_allowed_cores,
            ),
            gpus=gpus,
        )

    def _take(self, *, num_finished: int) -> None:
        """Take a sample; what is kept is the difference to the one before, which is small."""
        started, before = self._now(), self._last
        gpus = () if self._gpus is None else self._gpus.sample()
        sample = _Sample(time_sec=started, num_finished=num_finished, host=self._host.sample())
        if before is not None:
            interval = _Interval(
                seconds=sample.time_sec - before.time_sec,
                num_finished=before.num_finished,
                use=use_between(before.host, sample.host) if before.host and sample.host else None,
                gpus=gpus,
            )
            self._intervals.append(interval)
        self._last = sample
        ended = self._now()
        self._next_time = ended + max(_INTERVAL_SEC, _LEAST_REST * (ended - started))

    def _counted(self) -> tuple[Sequence[_Interval], bool]:
        """Return the intervals that lie within the measured steps, else the last ones, and which of the two."""
        measured = [each for each in self._intervals if self._first_step <= each.num_finished < self._last_step]
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
    return {own.pid, *(child.pid for child in own.children(recursive=True))}
