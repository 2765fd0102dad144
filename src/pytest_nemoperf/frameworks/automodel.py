"""Framework ``automodel``: NVIDIA NeMo Automodel, by its own recipe files or by one that a plan becomes."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pytest_nemoperf.frameworks.configs.automodel import BENCHMARK, load_automodel, read_automodel, validations
from pytest_nemoperf.frameworks.configs.config_values import ConfigValues
from pytest_nemoperf.frameworks.own_recipe import OwnLog, missing_package, own_command
from pytest_nemoperf.frameworks.plans.automodel import MODEL_FOLDER, plan_config, recipe_kind, unmapped
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.frameworks.requirements import Requirement, installed_versions, unmet_requirement
from pytest_nemoperf.models.huggingface.export import huggingface_config
from pytest_nemoperf.recipes.recipe import Plan

_LOG_FORMAT: Final = "automodel"
_LOG_FILE: Final = "{run_dir}/checkpoints/training.jsonl"
_BENCHMARK_FORMAT: Final = "automodel_benchmark"
_PLAN_CONFIG: Final = "automodel.yaml"
_TRITON: Final = ">=3.6.0,<3.9"
"""3.9 refuses a kernel at its import, for a key that is none of its arguments; 3.6 to 3.8 take it."""


class AutomodelFramework(OwnLog):
    """Runs NeMo Automodel's command line with a recipe file; steps, validation and checkpoints are overridden."""

    log_formats = (_LOG_FORMAT, _BENCHMARK_FORMAT)
    devices: tuple[str, ...] = ("cuda",)
    program: tuple[str, ...] = ("-m", "nemo_automodel.cli.app")
    requirement = Requirement(
        distribution="nemo-automodel",
        module="nemo_automodel.recipes.llm.train_ft",
        install=f"pip install 'nemo-automodel[all]' && pip install --no-deps 'triton{_TRITON}'",
        tested=("0.7.0",),
        beside={"triton": _TRITON},
        runs_plugin=True,
    )

    @property
    def name(self) -> str:
        """Name in recipes."""
        return "automodel"

    def log_format(self, plan: Plan) -> str:
        """Return the preset of the log: one process runs a benchmark recipe through the training loop (cli/app.py)."""
        if plan.framework_config:
            _, _, kind = load_automodel(Path(plan.framework_config), options=plan.framework_options)
        else:
            kind = recipe_kind(plan)
        if kind == BENCHMARK and plan.layout.total_gpus > 1:
            return _BENCHMARK_FORMAT
        return _LOG_FORMAT

    def log_file(self, plan: Plan) -> str:
        """Return the pattern of its log's files, in the folder that the command names."""
        return _LOG_FILE if self.log_format(plan) == _LOG_FORMAT else ""

    def read_config(self, path: Path, *, options: Mapping[str, Any], env: Mapping[str, str]) -> ConfigValues:  # noqa: ARG002 (its values don't depend on variables)
        """Return the values of a recipe file for a plan; see ConfigReader."""
        return read_automodel(path, options=options)

    def unsupported(self, plan: Plan) -> str | None:
        """Return the reason that the plan can't run here, or None."""
        if plan.framework_config:
            return missing_package(
                plan, module="nemo_automodel", install="install it with: pip install 'nemo-automodel[all]'"
            )
        if plan.device not in self.devices:
            return (
                f"NeMo Automodel has no {plan.device.upper()} path, and {plan.system} is one; use framework='torch', "
                "or a system with GPUs"
            )
        return (
            unmapped(plan)
            or unmet_requirement(self.requirement, framework=self.name, python=plan.python)
            or _missing_wandb(plan)
        )

    def command(self, plan: Plan, *, run_dir: Path) -> RankCommand:
        """Return the command line that starts as many ranks as the plan has, and write the recipe file of a plan run.

        Raises:
            LaunchError: If the interpreter does not answer.
        """
        env = {"WANDB_MODE": "disabled"}  # a file may log there, and the benchmark recipe always does
        overrides: list[str] = []
        if plan.framework_config:
            path = Path(plan.framework_config).resolve()
            overrides.extend(_overrides(plan, run_dir=run_dir))
        else:
            path = _write_config(plan, run_dir=run_dir.resolve())
            env["NEMO_ENABLE_USER_MODULES"] = "1"  # its data set and optimizer are this plugin's
            env["PET_STANDALONE"] = "1"  # of torchrun: a free port, not one that another run has
        argv = ["python", *self.program, str(path), "--nproc-per-node", str(plan.layout.total_gpus), *overrides]
        return own_command(
            plan, argv, run_dir=run_dir, env=env, log_format=self.log_format(plan), log_file=self.log_file(plan)
        )


def _missing_wandb(plan: Plan) -> str | None:
    """Return the reason that the benchmark recipe can't run: it imports wandb, though nothing is logged there."""
    if recipe_kind(plan) != BENCHMARK or "wandb" in installed_versions(plan.python):
        return None
    python = plan.python or sys.executable
    return (
        f"framework_options: recipe={BENCHMARK!r} imports wandb, which is not installed in {python}; install it with: "
        f"{shlex.quote(python)} -m pip install wandb"
    )


def _write_config(plan: Plan, *, run_dir: Path) -> Path:
    """Write the recipe file of a plan, and the config of its model; JSON is YAML, and needs no library."""
    folder = run_dir / MODEL_FOLDER
    folder.mkdir(exist_ok=True)
    model = huggingface_config(plan.model, max_positions=plan.seq_len)
    (folder / "config.json").write_text(json.dumps(model, indent=2), encoding="utf-8")
    path = run_dir / _PLAN_CONFIG
    path.write_text(json.dumps(plan_config(plan, run_dir=run_dir), indent=2), encoding="utf-8")
    return path


def _overrides(plan: Plan, *, run_dir: Path) -> Iterator[str]:
    """Yield the overrides of a run, then the recipe's options."""
    _, raw, kind = load_automodel(Path(plan.framework_config), options=plan.framework_options)
    own: dict[str, Any] = {
        "step_scheduler.max_steps": plan.total_steps,
        "step_scheduler.val_every_steps": None,
        "checkpoint.enabled": False,
        "checkpoint.checkpoint_dir": str(run_dir.resolve() / "checkpoints"),
    }
    for name in validations(raw):
        own[name] = None  # or the last step is followed by a validation
    if kind == BENCHMARK:
        own["benchmark.warmup_steps"] = plan.warmup_steps
    for name, value in {**own, **plan.framework_options}.items():
        yield f"--{name.lstrip('-+')}={value}"
