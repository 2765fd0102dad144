"""Framework ``torchtitan``: its own training loop, with a config that follows from the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pytest_nemoperf.frameworks.own_recipe import OwnLog, own_command
from pytest_nemoperf.frameworks.plans.torchtitan import option_words, plan_problems
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.frameworks.requirements import Requirement, installed_versions, unmet_requirement
from pytest_nemoperf.recipes.recipe import Plan

_CONFIG: Final = ("--module", "pytest_nemoperf.trainers.torchtitan", "--config", "from_plan")


class TorchtitanFramework(OwnLog):
    """Runs torchtitan's training program in each rank; records are read from its event files.

    Attributes:
        takes_options: framework_options are words of its command line.
        delays_steps: The plan's tokens come late in a self-test.
        devices: Devices of plans that it runs.
        program: Words of its program after the interpreter.
        requirement: Packages that its runs need.
    """

    log_formats = ("torchtitan_events", "torchtitan")
    takes_options = True
    delays_steps = True
    devices: tuple[str, ...] = ("cuda",)
    program: tuple[str, ...] = ("-m", "torchtitan.train")
    requirement = Requirement(
        distribution="torchtitan",
        module="torchtitan.trainer",
        install="pip install torchtitan==0.3.0 triton pytest-nemoperf",
        tested=("0.3.0",),
        beside={"triton": ">=3.6"},  # imported by its expert kernels, and not asked for
        runs_plugin=True,
    )

    @property
    def name(self) -> str:
        """Name in recipes."""
        return "torchtitan"

    def unsupported(self, plan: Plan) -> str | None:
        """Return the reason that the plan can't run here, or None."""
        if plan.device not in self.devices:
            return (
                f"framework={plan.framework!r} with device={plan.device}: torchtitan's attention has no backward pass "
                "on a CPU, and its loop asks for an accelerator; use framework='torch' there"
            )
        problem = next(plan_problems(plan, torch=""), None)
        problem = problem or unmet_requirement(self.requirement, framework=plan.framework, python=plan.python)
        if problem is not None:
            return problem
        torch = installed_versions(plan.python).get("torch", "")
        return next(plan_problems(plan, torch=torch), None)

    def command(self, plan: Plan, *, run_dir: Path) -> RankCommand:
        """Return the command of a rank.

        Raises:
            LaunchError: If the interpreter does not answer.
        """
        argv = ["python", *self.program, *_CONFIG, *option_words(dict(plan.framework_options))]
        return own_command(plan, argv, run_dir=run_dir, log_format=self.log_format(plan), is_rank=True)
