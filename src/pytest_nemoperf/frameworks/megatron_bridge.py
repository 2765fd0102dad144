"""Framework ``megatron_bridge``: NVIDIA Megatron-Bridge, by its own recipe functions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.frameworks.configs.bridge import MARKER, RECIPE_OPTION, BridgeRecipe, load_bridge, read_bridge
from pytest_nemoperf.frameworks.configs.checkout import find_checkout
from pytest_nemoperf.frameworks.configs.config_values import ConfigValues, shown_config
from pytest_nemoperf.frameworks.configs.hydra_words import hydra_text
from pytest_nemoperf.frameworks.configs.python_values import Opaque
from pytest_nemoperf.frameworks.own_recipe import OwnLog, missing_package, own_command, without_config
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.frameworks.requirements import Requirement
from pytest_nemoperf.recipes.memory_rules import MemoryRules, megatron_rules
from pytest_nemoperf.recipes.recipe import Plan

_LOG_FORMAT: Final = "megatron_bridge"
_PACKAGE: Final = re.compile(r"megatron[/.]bridge[/.](perf_)?recipes\b")


class MegatronBridgeFramework(OwnLog):
    """Runs Megatron-Bridge's training script with a recipe; steps, logging and checkpoints are overridden.

    The script is that of the checkout that the recipe lies in, or of the working directory's.
    """

    log_formats = (_LOG_FORMAT,)

    requirement = Requirement(
        distribution="megatron-bridge",
        module="megatron.bridge",
        install="git clone --recurse-submodules https://github.com/NVIDIA-NeMo/Megatron-Bridge && "
        "(cd Megatron-Bridge && uv sync)",
        uses_transformer_engine=True,
    )

    @property
    def name(self) -> str:
        """Name in recipes."""
        return "megatron_bridge"

    def read_config(self, path: Path, *, options: Mapping[str, Any], env: Mapping[str, str]) -> ConfigValues:  # noqa: ARG002 (its values don't depend on variables)
        """Return the values of a recipe for a plan; see ConfigReader."""
        return read_bridge(path, options=options)

    def memory_rules(self, plan: Plan) -> MemoryRules:
        """Return the rules by which a plan's memory is counted."""
        return megatron_rules(plan)

    def unsupported(self, plan: Plan) -> str | None:
        """Return the reason that the plan can't run here, or None."""
        if not plan.framework_config:
            return without_config(plan)
        path = Path(plan.framework_config)
        if find_checkout(path, marker=MARKER) is None:
            return (
                f"{shown_config(path)} lies in no checkout of Megatron-Bridge (a folder with {MARKER}), and neither "
                "does the working directory; clone https://github.com/NVIDIA-NeMo/Megatron-Bridge, install it with: uv "
                "sync, and run pytest there or name the file in it"
            )
        target = path
        if path.suffix in (".yaml", ".yml"):
            target = Path(str(plan.framework_options.get(RECIPE_OPTION)))
        if ":" in str(target) and not _PACKAGE.search(str(target.absolute())):
            return (
                f"{shown_config(path)}: {target} is no recipe of megatron.bridge.recipes or perf_recipes, the packages "
                f"that {MARKER} knows; put it there, or measure your own script by framework='command' and "
                "log_format='megatron_bridge'"
            )
        return missing_package(plan, module="megatron", install="install Megatron-Bridge with: uv sync in its checkout")

    def command(self, plan: Plan, *, run_dir: Path) -> RankCommand:
        """Return the command of torchrun and the training script.

        Raises:
            PlanError: If there is no checkout.
            LaunchError: If the interpreter does not answer.
        """
        path = Path(plan.framework_config)
        checkout = find_checkout(path, marker=MARKER)
        if checkout is None:
            raise PlanError(f"{plan.case}: {self.unsupported(plan)}")
        recipe = load_bridge(path, options=plan.framework_options)
        argv = ["python", "-m", "torch.distributed.run", "--nproc_per_node", str(plan.layout.total_gpus)]
        argv += [MARKER, "--recipe", recipe.name]
        argv += _overrides(plan, recipe=recipe)
        return own_command(plan, argv, run_dir=run_dir, directory=checkout, log_format=_LOG_FORMAT)


def _overrides(plan: Plan, *, recipe: BridgeRecipe) -> Iterator[str]:
    """Yield the file's overrides, those of a run, and the recipe's options."""
    own: dict[str, Any] = {
        **recipe.overrides,
        "train.train_iters": plan.total_steps,
        "validation.eval_iters": 0,
        "checkpoint.save": None,
        "checkpoint.load": None,
        "logger.log_interval": 1,
        "logger.log_throughput": True,
        "logger.tensorboard_dir": None,
    }
    scheduler = recipe.config.get("scheduler")
    train = recipe.config.get("train")
    if isinstance(scheduler, Opaque) and isinstance(train, Opaque) and scheduler.get("lr_decay_iters") is None:
        length = train.get("train_iters")
        if type(length) is int:
            own["scheduler.lr_decay_iters"] = length  # the learning rate falls as long as in the recipe
    for name, value in plan.framework_options.items():
        if name != RECIPE_OPTION:
            own[name] = value
    for name, value in own.items():
        yield f"{name}={hydra_text(value)}"
