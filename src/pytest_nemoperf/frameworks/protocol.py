"""What a framework must be able to do; third parties add one with the hook ``pytest_nemoperf_frameworks``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.records import RunOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCommand:
    """What a launcher starts.

    Attributes:
        argv: Command of one rank, or of the one process that starts the ranks itself.
        num_processes: How many of them the launcher starts; each gets RANK, WORLD_SIZE, LOCAL_RANK,
            MASTER_ADDR and MASTER_PORT.
        entrypoint: ``package.module:function`` that does the same as argv in a process that already exists,
            so that a warm server can skip the imports; None if there is no such function.
        env: Environment on top of the launcher's own.
    """

    argv: tuple[str, ...]
    num_processes: int
    entrypoint: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)


class Framework(Protocol):
    """Trains a plan and says what happened."""

    @property
    def name(self) -> str:
        """The word recipes use for it."""
        ...

    def unsupported(self, plan: Plan) -> str | None:
        """Return why this framework can't run the plan here, or None if it can."""
        ...

    def command(self, plan: Plan, *, run_dir: Path) -> RankCommand:
        """Return what to start; ``run_dir`` holds ``plan.json`` and takes what the ranks write."""
        ...

    def read_output(self, plan: Plan, *, run_dir: Path) -> RunOutput:
        """Return what a run that exited with 0 left in ``run_dir``.

        Raises:
            RecordError: If it is missing, torn or impossible.
        """
        ...
