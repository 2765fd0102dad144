"""Rounds of a case that its test measures: a loop of ``perf.measure``, a benchmark test, or a collective.

Both sides run the test in a pytest process of their own, one after the other: there are no steps after which ranks
could take turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pytest_nemoperf.ab.comparison import JUDGED_IN_ROUNDS, ABResult, ABRound
from pytest_nemoperf.ab.pytest_process import ABPytestProcess, PytestInvocation
from pytest_nemoperf.ab.ratios import measured_error, measured_ratio
from pytest_nemoperf.ab.series import affordable_rounds, order_of_sides
from pytest_nemoperf.ab.source_trees import ABTrees
from pytest_nemoperf.ab.worktree import ABSide
from pytest_nemoperf.errors import RevisionError
from pytest_nemoperf.measure.kernel import comparable_workload
from pytest_nemoperf.measure.measurement import Measurement

WHY_LAUNCHES: Final = "its test measures it, so whole pytest processes alternate"
_SIDES: Final = ("old", "new")
_MIN_HOPELESS: Final = 2


class ABTestProcesses:
    """Pytest processes of both sides, for the tests of one session.

    Args:
        old: The revision.
        new: The working tree.
        trees: The working tree and the checkout, once they are set up.
        invocation: How the session was started.

    Raises:
        RevisionError: If the old side has no copy of the directory in which pytest was started.
    """

    def __init__(self, old: ABSide, new: ABSide, *, trees: ABTrees, invocation: PytestInvocation) -> None:
        self.sides: Mapping[str, ABSide] = {"old": old, "new": new}
        self.processes = {
            "old": ABPytestProcess(old, trees=trees, invocation=invocation),
            "new": ABPytestProcess(new, trees=trees, invocation=invocation),
        }

    def close(self) -> None:
        """Stop all processes; may be called twice."""
        for process in self.processes.values():
            process.close()


class InProcessRounds:
    """Rounds of one case so far, and the order of the sides in the next.

    Args:
        processes: Pytest processes of both sides.
        nodeid: The test.
        case: Its case.
        seed: Seed of the order of the sides.
        inject_pct: Self-test delay of each step of the side new, percent.

    Attributes:
        rounds: All rounds, in the order they ran.
    """

    def __init__(
        self, processes: ABTestProcesses, *, nodeid: str, case: str, seed: int, inject_pct: float = 0.0
    ) -> None:
        self._processes = processes
        self._nodeid = nodeid
        self._case = case
        self._seed = seed
        self._inject_pct = inject_pct
        self._order = order_of_sides(seed)
        self._durations: list[float] = []
        self._counted: dict[str, list[Measurement]] = {"old": [], "new": []}
        self._last: dict[str, Measurement] = {}
        self.rounds: list[ABRound] = []

    @property
    def num_counted(self) -> int:
        """Number of rounds that count."""
        return len(self._counted["new"])

    def next_first(self) -> str:
        """Return the side that begins the next round: drawn for one, the opposite for the one after it."""
        return next(self._order)

    def max_rounds(self, *, limit_sec: float) -> int:
        """Return the number of rounds that can count within the time limit, judged by past durations; at least one."""
        return affordable_rounds(self._durations, num_counted=self.num_counted, limit_sec=limit_sec)

    def add_round(
        self, first: str, *, run_dir: Path, timeout_sec: float, on_poll: Callable[[], None] = lambda: None
    ) -> ABRound:
        """Run both sides once, add the round and return it; it does not count if a side's measurement can't be judged.

        Args:
            first: The side that begins: ``old`` or ``new``.
            run_dir: New folder; gets one for each side.
            timeout_sec: Wall-clock limit of each side.
            on_poll: Called a few times a second; what it raises ends the round.

        Raises:
            LaunchError: If the test failed, took too long, or did not measure the case on a side.
            RecordError: If a measurement can't be read.
            RevisionError: If a side has no such test or measures another workload, or uses the other side's files.
        """
        started = time.monotonic()
        measured: dict[str, Measurement] = {}
        for name in (first, _other(first)):
            measured[name] = self._processes.processes[name].measure(
                self._nodeid,
                case=self._case,
                run_dir=run_dir / name,
                timeout_sec=timeout_sec,
                inject_pct=self._inject_pct if name == "new" else 0.0,
                on_poll=on_poll,
            )
        label = self._processes.sides["old"].label
        _check_workloads(measured["old"], measured["new"], label=label)
        self._durations.append(time.monotonic() - started)
        self._last = measured
        round_ = round_of(measured["old"], measured["new"], first=first)
        if not round_.left_out:
            for name in _SIDES:
                self._counted[name].append(measured[name])
        self.rounds.append(round_)
        return round_

    def measured(self, name: str) -> Measurement:
        """Return the measurement of a side in the rounds that count: a run a round.

        It has the problems of the last round if there were several and none counts: further ones would hardly differ.
        """
        counted = self._counted[name]
        last = counted[-1] if counted else self._last[name]
        problems: tuple[str, ...] = ()
        if not counted and len(self.rounds) >= _MIN_HOPELESS:
            problems = last.problems
        return replace(last, runs=tuple(each.runs[0] for each in counted), problems=problems)

    def result(self, revision: str, *, labels: tuple[str, str], old: Measurement) -> ABResult:
        """Return the result of all rounds, as the results file keeps it."""
        return ABResult(
            revision=revision,
            old=labels[0],
            new=labels[1],
            method="launches",
            why_launches=WHY_LAUNCHES,
            block_steps=0,
            seed=self._seed,
            rounds=tuple(self.rounds),
            old_measurement=old,
            duration_sec=round(sum(self._durations), 3),
        )


def round_of(old: Measurement, new: Measurement, *, first: str) -> ABRound:
    """Return the round of two measurements of one run each.

    Args:
        old: Measurement of the old side.
        new: Measurement of the new side.
        first: The side that began.
    """
    for name, side in zip(_SIDES, (old, new), strict=True):
        problem = _problem(side)
        if problem:
            return ABRound(first=first, ratios={}, left_out=f"{name}: {problem}")
    before = old.runs[0]
    after = new.runs[0]
    ratios: dict[str, float] = {}
    for metric in JUDGED_IN_ROUNDS:
        ratio = measured_ratio(before, after, metric=metric)
        if ratio is not None:
            ratios[metric.name] = ratio
    error = None
    if not new.workload.get("has_varying_lengths"):  # steps of different lengths scatter, and their rate does not
        error = measured_error(before, after)
    return ABRound(first=first, ratios=ratios, error=error)


def _other(name: str) -> str:
    return "new" if name == "old" else "old"


def _problem(side: Measurement) -> str:
    """Return the first reason not to judge a measurement, a speed that changed within it included; empty for none."""
    if side.problems:
        return side.problems[0]
    if not side.runs:
        return "no run was measured"
    drift_pct = side.runs[0].drift_pct
    if drift_pct:
        return f"the machine was restless: its speed changed by {drift_pct:+.0f}% within the measurement"
    return ""


def _check_workloads(old: Measurement, new: Measurement, *, label: str) -> None:
    """Check that both sides measured the same work.

    Raises:
        RevisionError: If a key of their workloads differs.
    """
    now = comparable_workload(new.workload, then=old.workload)
    then = comparable_workload(old.workload, then=new.workload)
    for key in sorted({*then, *now}):
        before: Any = then.get(key)
        after: Any = now.get(key)
        if before != after:
            raise RevisionError(
                f"{new.case} does other work in {label}, so their speeds don't compare: {key} is {before!r} there and "
                f"{after!r} in the working tree"
            )
