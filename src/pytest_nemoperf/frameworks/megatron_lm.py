"""Framework ``megatron_lm``: NVIDIA Megatron-LM, by its arguments as a team keeps them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, Final

from pytest_nemoperf.errors import PlanError, RecordError
from pytest_nemoperf.frameworks.configs.bash_arguments import edited_launch, was_edited
from pytest_nemoperf.frameworks.configs.checkout import find_checkout
from pytest_nemoperf.frameworks.configs.config_values import ConfigValues, shown_config
from pytest_nemoperf.frameworks.configs.megatron import (
    MARKER,
    OTHER_OPTIONS,
    SCRIPT_OPTION,
    MegatronRecipe,
    load_megatron,
    read_megatron,
    substituted,
)
from pytest_nemoperf.frameworks.configs.megatron_arguments import DROPPED, MegatronArguments, option_words
from pytest_nemoperf.frameworks.own_recipe import OwnLog, missing_package, own_command, without_config
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.frameworks.requirements import Requirement
from pytest_nemoperf.recipes.memory_rules import MemoryRules, megatron_rules
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import STEPS_FILE, RunOutput

_LOG_FORMAT: Final = "megatron"
_EDITED: Final = "launch"
"""Folder of the run directory with the wrappers of launchers."""
_HYBRID_SCRIPTS: Final = ("pretrain_hybrid.py", "pretrain_mamba.py")


class MegatronLMFramework(OwnLog):
    """Runs a shell script, or Megatron-LM's training script with the arguments of a file.

    A shell script runs as it is; the command line with its training script gets other arguments at the end.
    """

    log_formats = (_LOG_FORMAT,)

    requirement = Requirement(
        distribution="megatron-core",
        module="megatron.core",
        install="git clone https://github.com/NVIDIA/Megatron-LM && pip install -e ./Megatron-LM",
        uses_transformer_engine=True,
    )

    @property
    def name(self) -> str:
        """Name in recipes."""
        return "megatron_lm"

    def read_config(self, path: Path, *, options: Mapping[str, Any], env: Mapping[str, str]) -> ConfigValues:
        """Return the values of a recipe file for a plan; see ConfigReader."""
        return read_megatron(path, options=options, env=env)

    def memory_rules(self, plan: Plan) -> MemoryRules:
        """Return the rules by which a plan's memory is counted."""
        return megatron_rules(plan)

    def unsupported(self, plan: Plan) -> str | None:
        """Return the reason that the plan can't run here, or None."""
        if not plan.framework_config:
            return without_config(plan)
        path = Path(plan.framework_config)
        if path.suffix == ".sh":
            return None
        if find_checkout(path, marker=MARKER) is None:
            return (
                f"{shown_config(path)} lies in no checkout of Megatron-LM (a folder with {MARKER}), and neither does "
                "the working directory; clone https://github.com/NVIDIA/Megatron-LM, install it with: pip install -e "
                "., and run pytest there or name the file in it"
            )
        return missing_package(plan, module="torch", install="install it with: pip install torch")

    def command(self, plan: Plan, *, run_dir: Path) -> RankCommand:
        """Return the command of the shell script, or of torchrun with the file's arguments.

        Raises:
            PlanError: If the training script is not there, or a variable of the file is not set.
            LaunchError: If the interpreter does not answer.
        """
        path = Path(plan.framework_config)
        recipe = load_megatron(path, options=plan.framework_options, env=plan.env)
        directory = find_checkout(path, marker=MARKER)
        added = _added(plan, recipe=recipe, run_dir=run_dir)
        if recipe.shell_words is not None:
            dropped = []
            for name in (*DROPPED, *_left_out(plan)):
                dropped += [f"--{name}", f"--{name.replace('-', '_')}"]
            variables = edited_launch(
                run_dir.resolve() / _EDITED,
                training=PurePath(recipe.script).name,
                dropped=dropped,
                added=list(added.words()),
                env=plan.env,
            )
            argv = ["bash", str(path.resolve()), *recipe.shell_words]
        else:
            argv = _torchrun(plan, recipe=recipe, added=added, directory=directory or Path.cwd())
            variables = dict(recipe.env)
        return own_command(plan, argv, run_dir=run_dir, directory=directory, env=variables, log_format=_LOG_FORMAT)

    def read_output(self, plan: Plan, *, run_dir: Path) -> RunOutput:
        """Return the records that the lines of Megatron-LM's last rank tell.

        Raises:
            RecordError: If a step is missing, or a script's training ran with its own steps and checkpoints.
        """
        path = Path(plan.framework_config)
        if path.suffix == ".sh" and not (was_edited(run_dir / _EDITED) or (run_dir / STEPS_FILE).exists()):
            raise RecordError(
                f"{shown_config(path)} started its training around the wrappers that give it the steps of this run and "
                "leave out its checkpoints: it trained as the script says; let it call its launcher by name, or give "
                "the training's own arguments as YAML or text"
            )
        return super().read_output(plan, run_dir=run_dir)


