"""Time budget of a case: on a slow machine later launches run fewer steps, and a baseline takes fewer launches."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from pytest_nemoperf.recipes.recipe import Plan

_MIN_SHARE: Final = 0.5
"""Least measured steps of a launch, as a share of the recipe's."""
_MIN_STEPS: Final = 6
"""Least measured steps of a launch whose recipe asks for as many: below, single slow steps move a median."""
_MIN_RUNS: Final = 3
"""Launches that make a baseline although the budget is used: the noise between two is hardly known."""


class CaseBudget:
    """Decides the steps of each launch of a case, and whether its baseline takes further ones.

    The first launch runs the recipe's steps, so that its loss compares at the same step in every session; its time
    shows what fits. The number of steps is no part of the workload, so launches of different lengths compare.

    Args:
        plan: Plan of the case.
        seconds: Time that the steps of its launches should take together; None for any.
        num_runs: Launches that make a baseline.
    """

    def __init__(self, plan: Plan, *, seconds: float | None, num_runs: int) -> None:
        self._plan = plan
        self._seconds = seconds
        self._num_runs = num_runs
        self._spent_sec = 0.0
        self._full_sec = 0.0

    def plan(self, number: int) -> Plan:
        """Return the plan of a launch, with the recipe's steps or with as many as fit.

        Args:
            number: Number of the launch, from 1.
        """
        if self._seconds is None or not self._full_sec:
            return self._plan
        num_left = max(1, self._num_runs - number + 1)
        share = (self._seconds - self._spent_sec) / (num_left * self._full_sec)
        fitting = int(share * self._plan.total_steps) - self._plan.warmup_steps
        least = max(int(_MIN_SHARE * self._plan.steps), min(_MIN_STEPS, self._plan.steps))
        return replace(self._plan, steps=min(max(fitting, least), self._plan.steps))

    def spend(self, seconds: float) -> None:
        """Add the time of a launch's steps; the first one has the recipe's."""
        self._spent_sec += seconds
        self._full_sec = self._full_sec or seconds

    def is_enough(self, num_runs: int) -> bool:
        """Return whether so many launches make a baseline: all that are asked for, or fewer if the budget is used."""
        if num_runs >= self._num_runs:
            return True
        return self._seconds is not None and self._spent_sec >= self._seconds and num_runs >= _MIN_RUNS
