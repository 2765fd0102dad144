"""Framework ``nemo_rl``: NVIDIA NeMo RL, by its own recipe files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.frameworks.configs.checkout import find_checkout
from pytest_nemoperf.frameworks.configs.config_values import ConfigValues, shown_config
from pytest_nemoperf.frameworks.configs.hydra_words import hydra_text
from pytest_nemoperf.frameworks.configs.nemo_rl import SCRIPT_OPTION, load_nemo_rl, read_nemo_rl
from pytest_nemoperf.frameworks.configs.yaml_file import YamlConfig
from pytest_nemoperf.frameworks.own_recipe import OwnLog, missing_package, own_command, without_config
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.frameworks.requirements import Requirement
from pytest_nemoperf.recipes.memory_rules import MemoryRules, megatron_rules, native_rules
from pytest_nemoperf.recipes.recipe import Plan

_LOG_FORMAT: Final = "nemo_rl"
_MARKER: Final = "examples/run_grpo.py"


class NemoRLFramework(OwnLog):
    """Runs NeMo RL's own training script with its recipe file; steps, logging and checkpoints are overridden.

    The script is that of the file's algorithm, in the checkout that the file lies in, or in the working directory's.
    """

    log_formats = (_LOG_FORMAT,)

    requirement = Requirement(
        distribution="nemo-rl",
        module="nemo_rl",
        install="git clone --recurse-submodules https://github.com/NVIDIA-NeMo/RL && (cd RL && uv sync)",
    )

    @property
    def name(self) -> str:
        """Name in recipes."""
        return "nemo_rl"

    def read_config(self, path: Path, *, options: Mapping[str, Any], env: Mapping[str, str]) -> ConfigValues:
        """Return the values of a recipe file for a plan; see ConfigReader."""
        return read_nemo_rl(path, options=options, env=env)

    def memory_rules(self, plan: Plan) -> MemoryRules:
        """Return Megatron-Core's rules, or fp32 weights under FSDP2 as the native engine's for the DTensor backend.

        The host keeps the reference policy, and while the same ranks generate the training's weights and states too
        (``offload_before_refit`` and ``offload_after_refit`` of NeMo RL's policy workers).
        """
        rules = native_rules(plan)
        if _is_megatron(plan):
            rules = megatron_rules(plan)
        return replace(rules, has_reference_on_host=True, has_state_on_host=True)

    def unsupported(self, plan: Plan) -> str | None:
        """Return the reason that the plan can't run here, or None."""
        if not plan.framework_config:
            return without_config(plan)
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
            PlanError: If the script is not there.
            LaunchError: If the interpreter does not answer.
        """
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
        argv += _overrides(plan, algorithm=algorithm, run_dir=run_dir)
        return own_command(plan, argv, run_dir=run_dir, directory=checkout, log_format=_LOG_FORMAT)


def _is_megatron(plan: Plan) -> bool:
    """Return whether Megatron-Core trains a plan: by its recipe file, else unless FSDP is asked for."""
    if not plan.framework_config:
        return plan.layout.dp_shard == 1
    config, _, _ = load_nemo_rl(Path(plan.framework_config), options=plan.framework_options, env=plan.env)
    return config.flag("policy.megatron_cfg.enabled")


def _script(config: YamlConfig, *, algorithm: str) -> str:
    """Return the training script of a file, from the checkout's root."""
    if config.get("async_rl") is not None:
        return f"examples/run_{algorithm}_single_controller.py"
    if config.flag("env.should_use_nemo_gym"):
        return f"examples/nemo_gym/run_{algorithm}_nemo_gym.py"
    return f"examples/run_{algorithm}.py"


def _overrides(plan: Plan, *, algorithm: str, run_dir: Path) -> Iterator[str]:
    """Yield the overrides of a run, then the recipe's options; ``++`` sets a key that the file may lack."""
    own: dict[str, Any] = {
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
    for name, value in own.items():
        yield f"++{name}={hydra_text(value)}"
    for name, value in plan.framework_options.items():
        if name != SCRIPT_OPTION:
            yield f"++{name.lstrip('+')}={hydra_text(value)}"
