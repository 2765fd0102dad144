"""A perf run as a script sees it: a plan, the variables that name its files, and a clock that only the test moves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.frameworks.steps import read_step_records
from pytest_nemoperf.integrations import rank_device, step_writer
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import PLAN_FILE, STEPS_FILE, StepRecord
from tests.builders import make_plan

VARIABLES = ("NEMOPERF_PLAN", "NEMOPERF_STEPS", *rank_device.RANK_VARIABLES)


class Clock:
    """Stands for module ``time``: its own time goes on only if it is told to, or slept."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def work(self, seconds: float) -> None:
        self.now += seconds


class PerfRun:
    """Files of one run, and what its script has written."""

    def __init__(self, root: Path, *, plan: Plan) -> None:
        self.plan = plan
        self.plan_path = root / PLAN_FILE
        self.steps_path = root / STEPS_FILE
        self.plan_path.write_text(to_json(plan), encoding="utf-8")

    @property
    def env(self) -> dict[str, str]:
        return {"NEMOPERF_PLAN": str(self.plan_path), "NEMOPERF_STEPS": str(self.steps_path)}

    def records(self) -> tuple[StepRecord, ...]:
        """Return the records as the framework ``command`` reads them; none if there is no file."""
        if not self.steps_path.exists():
            return ()
        return read_step_records(self.steps_path, total_steps=self.plan.total_steps)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.steps_path.read_text().splitlines()]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(step_writer, "time", clock)
    monkeypatch.setattr(rank_device, "time", clock)
    return clock


@pytest.fixture(autouse=True)
def _outside_of_a_perf_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def perf_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., PerfRun]:
    """Begin a perf run in this process: of a plan, or of 2 + 6 steps with these changes to it."""

    def begin(*, plan: Plan | None = None, **changes: Any) -> PerfRun:
        run = PerfRun(tmp_path, plan=replace(plan or make_plan(), **changes))
        for name, value in run.env.items():
            monkeypatch.setenv(name, value)
        return run

    return begin
