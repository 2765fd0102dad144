"""Framework ``trl``: TRL's GRPOTrainer, unmodified, with arguments that follow from the plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.frameworks.launch import noted_environment
from pytest_nemoperf.frameworks.own_recipe import own_command
from pytest_nemoperf.frameworks.plans.trl import grpo_arguments, plan_problems
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.frameworks.requirements import Requirement, unmet_requirement
from pytest_nemoperf.frameworks.steps import read_step_records
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import PLAN_FILE, STEPS_FILE, RunOutput

_ARGUMENTS_FILE: Final = "grpo.json"


class TRLFramework:
    """Runs a program that makes the plan's model and hands it to GRPOTrainer; the callback writes step records.

    Attributes:
        takes_options: framework_options are arguments of GRPOConfig.
        program: Words of the program after the interpreter.
        requirement: Packages that its runs need.
    """

    takes_options = True
    program: tuple[str, ...] = ("-m", "pytest_nemoperf.trainers.trl")
    requirement = Requirement(
        distribution="trl",
        module="trl",
        install="pip install trl==1.16.0 pytest-nemoperf",
        tested=("1.16.0",),
        beside={"transformers": ">=5", "accelerate": ""},
        runs_plugin=True,
    )

    @property
    def name(self) -> str:
        """Name in recipes."""
        return "trl"

    def unsupported(self, plan: Plan) -> str | None:
        """Return the reason that the plan can't run here, or None."""
        return next(plan_problems(plan), None) or unmet_requirement(
            self.requirement, framework=plan.framework, python=plan.python
        )

    def command(self, plan: Plan, *, run_dir: Path) -> RankCommand:
        """Return the command of a rank; GRPOTrainer's arguments are written to the run directory.

        Raises:
            LaunchError: If the interpreter does not answer.
        """
        assert plan.rl is not None  # noqa: S101 (unsupported has refused other plans)
        arguments = grpo_arguments(plan, rl=plan.rl, output_dir=str(run_dir / "trl"))
        (run_dir / _ARGUMENTS_FILE).write_text(json.dumps(arguments, indent=1), encoding="utf-8")
        env = {
            "NEMOPERF_PLAN": str(run_dir / PLAN_FILE),
            "NEMOPERF_STEPS": str(run_dir / STEPS_FILE),
            "NEMOPERF_GRPO": str(run_dir / _ARGUMENTS_FILE),
        }
        return own_command(plan, ["python", *self.program], run_dir=run_dir, env=env, is_rank=True)

    def read_output(self, plan: Plan, *, run_dir: Path) -> RunOutput:
        """Return the records that the callback wrote.

        Raises:
            RecordError: If a step is missing or impossible.
        """
        path = run_dir / STEPS_FILE
        records = read_step_records(path, total_steps=plan.total_steps) if path.exists() else ()
        if len(records) != plan.total_steps:
            raise RecordError(
                f"GRPOTrainer exited with 0, but {path} has {len(records)} of the plan's {plan.total_steps} steps; see "
                f"the logs in {run_dir}/logs"
            )
        return RunOutput(records=records, environment=noted_environment(run_dir))
