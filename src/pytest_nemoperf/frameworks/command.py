"""Framework ``command``: any program that writes StepRecords as JSON lines."""

from __future__ import annotations

from pathlib import Path

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.frameworks.environment import read_environment, write_environment
from pytest_nemoperf.frameworks.interpreter import with_interpreter
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.frameworks.steps import read_step_records
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import PLAN_FILE, STEPS_FILE, RunOutput


class CommandFramework:
    """Runs the recipe's command once; the command starts its own ranks.

    The command reads its plan from the file named by NEMOPERF_PLAN, and writes one StepRecord per line to the file
    named by NEMOPERF_STEPS. NEMOPERF_RUN_DIR is a directory for its other files.
    """

    @property
    def name(self) -> str:
        """Name in recipes."""
        return "command"

    def unsupported(self, plan: Plan) -> str | None:
        """Return the reason that the plan can't run, or None; the command's own limits are not known."""
        if plan.command:
            return None
        return "the plan has no command; give the recipe an argv in command"

    def command(self, plan: Plan, *, run_dir: Path) -> RankCommand:
        """Return the recipe's command, its files named in variables; store its versions and variables.

        Raises:
            LaunchError: If its interpreter does not answer.
        """
        env = {
            **plan.env,
            "NEMOPERF_RUN_DIR": str(run_dir),
            "NEMOPERF_PLAN": str(run_dir / PLAN_FILE),
            "NEMOPERF_STEPS": str(run_dir / STEPS_FILE),
        }
        num_processes = plan.layout.total_gpus if plan.is_command_per_rank else 1
        command = RankCommand(argv=plan.command, num_processes=num_processes, is_rank=plan.is_command_per_rank, env=env)
        command = with_interpreter(command, python=plan.python)
        write_environment(command, run_dir=run_dir)
        return command

    def read_output(self, plan: Plan, *, run_dir: Path) -> RunOutput:
        """Return the records that the command wrote, and the variables stored when it was launched.

        Raises:
            RecordError: If there are none, or one is torn, impossible or out of order.
        """
        path = run_dir / STEPS_FILE
        records = read_step_records(path, total_steps=plan.total_steps) if path.exists() else ()
        if not records:
            raise RecordError(
                f"the command exited with 0 but wrote no step records to {path}; "
                "it must append one JSON object a step to the file named by NEMOPERF_STEPS"
            )
        return RunOutput(records=records, environment=read_environment(run_dir))
