"""Watches the machine while a run goes on: one sample now and then, taken by the process that waits for the ranks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType

import psutil

from pytest_nemoperf.gpu_samples import GpuSample, GpuSampler
from pytest_nemoperf.health import MIN_JUDGED_SEC, HealthReport
from pytest_nemoperf.host_samples import HostSample, HostSampler, cpu_health
from pytest_nemoperf.recipe import Plan

_INTERVAL_SEC = 0.5
_LEAST_REST = 100
"""A sample that takes long, as on a host with thousands of processes, is followed by so many times its own time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    time_sec: float
    num_finished: int
    host: HostSample | None
    gpus: tuple[GpuSample, ...]


class Monitor:
    """Samples the host and the GPUs; enter it before the ranks start, ``poll`` while they run, then ``report``.

    Each sample is tagged with the number of finished steps, so that the report speaks of measured steps. Besides the
    regular ones a sample is taken when warm-up has ended and when the last step has.

    Args:
        plan: What runs.
        host: Takes samples of the host.
        now: The clock, seconds.
    """

    def __init__(
        self, plan: Plan, *, host: HostSampler | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._plan = plan
        self._host = host or HostSampler()
        self._now = now
        self._gpus: GpuSampler | None = None
        self._stack = ExitStack()
        self._samples: list[_Sample] = []
        self._next_time = 0.0

    def __enter__(self) -> Monitor:
        if self._plan.device == "cuda":
            self._gpus = self._stack.enter_context(GpuSampler(num_gpus=self._plan.layout.total_gpus))
        self._take(num_finished=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def poll(self, *, num_finished: int) -> None:
        """Take a sample if it is time for one."""
        before = self._samples[-1].num_finished
        is_border = any(before < border <= num_finished for border in (self._plan.warmup_steps, self._plan.total_steps))
        if is_border or self._now() >= self._next_time:
            self._take(num_finished=num_finished)

    def report(self, *, num_finished: int) -> HealthReport:
        """Take the last sample and return what all of them say."""
        self._take(num_finished=num_finished)
        intervals, is_measured = self._intervals()
        hosts = [(start.host, end.host) for start, end in intervals if start.host is not None and end.host is not None]
        gpus = () if self._gpus is None else self._gpus.health([end.gpus for _, end in intervals], own_pids=_own_pids())
        return HealthReport(
            seconds=round(sum(end.time_sec - start.time_sec for start, end in intervals), 3),
            num_samples=len(intervals),
            is_measured_steps=is_measured,
            cpu=cpu_health(hosts, num_cores=self._host.num_cores),
            gpus=gpus,
        )

    def _take(self, *, num_finished: int) -> None:
        started = self._now()
        self._samples.append(
            _Sample(
                time_sec=started,
                num_finished=num_finished,
                host=self._host.sample(),
                gpus=() if self._gpus is None else self._gpus.sample(),
            )
        )
        ended = self._now()
        self._next_time = ended + max(_INTERVAL_SEC, _LEAST_REST * (ended - started))

    def _intervals(self) -> tuple[Sequence[tuple[_Sample, _Sample]], bool]:
        """Return the intervals between samples that lie within the measured steps, else the last ones, and which."""
        every = list(pairwise(self._samples))
        first, last = self._plan.warmup_steps, self._plan.total_steps
        measured = [(start, end) for start, end in every if start.num_finished >= max(first, 1)]
        measured = [(start, end) for start, end in measured if start.num_finished < last]
        if measured:
            return measured, True
        for number in range(len(every) - 1, 0, -1):
            if every[-1][1].time_sec - every[number][0].time_sec >= MIN_JUDGED_SEC:
                return every[number:], False
        return every, False


def _own_pids() -> set[int]:
    own = psutil.Process()
    return {own.pid, *(child.pid for child in own.children(recursive=True))}
