"""Passes of a measurement in the test process, repeated until one is sound, as launches are.

A pass is sound if its steps have settled, nothing else kept the machine busy, and no tracer was active. Others are
dropped and measured again. docs/verdicts.md describes the verdict if none is sound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from pytest_nemoperf.machine.monitor import Monitor
from pytest_nemoperf.measure.measurement import drift_problems, round_significant
from pytest_nemoperf.measure.steady_state import Drift, find_drift, num_still_warming
from pytest_nemoperf.records.health import HealthReport, health_problems
from pytest_nemoperf.records.tracers import active_tracers, tracer_problems
from pytest_nemoperf.runs import clock

MIN_PASS_SEC: Final = 0.5
"""Least time of a pass: the kernel's counters don't resolve a busy machine in less than 0.4 s."""
_MAX_PASSES: Final = 5
_MAX_SEC = 60.0
"""No third pass begins later than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopPass:
    """One pass.

    Attributes:
        drift: Drift of its steps; None if they have settled.
        health: State of the machine during it; None if the machine was not watched.
        tracers: Tracers that were active in this process.
        too_short: Sentence if it was too short to show a busy machine; else empty.
    """

    drift: Drift | None
    health: HealthReport | None
    tracers: tuple[str, ...]
    too_short: str = ""

    @property
    def disturbances(self) -> list[str]:
        """Disturbances of the measured work: a tracer, an unhealthy machine, or too little time to see one."""
        disturbances = [*tracer_problems(self.tracers), *health_problems(self.health)]
        if self.too_short:
            disturbances.append(self.too_short)
        return disturbances

    @property
    def problems(self) -> list[str]:
        """Reasons to measure again."""
        problems = self.disturbances
        if self.drift:
            problems.append(self.drift.text)
        return problems


class Passes:
    """Passes of one measurement; decides after each unit of work whether to measure another.

    A unit is all steps of a loop, or the rounds of a benchmark. Units are joined until a pass is long enough to judge.

    Args:
        subject: Name of the measurement, for messages.
        num_gpus: GPUs to watch; 0 for none.
        report: Reports a dropped pass to the user.
        min_sec: Least time of a pass.
        is_watched: Other load on the machine is a reason to measure again. In a comparison of two revisions it is none:
            it slows both, and shows in the scatter of their rounds.
    """

    def __init__(
        self,
        subject: str,
        *,
        num_gpus: int,
        report: Callable[[str], None],
        min_sec: float,
        is_watched: bool = True,
    ) -> None:
        self._subject = subject
        self._is_watched = is_watched
        self._min_sec = min_sec
        self._num_gpus = num_gpus
        self._report = report
        self._stack = ExitStack()
        self._monitor: Monitor | None = None
        self._started = self._first_started = 0.0
        self._times: list[float] = []
        self._tracers: dict[str, None] = {}
        self.finished: list[LoopPass] = []

    def poll(self, *, ignored: Sequence[str] = ()) -> None:
        """Poll the machine and the tracers between timed steps; begin a pass if none is running.

        Args:
            ignored: Interpreter hooks, e.g. ``sys.settrace``, with tracers that are paused while the work is timed.
        """
        if self._monitor is None:
            self._monitor = self._stack.enter_context(Monitor(first_step=0, last_step=1, num_gpus=self._num_gpus))
            self._started = clock.now()
            self._first_started = self._first_started or self._started
            self._times = []
            self._tracers = {}
        self._monitor.poll(num_finished=0)
        for name in active_tracers():
            if not any(place in name for place in ignored):
                self._tracers[name] = None

    def end(self, times: Sequence[float], *, budget_sec: float = 0.0) -> bool:
        """Add the step times of a unit, and return whether the pass is over.

        Args:
            times: Seconds, at least one.
            budget_sec: Time to give the pass, if more than its least time.
        """
        self._times += times
        if clock.now() - self._started < max(self._min_sec, budget_sec):
            return False
        self.close()
        return True

    def close(self) -> None:
        """End the running pass, even a short one; may be called twice."""
        if self._monitor is None:
            return
        monitor = self._monitor
        self._monitor = None
        seconds = clock.now() - self._started
        health: HealthReport | None = None
        with self._stack:
            if self._is_watched:
                health = monitor.report(num_finished=0)
        if not self._times:  # no unit is complete
            return
        too_short = ""
        if self._is_watched and seconds < self._min_sec:
            too_short = (
                f"the loop ended after {seconds:.2g} s, and it takes {self._min_sec:g} s to tell whether the machine "
                "was busy with something else; give it data for longer, or raise steps"
            )
        drift = find_drift(self._times[num_still_warming(self._times) :])
        self.finished.append(LoopPass(drift=drift, health=health, tracers=tuple(self._tracers), too_short=too_short))

    def is_done(self) -> bool:
        """Return whether the last pass is sound, or further ones are not worth their time."""
        last = self.finished[-1]
        problems = last.problems
        if not problems or last.tracers or len(self.finished) == _MAX_PASSES:
            return True
        if len(self.finished) > 1 and clock.now() - self._first_started > _MAX_SEC:
            return True
        self._report(f"pass {len(self.finished)} of {self._subject} is dropped and measured again: {problems[0]}")
        return False

    @property
    def counted(self) -> int:
        """Index of the pass that counts: the last one without disturbances, else the last."""
        last = len(self.finished) - 1
        for number in range(last, -1, -1):
            if not self.finished[number].disturbances:
                return number
        return last

    @property
    def drift_pct(self) -> float | None:
        """Drift of the pass that counts, percent; None if it has settled."""
        drift = self.finished[self.counted].drift
        if drift is None:
            return None
        return round_significant(drift.pct, digits=3)

    @property
    def problems(self) -> list[str]:
        """Reasons not to judge the pass that counts; empty if it can be judged."""
        counted = self.finished[self.counted]
        drifts = [each.drift for each in self.finished if each is not counted and not each.disturbances]
        return [*counted.disturbances, *drift_problems(counted.drift, earlier=drifts)]
