"""Passes of what the test process measures itself: repeated until one is sound, as launches are.

A pass is sound if its steps have settled, nothing else kept the machine busy, and no tracer was active. One that is not
is dropped and measured again. If none is sound, docs/verdicts.md says what becomes of the case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from pytest_nemoperf import clock
from pytest_nemoperf.health import HealthReport, health_problems
from pytest_nemoperf.measure import drift_problems, round_significant
from pytest_nemoperf.monitor import Monitor
from pytest_nemoperf.steadiness import Drift, find_drift, num_still_warming
from pytest_nemoperf.tracers import active_tracers, tracer_problems

MIN_PASS_SEC: Final = 0.5
"""Time a pass takes at least: the kernel's counts tell nothing of a busy machine in less than 0.4 s."""
MAX_PASSES: Final = 5
_MAX_SEC = 60.0
"""No third pass is begun after so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopPass:
    """One pass.

    Attributes:
        drift: Drift of its steps; None if they have settled.
        health: State of the machine meanwhile.
        tracers: Tracers that were active in this process.
        too_short: Reason why it was too short to tell whether the machine was busy; empty if it was not.
    """

    drift: Drift | None
    health: HealthReport
    tracers: tuple[str, ...]
    too_short: str = ""

    @property
    def disturbances(self) -> list[str]:
        """Reasons why its figures may not be those of the work: a tracer, or a machine that may not be healthy."""
        short = [self.too_short] if self.too_short else []
        return [*tracer_problems(self.tracers), *health_problems(self.health), *short]

    @property
    def problems(self) -> list[str]:
        """Reasons to measure again."""
        return [*self.disturbances, *([self.drift.text] if self.drift else [])]


class Passes:
    """Decides after each unit of work (the steps of a loop, the rounds of a benchmark) whether to measure another.

    Units are put together until a pass has lasted long enough to be judged.

    Args:
        subject: Names what is measured.
        num_gpus: GPUs whose health counts; 0 for none.
        say: Tells the user that a pass is dropped.
        min_sec: Time a pass takes at least.
    """

    def __init__(self, subject: str, *, num_gpus: int, say: Callable[[str], None], min_sec: float) -> None:
        self._subject = subject
        self._min_sec = min_sec
        self._num_gpus = num_gpus
        self._say = say
        self._stack = ExitStack()
        self._monitor: Monitor | None = None
        self._started = self._first_started = 0.0
        self._times: list[float] = []
        self._tracers: dict[str, None] = {}
        self.finished: list[LoopPass] = []

    def look(self, *, ignored: Sequence[str] = ()) -> None:
        """Look at the machine and for tracers, between steps, where nothing is timed; begin a pass where none goes on.

        Args:
            ignored: Places, as ``sys.settrace``, whose tracers are paused while the work is timed.
        """
        if self._monitor is None:
            self._monitor = self._stack.enter_context(Monitor(first_step=0, last_step=1, num_gpus=self._num_gpus))
            self._started = clock.now()
            self._first_started = self._first_started or self._started
            self._times, self._tracers = [], {}
        self._monitor.poll(num_finished=0)
        for name in active_tracers():
            if not any(place in name for place in ignored):
                self._tracers[name] = None

    def end(self, times: Sequence[float], *, budget_sec: float = 0.0) -> bool:
        """Add the step times of a unit, and return whether the pass is over.

        Args:
            times: Seconds, at least one.
            budget_sec: Time the pass is given, if that is more than it takes at least.
        """
        self._times += times
        if clock.now() - self._started < max(self._min_sec, budget_sec):
            return False
        self.close()
        return True

    def close(self) -> None:
        """End the pass that goes on, however short it is; may be called twice."""
        monitor, self._monitor = self._monitor, None
        if monitor is None:
            return
        seconds = clock.now() - self._started
        with self._stack:
            health = monitor.report(num_finished=0)
        if not self._times:  # it was left before a unit was complete
            return
        too_short = ""
        if seconds < self._min_sec:
            too_short = (
                f"the loop ended after {seconds:.2g} s, and it takes {self._min_sec:g} s to tell whether the machine "
                "was busy with something else; give it data for longer, or raise steps"
            )
        drift = find_drift(self._times[num_still_warming(self._times) :])
        self.finished.append(LoopPass(drift=drift, health=health, tracers=tuple(self._tracers), too_short=too_short))

    def is_enough(self) -> bool:
        """Tell whether the last pass is sound, or further ones are not worth their time."""
        last = self.finished[-1]
        problems = last.problems
        if not problems or last.tracers or len(self.finished) == MAX_PASSES:
            return True
        if len(self.finished) > 1 and clock.now() - self._first_started > _MAX_SEC:
            return True
        self._say(f"pass {len(self.finished)} of {self._subject} is dropped and measured again: {problems[0]}")
        return False

    @property
    def counted(self) -> int:
        """Index of the pass that counts: the last one that nothing disturbed, else the last."""
        undisturbed = [number for number, each in enumerate(self.finished) if not each.disturbances]
        return undisturbed[-1] if undisturbed else len(self.finished) - 1

    @property
    def drift_pct(self) -> float | None:
        """Drift of the pass that counts, percent; None if it has settled."""
        drift = self.finished[self.counted].drift
        return None if drift is None else round_significant(drift.pct, digits=3)

    @property
    def problems(self) -> list[str]:
        """Reasons why no figure of these passes can be judged; empty if the counted one can."""
        counted = self.finished[self.counted]
        others = [each for each in self.finished if each is not counted and not each.disturbances]
        drifts_pct = [None if each.drift is None else each.drift.pct for each in others]
        return [*counted.disturbances, *drift_problems(counted.drift, earlier_pct=drifts_pct)]
