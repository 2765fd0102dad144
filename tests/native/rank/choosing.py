"""Rank of another step runner, which has made a choice that affects its speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from pytest_nemoperf.native.phases import RankStep, phase_clock
from pytest_nemoperf.native.rank.entry import main_of_process
from pytest_nemoperf.recipes.recipe import Plan


class Choosing:
    def __init__(self, plan: Plan, *, rank: int, device: torch.device) -> None:
        self._choices = {"chosen_by_rank": str(rank), "chosen_for": plan.case}
        self._clock = phase_clock(device)

    @property
    def environment(self) -> Mapping[str, str]:
        return self._choices

    def step(self, number: int) -> RankStep:
        self._clock.start()
        return replace(self._clock.stop(), loss=float(number))


if __name__ == "__main__":
    main_of_process(Choosing)
