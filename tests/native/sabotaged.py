"""The native framework with a sabotaged entrypoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import RunOutput


@dataclass(frozen=True, slots=True)
class Sabotaged:
    """The native framework with another entrypoint."""

    framework: TorchFramework
    entrypoint: str

    @property
    def name(self) -> str:
        return self.framework.name

    def unsupported(self, plan: Plan) -> str | None:
        return self.framework.unsupported(plan)

    def command(self, plan: Plan, *, run_dir: Path) -> RankCommand:
        return replace(self.framework.command(plan, run_dir=run_dir), entrypoint=self.entrypoint)

    def read_output(self, plan: Plan, *, run_dir: Path) -> RunOutput:
        return self.framework.read_output(plan, run_dir=run_dir)
