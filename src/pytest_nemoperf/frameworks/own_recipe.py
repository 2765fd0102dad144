"""Launch of a framework's own recipe file: its place, its interpreter, and the command that goes there."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pytest_nemoperf.frameworks.interpreter import with_interpreter
from pytest_nemoperf.frameworks.launch import note_launch
from pytest_nemoperf.frameworks.logged import log_pattern, read_logged_output
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.logs.log_format import LogFormat
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import RunOutput

_GO_THERE: Final = "import os, sys; os.chdir(sys.argv[1]); os.execvp(sys.argv[2], sys.argv[2:])"
"""Program that runs the rest of its arguments in a directory, so that the directory is an argument like others."""


class OwnLog:
    """Log of a framework's runs, and their records from it; classes of frameworks add the rest of the protocol.

    Attributes:
        log_formats: Names of the presets of the logs that runs may write, the usual one first.
    """

    log_formats: tuple[str, ...]

    def log_format(self, plan: Plan) -> str:  # noqa: ARG002 (a framework may have a second one)
        """Return the name of the preset of a run's log."""
        return self.log_formats[0]

    def log_file(self, plan: Plan) -> str:  # noqa: ARG002 (as above)
        """Return the pattern of that log's files; empty for the preset's."""
        return ""

    def read_output(self, plan: Plan, *, run_dir: Path) -> RunOutput:
        """Return the records that the log of a run tells.

        Raises:
            RecordError: If a step is missing.
        """
        return read_logged_output(plan, run_dir=run_dir, log_format=self.log_format(plan), log_file=self.log_file(plan))


def without_config(plan: Plan) -> str:
    """Return the reason that a plan without the framework's own recipe can't run."""
    return (
        f"framework={plan.framework!r} runs recipe files of its own, and this plan has none; give "
        "framework_config=..., or framework='torch' for the native engine"
    )


def missing_package(plan: Plan, *, module: str, install: str) -> str | None:
    """Return the reason that a package can't be imported, or None; another interpreter's packages are not known.

    Args:
        plan: Plan of the run.
        module: Top-level module.
        install: Advice to install it.
    """
    if plan.python or importlib.util.find_spec(module) is not None:
        return None
    return (
        f"framework={plan.framework!r} needs {module}, which is not installed beside pytest; {install}, or name the "
        "interpreter that has it in python= or perf_python"
    )


def own_command(
    plan: Plan,
    argv: Sequence[str],
    *,
    run_dir: Path,
    directory: Path | None = None,
    env: Mapping[str, str] | None = None,
    log_format: str | LogFormat = "",
    log_file: str = "",
    is_rank: bool = False,
) -> RankCommand:
    """Return the command of a run that starts its own ranks, or of each rank; note the launch in the run directory.

    Args:
        plan: Plan of the run.
        argv: Program and arguments; ``python`` first means the plan's interpreter, else this process's.
        run_dir: Directory of the run.
        directory: Working directory; None for that of the session.
        env: Variables beside the plan's, which come first.
        log_format: Log that will be read; empty for a program that writes step records.
        log_file: Pattern of its files; empty for the preset's.
        is_rank: The command is that of one rank, and the launcher starts it for each.

    Raises:
        LaunchError: If the interpreter does not answer.
    """
    words = tuple(argv)
    python = plan.python or sys.executable  # its packages are those that were looked for
    if words[0] == "python":
        words = (python, *words[1:])
    if directory is not None and directory.resolve() != Path.cwd().resolve():
        words = (python, "-c", _GO_THERE, str(directory), *words)
    variables = {**(env or {}), **plan.env, "NEMOPERF_RUN_DIR": str(run_dir)}
    num_processes = plan.layout.total_gpus if is_rank else 1
    command = RankCommand(argv=words, num_processes=num_processes, is_rank=is_rank, env=variables)
    command = with_interpreter(command, python=plan.python)
    pattern = log_pattern(plan, log_format=log_format, log_file=log_file) if log_format else ""
    note_launch(command, run_dir=run_dir, python=plan.python, log_file=pattern)
    return command
