"""Framework ``automodel``: NVIDIA NeMo Automodel, by its own recipe files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pytest_nemoperf.frameworks.configs.automodel import BENCHMARK, load_automodel, read_automodel, validations
from pytest_nemoperf.frameworks.configs.config_values import ConfigValues
from pytest_nemoperf.frameworks.own_recipe import OwnLog, missing_package, own_command, without_config
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.recipes.recipe import Plan

_MODULE: Final = "nemo_automodel.cli.app"
_LOG_FORMAT: Final = "automodel"
_LOG_FILE: Final = "{run_dir}/checkpoints/training.jsonl"
_BENCHMARK_FORMAT: Final = "automodel_benchmark"


class AutomodelFramework(OwnLog):
    """Runs NeMo Automodel's command line with its recipe file; steps, validation and checkpoints are overridden."""

    log_formats = (_LOG_FORMAT, _BENCHMARK_FORMAT)

    @property
    def name(self) -> str:
        """Name in recipes."""
        return "automodel"

    def log_format(self, plan: Plan) -> str:
        """Return the preset of the log: one process runs a benchmark recipe through the training loop (cli/app.py)."""
        _, _, kind = load_automodel(Path(plan.framework_config), options=plan.framework_options)
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
        if not plan.framework_config:
            return without_config(plan)
        return missing_package(
            plan, module="nemo_automodel", install="install it with: pip install 'nemo-automodel[all]'"
        )

    def command(self, plan: Plan, *, run_dir: Path) -> RankCommand:
        """Return the command line that starts as many ranks as the plan has.

        Raises:
            LaunchError: If the interpreter does not answer.
        """
        path = Path(plan.framework_config).resolve()
        argv = ["python", "-m", _MODULE, str(path), "--nproc-per-node", str(plan.layout.total_gpus)]
        argv += _overrides(plan, run_dir=run_dir)
        env = {"WANDB_MODE": "disabled"}  # a file may log there, and the benchmark recipe always does
        return own_command(
            plan, argv, run_dir=run_dir, env=env, log_format=self.log_format(plan), log_file=self.log_file(plan)
        )


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
