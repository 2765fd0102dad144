"""Framework ``megatron``: Megatron-Core in our ranks, started by our launchers."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from pytest_nemoperf.frameworks.launch import note_launch, noted_environment
from pytest_nemoperf.frameworks.number_formats import unsupported_format
from pytest_nemoperf.frameworks.plans.megatron import unsupported_by_megatron, unsupported_plan
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.frameworks.requirements import Requirement, installed_versions, unmet_requirement
from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.recipes.memory_rules import MemoryRules, megatron_rules
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import RunOutput

_TE: Final = "transformer-engine"


class MegatronFramework:
    """Trains with Megatron-Core's model, schedules, data parallelism and optimizer, one process per rank."""

    devices: tuple[str, ...] = ("cuda",)
    """Devices that it runs on."""
    program: tuple[str, ...] = ("-m", "pytest_nemoperf.trainers.megatron_core.entry")
    """Command of a rank behind the interpreter."""

    @property
    def name(self) -> str:
        """Name in recipes."""
        return "megatron"

    @property
    def requirement(self) -> Requirement:
        """Packages that its runs need."""
        return Requirement(
            distribution="megatron-core",
            module="megatron.core",
            install="pip install megatron-core pytest-nemoperf; for sequence and context parallelism, latent attention "
            "and 8-bit formats also pip install --no-build-isolation 'transformer-engine[pytorch]'",
            tested=("0.16.1",),
            uses_transformer_engine=True,
            runs_plugin=True,
        )

    def memory_rules(self, plan: Plan) -> MemoryRules:
        """Return the rules by which a plan's memory is counted."""
        return megatron_rules(plan)

    def unsupported(self, plan: Plan) -> str | None:
        """Return the reason that Megatron-Core can't run the plan here, or None if it can."""
        if plan.device not in self.devices:
            return (
                f"Megatron-Core runs on GPUs only, and system={plan.system} has none; use framework='torch', or a "
                "system with GPUs"
            )
        problem = unsupported_by_megatron(plan.model) or unsupported_format(plan) or unsupported_plan(plan, has_te=True)
        problem = problem or unmet_requirement(self.requirement, framework=self.name, python=plan.python)
        if problem:
            return problem
        return unsupported_plan(plan, has_te=bool(installed_versions(plan.python).get(_TE)))

    def command(self, plan: Plan, *, run_dir: Path) -> RankCommand:
        """Return the command of one rank, and note the versions in its interpreter."""
        env = dict(plan.env)
        if plan.layout.tp * plan.layout.cp > 1:
            # As Megatron-LM asks for: kernels start in the order of their calls, so that messages start before them.
            env.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
        command = RankCommand(
            argv=(plan.python or sys.executable, *self.program),
            num_processes=plan.layout.total_gpus,
            env={**env, "NEMOPERF_RUN_DIR": str(run_dir)},
        )
        note_launch(command, run_dir=run_dir, python=plan.python)
        return command

    def read_output(self, plan: Plan, *, run_dir: Path) -> RunOutput:
        """Return the records of a run that exited with 0.

        Raises:
            RecordError: If the result or a step is missing, torn or impossible.
        """
        output = TorchFramework().read_output(plan, run_dir=run_dir)  # the ranks write the native engine's files
        return replace(output, environment=noted_environment(run_dir) | dict(output.environment))
