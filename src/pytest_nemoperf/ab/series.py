"""Rounds of one case on two sides: their outputs, ratios, the order of the sides, and the number of rounds."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from pytest_nemoperf.ab.comparison import MAX_ROUNDS, ABResult, ABRound
from pytest_nemoperf.ab.plan import DEFAULT_BLOCK_STEPS, plan_for_turns
from pytest_nemoperf.ab.ratios import (
    launches_error,
    launches_ratio,
    memory_ratio,
    turns_error,
    turns_ratio,
    unsettled_turns,
)
from pytest_nemoperf.ab.round import RoundOutput
from pytest_nemoperf.measure.expected_records import expected_of
from pytest_nemoperf.measure.measurement import Measurement, measure_outputs
from pytest_nemoperf.measure.steady_state import run_drift
from pytest_nemoperf.measure.validity import record_problems
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.metrics import PEAK_MEMORY_GIB, TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.records.step import RunOutput, StepRecord, measured_steps

_SIDES: Final = ("old", "new")


class ABRounds:
    """Rounds of one case so far, and the order of the sides in the next.

    Args:
        plan: Plan of an ordinary run.
        seed: Seed of the order of the sides.
        why_launches: Reason that whole launches alternate instead of turns; None for turns.
        block_steps: Steps of a turn.

    Attributes:
        block_steps: Steps of a turn.
        lost_sec: Time spent on launches that completed no round.
        rounds: All rounds, in the order they ran.
        outputs: Outputs of the rounds that count, by side.
    """

    def __init__(
        self, plan: Plan, *, seed: int, why_launches: str | None, block_steps: int = DEFAULT_BLOCK_STEPS
    ) -> None:
        self._plan = replace(plan, extra_metrics=(), checkpoint_dir="")  # rounds compare steps
        self._seed = seed
        self.block_steps = block_steps
        self._order = order_of_sides(seed)
        self._durations: list[float] = []
        self.why_launches = why_launches
        self.lost_sec = 0.0
        self.rounds: list[ABRound] = []
        self.outputs: dict[str, list[RunOutput]] = {"old": [], "new": []}

    @property
    def plan(self) -> Plan:
        """Plan of each side in a round."""
        if self.why_launches:
            return self._plan
        return plan_for_turns(self._plan, block_steps=self.block_steps)

    @property
    def num_counted(self) -> int:
        """Number of rounds that count."""
        return len(self.outputs["new"])

    def next_first(self) -> str:
        """Return the side that begins the next round: drawn for one, the opposite for the one after it."""
        return next(self._order)

    def max_rounds(self, *, limit_sec: float) -> int:
        """Return the number of rounds that can count within the time limit, judged by past durations; at least one."""
        return affordable_rounds(self._durations, num_counted=self.num_counted, limit_sec=limit_sec - self.lost_sec)

    def add(self, output: RoundOutput, *, took_sec: float) -> None:
        """Add a round; it does not count if a side did not settle.

        The outputs of records that can't be judged are kept, so that the comparison becomes INVALID with the reason,
        but they have no ratio.
        """
        self._durations.append(took_sec)
        sides = {"old": output.old, "new": output.new}
        if problem := self._record_problem(sides):
            self._keep(sides)
            self.rounds.append(ABRound(first=output.first, ratios={}, left_out=problem))
        elif problem := self._unsettled(sides):
            self.rounds.append(ABRound(first=output.first, ratios={}, left_out=problem))
        else:
            self._keep(sides)
            ratios, error = self._ratios(sides)
            self.rounds.append(ABRound(first=output.first, ratios=ratios, error=error))

    def measured(self, name: str) -> Measurement:
        """Return the measurement of a side in the rounds that count."""
        expected = expected_of(self.plan)
        outputs = self.outputs[name]
        problems: list[str] = []
        for number, output in enumerate(outputs, start=1):
            found = record_problems(expected, records=output.records)
            problems += [f"round {number}: {problem}" for problem in found]
        # Without the problems of steps that have not settled: add judges those of both sides together.
        return replace(measure_outputs(self.plan, outputs=outputs), problems=tuple(problems))

    def result(self, revision: str, *, labels: tuple[str, str], old: Measurement) -> ABResult:
        """Return the result of all rounds, as the results file keeps it."""
        return ABResult(
            revision=revision,
            old=labels[0],
            new=labels[1],
            method="launches" if self.why_launches else "turns",
            why_launches=self.why_launches or "",
            block_steps=0 if self.why_launches else self.block_steps,
            seed=self._seed,
            rounds=tuple(self.rounds),
            old_measurement=old,
            duration_sec=round(sum(self._durations), 3),
        )

    def _keep(self, sides: Mapping[str, RunOutput]) -> None:
        for name in _SIDES:
            self.outputs[name].append(sides[name])

    def _record_problem(self, sides: Mapping[str, RunOutput]) -> str:
        """Return the first problem of the records; empty if they can be judged."""
        expected = expected_of(self.plan)
        for name in _SIDES:
            for problem in record_problems(expected, records=sides[name].records):
                return f"{name}: {problem}"
        return ""

    def _unsettled(self, sides: Mapping[str, RunOutput]) -> str:
        """Return the reason that the steps have not settled; empty if they have."""
        if not self.why_launches:
            return unsettled_turns(self._measured_steps(sides["old"]), self._measured_steps(sides["new"]))
        expected = expected_of(self.plan)
        for name in _SIDES:
            drift = run_drift(expected, records=sides[name].records)
            if drift is not None:
                return f"{name}: {drift.text}"
        return ""

    def _ratios(self, sides: Mapping[str, RunOutput]) -> tuple[dict[str, float], float]:
        """Return the ratio of each metric, and the standard error of that of tokens/sec/GPU."""
        old = self._measured_steps(sides["old"])
        new = self._measured_steps(sides["new"])
        if self.why_launches:
            ratios = {TOKENS_PER_SEC_PER_GPU.name: launches_ratio(old, new)}
            error = launches_error(old, new)
        else:
            ratios = {TOKENS_PER_SEC_PER_GPU.name: turns_ratio(old, new)}
            error = turns_error(old, new, block_steps=self.block_steps)
        memory = memory_ratio(old, new)
        if memory is not None:
            ratios[PEAK_MEMORY_GIB.name] = memory
        return ratios, error

    def _measured_steps(self, output: RunOutput) -> list[StepRecord]:
        return measured_steps(output.records, warmup_steps=self.plan.warmup_steps)


def affordable_rounds(durations: Sequence[float], *, num_counted: int, limit_sec: float) -> int:
    """Return the number of rounds that can count within a time limit, judged by past durations; at least one.

    Args:
        durations: Duration of each round so far.
        num_counted: Those of them that count.
        limit_sec: Time for all rounds, past ones included.
    """
    if not durations:
        return 1
    # The first also starts the helpers.
    usual = statistics.median(durations[1:] or durations)
    left = max(0, int((limit_sec - sum(durations)) // usual))
    return min(num_counted + left, MAX_ROUNDS)


def order_of_sides(seed: int) -> Iterator[str]:
    """Yield the side that begins each round: drawn for one, the opposite for the one after it."""
    rng = random.Random(seed)  # noqa: S311 (no secret)
    while True:
        first = rng.choice(_SIDES)
        yield first
        yield "new" if first == "old" else "old"
