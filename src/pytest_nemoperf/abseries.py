"""The rounds of one case on two sides: what they left, who begins the next, and how many there is time for."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

from pytest_nemoperf.abplan import DEFAULT_BLOCK_STEPS, plan_for_turns
from pytest_nemoperf.abratios import (
    launches_error,
    launches_ratio,
    memory_ratio,
    turns_error,
    turns_ratio,
    unsettled_turns,
)
from pytest_nemoperf.abrun import RoundOutput
from pytest_nemoperf.abtest import MAX_ROUNDS, ABResult, ABRound
from pytest_nemoperf.expected import ExpectedRecords, expected_of
from pytest_nemoperf.measure import Measurement, measure_outputs
from pytest_nemoperf.metrics import PEAK_MEMORY_GIB, TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.records import RunOutput, StepRecord
from pytest_nemoperf.soundness import record_problems
from pytest_nemoperf.steadiness import run_drift


class _Problems(Protocol):
    def __call__(self, expected: ExpectedRecords, *, records: Sequence[StepRecord]) -> list[str]: ...


SIDES: Final = ("old", "new")


def _drift_texts(expected: ExpectedRecords, *, records: Sequence[StepRecord]) -> list[str]:
    drift = run_drift(expected, records=records)
    return [] if drift is None else [drift.text]


class ABRounds:
    """The rounds of one case, and who begins the next.

    Args:
        plan: Of a run by itself.
        seed: Of the order of the sides.
        why_launches: Why whole launches alternate and not turns; None for turns.
    """

    def __init__(self, plan: Plan, *, seed: int, why_launches: str | None) -> None:
        self._plan, self._seed = plan, seed
        self._order = _order(random.Random(seed))  # noqa: S311 (no secret: who begins)
        self._durations: list[float] = []
        self.why_launches = why_launches
        self.lost_sec = 0.0  # spent on what became no round
        self.rounds: list[ABRound] = []
        self.outputs: dict[str, list[RunOutput]] = {name: [] for name in SIDES}

    @property
    def plan(self) -> Plan:
        """How each side runs in a round."""
        return self._plan if self.why_launches else plan_for_turns(self._plan, block_steps=DEFAULT_BLOCK_STEPS)

    @property
    def num_counted(self) -> int:
        """Rounds that count."""
        return len(self.outputs["new"])

    def next_first(self) -> str:
        """Return which side begins the next round: drawn for one, the other way round for the one after it."""
        return next(self._order)

    def max_rounds(self, *, limit_sec: float) -> int:
        """Return how many rounds can count by the end of the time, as long as rounds have taken; at least one."""
        if not self._durations:
            return 1
        # The first also starts the helpers.
        usual = statistics.median(self._durations[1:] or self._durations)
        left = max(0, int((limit_sec - self.lost_sec - sum(self._durations)) // usual))
        return min(self.num_counted + left, MAX_ROUNDS)

    def add(self, found: RoundOutput, *, took_sec: float) -> None:
        """Keep what a round left; one in which a side did not settle does not count.

        Records that can't be judged are kept, so that the comparison is INVALID and says why, but have no ratio.
        """
        self._durations.append(took_sec)
        sides = {"old": found.old, "new": found.new}
        if problem := self._unsound(sides):
            self._keep(sides)
            self.rounds.append(ABRound(first=found.first, ratios={}, left_out=problem))
            return
        if problem := self._unsettled(sides):
            self.rounds.append(ABRound(first=found.first, ratios={}, left_out=problem))
            return
        self._keep(sides)
        ratios, error = self._ratios(sides)
        self.rounds.append(ABRound(first=found.first, ratios=ratios, error=error))

    def measured(self, name: str) -> Measurement:
        """Return what was measured of a side in the rounds that count."""
        expected, outputs = expected_of(self.plan), self.outputs[name]
        problems = [
            f"round {number}: {problem}"
            for number, output in enumerate(outputs, start=1)
            for problem in record_problems(expected, records=output.records)
        ]
        # Whether steps have settled was asked of both sides together.
        return replace(measure_outputs(self.plan, outputs=outputs), problems=tuple(problems))

    def result(self, revision: str, *, labels: tuple[str, str], old: Measurement) -> ABResult:
        """Return what is kept of the series."""
        return ABResult(
            revision=revision,
            old=labels[0],
            new=labels[1],
            method="launches" if self.why_launches else "turns",
            why_launches=self.why_launches or "",
            block_steps=0 if self.why_launches else DEFAULT_BLOCK_STEPS,
            seed=self._seed,
            rounds=tuple(self.rounds),
            old_measurement=old,
            duration_sec=round(sum(self._durations), 3),
        )

    def _keep(self, sides: Mapping[str, RunOutput]) -> None:
        for name in SIDES:
            self.outputs[name].append(sides[name])

    def _unsound(self, sides: Mapping[str, RunOutput]) -> str:
        return self._first_problem(sides, problems=record_problems)

    def _unsettled(self, sides: Mapping[str, RunOutput]) -> str:
        if not self.why_launches:
            return unsettled_turns(*self._measured(sides))
        return self._first_problem(sides, problems=_drift_texts)

    def _first_problem(self, sides: Mapping[str, RunOutput], *, problems: _Problems) -> str:
        expected = expected_of(self.plan)
        found = (f"{name}: {each}" for name in SIDES for each in problems(expected, records=sides[name].records))
        return next(found, "")

    def _ratios(self, sides: Mapping[str, RunOutput]) -> tuple[dict[str, float], float]:
        """Return the ratio of each metric, and what the round's own steps say of the error of the first."""
        old, new = self._measured(sides)
        memory = memory_ratio(old, new)
        ratios = {} if memory is None else {PEAK_MEMORY_GIB.name: memory}
        if self.why_launches:
            return {TOKENS_PER_SEC_PER_GPU.name: launches_ratio(old, new), **ratios}, launches_error(old, new)
        error = turns_error(old, new, block_steps=DEFAULT_BLOCK_STEPS)
        return {TOKENS_PER_SEC_PER_GPU.name: turns_ratio(old, new), **ratios}, error

    def _measured(self, sides: Mapping[str, RunOutput]) -> tuple[list[StepRecord], list[StepRecord]]:
        """Return the steps of old and new after warm-up."""
        warmup_steps = self.plan.warmup_steps
        old, new = ([record for record in sides[name].records if record.step >= warmup_steps] for name in SIDES)
        return old, new


def _order(chance: random.Random) -> Iterator[str]:
    while True:
        first = chance.choice(SIDES)
        yield first
        yield next(name for name in SIDES if name != first)
