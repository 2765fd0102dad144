"""Framework ``command``: any program with step records of its own, or a log that is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.frameworks.interpreter import with_interpreter
from pytest_nemoperf.frameworks.launch import note_launch, noted_environment
from pytest_nemoperf.frameworks.logged import log_pattern, read_logged_output
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.frameworks.steps import read_step_records
from pytest_nemoperf.logs.log_format import RUN_DIR, TOTAL_STEPS
from pytest_nemoperf.logs.presets import preset_of
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import PLAN_FILE, STEPS_FILE, RunOutput


class CommandFramework:
    """Runs the recipe's command once, and the command starts its own ranks; or once per rank.

    The command reads its plan from the file named by NEMOPERF_PLAN, and writes one StepRecord per line to the file
    named by NEMOPERF_STEPS, unless the recipe names the format of its log. NEMOPERF_RUN_DIR is a directory for its
    other files.
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
        """Return the recipe's command, its files named in variables; note the launch in the run directory.

        Raises:
            LaunchError: If its interpreter does not answer.
        """
        log_file = ""
        total_steps = plan.total_steps
        if plan.log_format:
            log_file = log_pattern(plan, log_format=plan.log_format, log_file=plan.log_file)
            total_steps += preset_of(plan.log_format).log_format.is_clocked  # the first step only starts the clock
        env = {
            **_log_variables(plan, run_dir=run_dir),
            **plan.env,
            "NEMOPERF_RUN_DIR": str(run_dir),
            "NEMOPERF_PLAN": str(run_dir / PLAN_FILE),
            "NEMOPERF_STEPS": str(run_dir / STEPS_FILE),
        }
        words = []
        for word in plan.command:
            words.append(word.replace(RUN_DIR, str(run_dir)).replace(TOTAL_STEPS, str(total_steps)))
        command = RankCommand(
            argv=tuple(words),
            num_processes=plan.layout.total_gpus if plan.is_command_per_rank else 1,
            is_rank=plan.is_command_per_rank,
            env=env,
        )
        command = with_interpreter(command, python=plan.python)
        note_launch(command, run_dir=run_dir, python=plan.python, log_file=log_file)
        return command

    def read_output(self, plan: Plan, *, run_dir: Path) -> RunOutput:
        """Return the records that the command wrote or its log tells, and the variables stored when it was launched.

        Raises:
            RecordError: If there are none, or one is torn, impossible or out of order.
        """
        if plan.log_format:
            return read_logged_output(plan, run_dir=run_dir)
        path = run_dir / STEPS_FILE
        records = read_step_records(path, total_steps=plan.total_steps) if path.exists() else ()
        if not records:
            raise RecordError(
                f"the command exited with 0 but wrote no step records to {path}; "
                "it must append one JSON object a step to the file named by NEMOPERF_STEPS, or the recipe name its log "
                "in log_format"
            )
        return RunOutput(records=records, environment=noted_environment(run_dir))


def _log_variables(plan: Plan, *, run_dir: Path) -> Mapping[str, str]:
    """Return the variables that let the command write the log that is read."""
    if not plan.log_format:
        return {}
    variables = {}
    for name, value in preset_of(plan.log_format).env.items():
        variables[name] = value.replace(RUN_DIR, str(run_dir))
    return variables
