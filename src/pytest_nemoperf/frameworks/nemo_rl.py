"""Framework ``nemo_rl``: NVIDIA NeMo RL, by plans or by its own recipe files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pytest_nemoperf.errors import PlanError, RecipeError
from pytest_nemoperf.frameworks.configs.checkout import find_checkout
from pytest_nemoperf.frameworks.configs.config_values import ConfigValues, shown_config
from pytest_nemoperf.frameworks.configs.hydra_words import hydra_text
from pytest_nemoperf.frameworks.configs.nemo_rl import SCRIPT_OPTION, load_nemo_rl, read_nemo_rl
from pytest_nemoperf.frameworks.configs.yaml_file import YamlConfig
from pytest_nemoperf.frameworks.own_recipe import OwnLog, missing_package, own_command
from pytest_nemoperf.frameworks.plan_runs import (
    checkout_problems,
    misplaced_options,
    option_problems,
    plan_checkout,
)
from pytest_nemoperf.frameworks.plans.nemo_rl import (
    BACKEND_OPTION,
    BACKENDS,
    backend_of,
    own_overrides,
    plan_overrides,
    plan_problems,
)
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.frameworks.requirements import Requirement, unmet_requirement
from pytest_nemoperf.recipes.memory_rules import MemoryRules, nemo_rl_rules
from pytest_nemoperf.recipes.recipe import CHECKOUT_OPTION, Plan

_LOG_FORMAT: Final = "nemo_rl"
_MARKER: Final = "examples/run_grpo.py"
_URL: Final = "https://github.com/NVIDIA-NeMo/RL"
_OWN_OPTIONS: Final = (SCRIPT_OPTION, BACKEND_OPTION, CHECKOUT_OPTION)
"""Options that are no settings of a recipe file."""
_MEGATRON: Final = "megatron"
_SECTION: Final = "grpo"
"""Section of plans, DAPO's too."""


