"""Framework ``megatron_bridge``: NVIDIA Megatron-Bridge, by plans or by its own recipe functions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pytest_nemoperf.errors import PlanError, RecipeError
from pytest_nemoperf.frameworks.configs.bridge import MARKER, RECIPE_OPTION, BridgeRecipe, load_bridge, read_bridge
from pytest_nemoperf.frameworks.configs.checkout import find_checkout
from pytest_nemoperf.frameworks.configs.config_values import ConfigValues, shown_config
from pytest_nemoperf.frameworks.configs.hydra_words import hydra_text
from pytest_nemoperf.frameworks.configs.python_values import Opaque
from pytest_nemoperf.frameworks.own_recipe import OwnLog, missing_package, own_command
from pytest_nemoperf.frameworks.plan_runs import (
    checkout_problems,
    misplaced_options,
    option_problems,
    plan_checkout,
)
from pytest_nemoperf.frameworks.plans.megatron_bridge import (
    base_recipe,
    own_overrides,
    plan_environment,
    plan_overrides,
    plan_problems,
    run_overrides,
)
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.frameworks.requirements import Requirement, unmet_requirement
from pytest_nemoperf.recipes.memory_rules import MemoryRules, megatron_rules
from pytest_nemoperf.recipes.recipe import CHECKOUT_OPTION, Plan

_LOG_FORMAT: Final = "megatron_bridge"
_URL: Final = "https://github.com/NVIDIA-NeMo/Megatron-Bridge"
_PACKAGE: Final = re.compile(r"megatron[/.]bridge[/.](perf_)?recipes\b")


class MegatronBridgeFramework(OwnLog):
    """Runs Megatron-Bridge's training script with a recipe and overrides.

    A plan's recipe is the library's for its model, with everything that the plan says overridden; one of
    framework_config runs as it is, but for steps, logging and checkpoints. The script is that of the checkout that the
    recipe lies in, of the option ``checkout``, or of the working directory's.

    Attributes:
        devices: Devices of plans.
        requirement: Packages that runs of plans need.
    """

    log_formats = (_LOG_FORMAT,)
    devices: tuple[str, ...] = ("cuda",)
    requirement = Requirement(
        distribution="megatron-bridge",
        module="megatron.bridge",
        install=f"git clone --recurse-submodules {_URL} && cd Megatron-Bridge && uv sync",
        uses_transformer_engine=True,
    )

    @property
    def name(self) -> str:
        """Name in recipes."""
        return "megatron_bridge"

    def read_config(self, path: Path, *, options: Mapping[str, Any], env: Mapping[str, str]) -> ConfigValues:  # noqa: ARG002 (its values don't depend on variables)
        """Return the values of a recipe for a plan; see ConfigReader.

        Raises:
            RecipeError: If it can't be read, or an option is for plans.
        """
        for problem in misplaced_options(options, names=(CHECKOUT_OPTION,), owner="without framework_config"):
            raise RecipeError(problem)
        return read_bridge(path, options=options)

    def memory_rules(self, plan: Plan) -> MemoryRules:
        """Return the rules by which a plan's memory is counted."""
        return megatron_rules(plan)

    def unsupported(self, plan: Plan) -> str | None:
        """Return the reason that the plan can't run here, or None."""
        if not plan.framework_config:
            return next(self._plan_problems(plan), None)
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
            PlanError: If there is no checkout, or the plan can't run.
            LaunchError: If the interpreter does not answer.
        """
        if not plan.framework_config:
            return self._plan_command(plan, run_dir=run_dir)
        path = Path(plan.framework_config)
        checkout = find_checkout(path, marker=MARKER)
        if checkout is None:
            raise PlanError(f"{plan.case}: {self.unsupported(plan)}")
        recipe = load_bridge(path, options=plan.framework_options)
        argv = [*_launcher(plan), MARKER, "--recipe", recipe.name]
        argv += _overrides(plan, recipe=recipe)
        return own_command(plan, argv, run_dir=run_dir, directory=checkout, log_format=_LOG_FORMAT)

    def _plan_problems(self, plan: Plan) -> Iterator[str]:
        """Yield the reasons that a plan without a recipe of its own can't run here."""
        yield from misplaced_options(plan.framework_options, names=(RECIPE_OPTION,), owner="with framework_config")
        yield from plan_problems(plan)
        said = plan_overrides(plan)
        yield from option_problems(plan.framework_options, said=said, run=run_overrides(plan))
        yield from checkout_problems(plan, marker=MARKER, url=_URL, devices=self.devices)
        unmet = unmet_requirement(self.requirement, framework=self.name, python=plan.python)
        if unmet:
            yield unmet

    def _plan_command(self, plan: Plan, *, run_dir: Path) -> RankCommand:
        """Return the command of torchrun and the training script with a plan's overrides; options come last."""
        checkout = plan_checkout(plan, marker=MARKER)
        problem = next(plan_problems(plan), None)
        if checkout is None or problem:
            raise PlanError(f"{plan.case}: {problem or self.unsupported(plan)}")
        argv = [*_launcher(plan), MARKER, "--recipe", base_recipe(plan.model), "--mode", "pretrain"]
        argv += ["--dataset", "mock"]
        overrides = {**own_overrides(plan), **plan.framework_options, **plan_overrides(plan), **run_overrides(plan)}
        overrides.pop(CHECKOUT_OPTION, None)
        argv += [f"{name}={hydra_text(value)}" for name, value in overrides.items()]
        env = plan_environment(plan)
        return own_command(plan, argv, run_dir=run_dir, directory=checkout, env=env, log_format=_LOG_FORMAT)


def _launcher(plan: Plan) -> list[str]:
    return ["python", "-m", "torch.distributed.run", "--nproc_per_node", str(plan.layout.total_gpus)]


def _overrides(plan: Plan, *, recipe: BridgeRecipe) -> Iterator[str]:
    """Yield the file's overrides, those of a run, and the recipe's options."""
    own: dict[str, Any] = {**recipe.overrides, **run_overrides(plan)}
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
