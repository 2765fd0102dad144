"""Protocol of frameworks; others are added by the hook ``pytest_nemoperf_frameworks``, or by entry points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from pytest_nemoperf.recipes.memory_rules import MemoryRules, native_rules
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import RunOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCommand:
    """Processes that a launcher starts.

    Attributes:
        argv: Command of one rank, or of the one process that starts the ranks itself.
        num_processes: Number of processes.
        is_rank: Each process is a rank, and gets RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and
            MASTER_PORT. Without it the one process gets none of them, so that a program of one process does not take
            itself for a rank; it starts its ranks itself if it has any.
        entrypoint: ``package.module:function`` that does the same as argv in a process that already exists,
            so that a warm server can skip the imports; None if there is no such function.
        env: Environment on top of the launcher's own.
    """

    argv: tuple[str, ...]
    num_processes: int
    is_rank: bool = True
    entrypoint: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)


class Framework(Protocol):
    """Turns a plan into a command, and the files that it writes into records."""

    @property
    def name(self) -> str:
        """Name in recipes."""
        ...

    def unsupported(self, plan: Plan) -> str | None:
        """Return the reason that this framework can't run the plan here, or None if it can."""
        ...

    def command(self, plan: Plan, *, run_dir: Path) -> RankCommand:
        """Return the command of a run; ``run_dir`` holds ``plan.json``, and the ranks write their files to it."""
        ...

    def read_output(self, plan: Plan, *, run_dir: Path) -> RunOutput:
        """Return the output of a run that exited with 0, read from ``run_dir``.

        Raises:
            RecordError: If a record is missing, torn or impossible.
        """
        ...


@runtime_checkable
class MemoryPricer(Framework, Protocol):
    """Framework that keeps other things in memory than the native engine."""

    def memory_rules(self, plan: Plan) -> MemoryRules:
        """Return the rules by which a plan's memory is counted."""
        ...


def memory_rules_of(framework: Framework | None, *, plan: Plan) -> MemoryRules:
    """Return a framework's rules of memory; the native engine's for one without any, or one that is not known."""
    if isinstance(framework, MemoryPricer):
        return framework.memory_rules(plan)
    return native_rules(plan)


@runtime_checkable
class OptionTaker(Framework, Protocol):
    """Framework that takes framework_options in runs of plans, though it reads no recipe files."""

    takes_options: Literal[True]


@runtime_checkable
class StepDelayer(Framework, Protocol):
    """LogWriter that delays each step by the plan's ``inject_pct``; a log alone can't."""

    delays_steps: Literal[True]


@runtime_checkable
class CheckpointTimer(Framework, Protocol):
    """Framework with ranks that time the save and load of a checkpoint in the plan's ``checkpoint_dir``."""

    times_checkpoints: Literal[True]


@runtime_checkable
class LogWriter(Framework, Protocol):
    """Framework that reads its records from a log that its runs write; recipes for it need no ``log_format``."""

    @property
    def log_formats(self) -> tuple[str, ...]:
        """Names of the presets of the logs that its runs may write, the usual one first."""
        ...

    def log_format(self, plan: Plan) -> str:
        """Return the name of the preset of the log that a plan's run writes."""
        ...

    def log_file(self, plan: Plan) -> str:
        """Return the pattern of that log's files; empty for the preset's."""
        ...
