"""Framework ``pulse`` for pytest-nemoperf: what to start for a plan, and how to read the steps that it leaves."""

import json
import sys

from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.frameworks.requirements import Requirement, required_versions, unmet_requirement
from pytest_nemoperf.frameworks.steps import read_step_records
from pytest_nemoperf.records.step import STEPS_FILE, RunOutput


class PulseFramework:
    name = "pulse"
    requirement = Requirement(
        distribution="nemoperf-pulse", module="pulse_train", install="pip install nemoperf-pulse", tested=("1.0",)
    )

    def unsupported(self, plan):
        if plan.layout.gpus != plan.layout.dp_replicate:
            return f"pulse copies whole models only, not {plan.layout.label}; use dp_replicate={plan.layout.gpus}"
        if plan.recompute != "none" or plan.is_compiled or plan.rl is not None:
            return "pulse neither recomputes activations nor compiles nor does RL; use recompute='none'"
        return unmet_requirement(self.requirement, framework=self.name, python=plan.python)

    def command(self, plan, *, run_dir):
        name = self.requirement.distribution
        versions = {name: required_versions(self.requirement, python=plan.python)[name]}
        (run_dir / "pulse.json").write_text(json.dumps(versions))
        argv = (plan.python or sys.executable, "-m", "pulse_train", str(run_dir / "plan.json"))
        return RankCommand(argv=argv, num_processes=1, is_rank=False, env=plan.env)

    def read_output(self, plan, *, run_dir):
        records = read_step_records(run_dir / STEPS_FILE, total_steps=plan.total_steps)
        return RunOutput(records=records, environment=json.loads((run_dir / "pulse.json").read_text()))