def _left_out(plan: Plan) -> list[str]:
    """Return the arguments that the recipe's options leave out."""
    return [
        key.lstrip("-").replace("_", "-")
        for key, value in plan.framework_options.items()
        if value is None or value is False
    ]


def _added(plan: Plan, *, recipe: MegatronRecipe, run_dir: Path) -> MegatronArguments:
    """Return the arguments of a run, then the recipe's options; a learning rate falls as long as in the file."""
    arguments = recipe.arguments
    own: dict[str, tuple[str, ...]] = {}
    if "train-samples" in arguments:
        own["train-samples"] = (str(plan.total_steps * plan.global_batch_size),)
        if "lr-decay-samples" not in arguments:
            own["lr-decay-samples"] = arguments.values["train-samples"]
    else:
        own["train-iters"] = (str(plan.total_steps),)
        if "lr-decay-iters" not in arguments and "train-iters" in arguments:
            own["lr-decay-iters"] = arguments.values["train-iters"]
    own |= {"log-interval": ("1",), "log-throughput": (), "eval-iters": ("0",)}
    if "tensorboard-dir" in arguments:
        own["tensorboard-dir"] = (str(run_dir.resolve() / "tensorboard"),)
    for key, value in plan.framework_options.items():
        if key not in OTHER_OPTIONS and value is not None and value is not False:
            own[key.lstrip("-").replace("_", "-")] = option_words(value)
    return MegatronArguments(own, subject=arguments.subject)


def _torchrun(plan: Plan, *, recipe: MegatronRecipe, added: MegatronArguments, directory: Path) -> list[str]:
    """Return the command line of a file without a launcher of its own."""
    script = recipe.script or MARKER
    if not recipe.script and recipe.arguments.text("hybrid-layer-pattern"):
        script = next((name for name in _HYBRID_SCRIPTS if (directory / name).is_file()), _HYBRID_SCRIPTS[0])
    if not (directory / script).is_file():
        raise PlanError(
            f"{plan.case}: there is no {script} in {directory}; name the training script in "
            f"framework_options={{{SCRIPT_OPTION!r}: ...}}"
        )
    values = {name: words for name, words in recipe.arguments.values.items() if name not in DROPPED}
    arguments = MegatronArguments({**values, **added.values}, subject=recipe.arguments.subject)
    words, missing = substituted(list(arguments.words()), env={**os.environ, **recipe.env, **plan.env})
    if missing:
        raise PlanError(
            f"{plan.case}: {arguments.subject} needs {', '.join(sorted(missing))}, which no variable says; give it in "
            "the recipe's env"
        )
    launcher = ["python", "-m", "torch.distributed.run", "--nproc_per_node", str(plan.layout.total_gpus)]
    return [*launcher, script, *words]