class NemoRLFramework(OwnLog):
    """Runs NeMo RL's own training script with a recipe file and overrides.

    A plan's file is the base of its backend, with everything that the plan says overridden; one of framework_config
    runs as it is, but for steps, logging and checkpoints. The script is that of the file's algorithm, in the checkout
    that the file lies in, in that of the option ``checkout``, or in the working directory's.

    Attributes:
        devices: Devices of plans.
        requirement: Packages that runs of plans need.
    """

    log_formats = (_LOG_FORMAT,)
    devices: tuple[str, ...] = ("cuda",)
    requirement = Requirement(
        distribution="nemo-rl",
        module="nemo_rl",
        install=f"git clone --recurse-submodules {_URL} nemo-rl && cd nemo-rl && uv sync",
    )

    @property
    def name(self) -> str:
        """Name in recipes."""
        return "nemo_rl"

    def read_config(self, path: Path, *, options: Mapping[str, Any], env: Mapping[str, str]) -> ConfigValues:
        """Return the values of a recipe file for a plan; see ConfigReader.

        Raises:
            RecipeError: If it can't be read, or an option is for plans.
        """
        for problem in misplaced_options(
            options, names=(BACKEND_OPTION, CHECKOUT_OPTION), owner="without framework_config"
        ):
            raise RecipeError(problem)
        return read_nemo_rl(path, options=options, env=env)

    def memory_rules(self, plan: Plan) -> MemoryRules:
        """Return the rules by which a plan's memory is counted."""
        return nemo_rl_rules(plan, is_megatron=_is_megatron(plan))

    def unsupported(self, plan: Plan) -> str | None:
        """Return the reason that the plan can't run here, or None."""
        if not plan.framework_config:
            return next(self._plan_problems(plan), None)
        if find_checkout(Path(plan.framework_config), marker=_MARKER) is None:
            return (
                f"{shown_config(Path(plan.framework_config))} lies in no checkout of NeMo RL (a folder with {_MARKER}),"
                " and neither does the working directory; clone https://github.com/NVIDIA-NeMo/RL, install it with: uv "
                "sync, and run pytest there or name the file in it"
            )
        return missing_package(plan, module="ray", install="install NeMo RL with: uv sync in its checkout")

    def command(self, plan: Plan, *, run_dir: Path) -> RankCommand:
        """Return the training script's command.

        Raises:
            PlanError: If the script is not there, or the plan can't run.
            LaunchError: If the interpreter does not answer.
        """
        if not plan.framework_config:
            return self._plan_command(plan, run_dir=run_dir)
        path = Path(plan.framework_config)
        checkout = find_checkout(path, marker=_MARKER)
        if checkout is None:
            raise PlanError(f"{plan.case}: {self.unsupported(plan)}")
        config, _, algorithm = load_nemo_rl(path, options=plan.framework_options, env=plan.env)
        script = plan.framework_options.get(SCRIPT_OPTION) or _script(config, algorithm=algorithm)
        if not (checkout / script).is_file():
            raise PlanError(
                f"{plan.case}: there is no {script} in {checkout}, the checkout of NeMo RL; name the training script "
                f"in framework_options={{{SCRIPT_OPTION!r}: ...}}"
            )
        argv = ["python", script, "--config", str(path.resolve())]
        argv += _words(_run_overrides(plan, algorithm=algorithm, run_dir=run_dir))
        argv += _words(plan.framework_options)
        return own_command(plan, argv, run_dir=run_dir, directory=checkout, log_format=_LOG_FORMAT)

    def _plan_problems(self, plan: Plan) -> Iterator[str]:
        """Yield the reasons that a plan without a file of its own can't run here."""
        yield from misplaced_options(plan.framework_options, names=(SCRIPT_OPTION,), owner="with framework_config")
        yield from plan_problems(plan)
        if plan.rl is not None:
            run = _run_overrides(plan, algorithm=_SECTION, run_dir=Path())
            yield from option_problems(plan.framework_options, said=plan_overrides(plan, rl=plan.rl), run=run)
        yield from checkout_problems(plan, marker=_MARKER, url=_URL, devices=self.devices)
        unmet = unmet_requirement(self.requirement, framework=self.name, python=plan.python)
        if unmet:
            yield unmet

    def _plan_command(self, plan: Plan, *, run_dir: Path) -> RankCommand:
        """Return the training script's command with a plan's overrides."""
        checkout = plan_checkout(plan, marker=_MARKER)
        problem = next(plan_problems(plan), None)
        if checkout is None or problem or plan.rl is None:
            raise PlanError(f"{plan.case}: {problem or self.unsupported(plan)}")
        argv = ["python", _MARKER, "--config", BACKENDS[backend_of(plan)]]
        overrides = {**own_overrides(plan, rl=plan.rl), **plan.framework_options, **plan_overrides(plan, rl=plan.rl)}
        argv += _words(overrides | _run_overrides(plan, algorithm=_SECTION, run_dir=run_dir))
        return own_command(plan, argv, run_dir=run_dir, directory=checkout, log_format=_LOG_FORMAT)


def _is_megatron(plan: Plan) -> bool:
    """Return whether Megatron-Core trains a plan: by its recipe file, or by the option."""
    if not plan.framework_config:
        return backend_of(plan) == _MEGATRON
    config, _, _ = load_nemo_rl(Path(plan.framework_config), options=plan.framework_options, env=plan.env)
    return config.flag("policy.megatron_cfg.enabled")


def _script(config: YamlConfig, *, algorithm: str) -> str:
    """Return the training script of a file, from the checkout's root."""
    if config.get("async_rl") is not None:
        return f"examples/run_{algorithm}_single_controller.py"
    if config.flag("env.should_use_nemo_gym"):
        return f"examples/nemo_gym/run_{algorithm}_nemo_gym.py"
    return f"examples/run_{algorithm}.py"


def _run_overrides(plan: Plan, *, algorithm: str, run_dir: Path) -> dict[str, Any]:
    """Return the settings of each run, with the section of its algorithm."""
    return {
        f"{algorithm}.max_num_steps": plan.total_steps,
        f"{algorithm}.val_period": 0,
        f"{algorithm}.val_at_start": False,
        f"{algorithm}.val_at_end": False,
        "checkpointing.enabled": False,
        "logger.log_dir": str(run_dir.resolve() / "nemo_rl"),
        "logger.tensorboard_enabled": True,
        "logger.wandb_enabled": False,
        "logger.mlflow_enabled": False,
        "logger.swanlab_enabled": False,
    }


def _words(overrides: Mapping[str, Any]) -> Iterator[str]:
    """Yield overrides as words; ``++`` sets a key that the file may lack."""
    for name, value in overrides.items():
        if name not in _OWN_OPTIONS:
            yield f"++{name.lstrip('+')}={hydra_text(value)}"
