"""Framework ``megatron_lm``: NVIDIA Megatron-LM, by its arguments as a team keeps them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, Final

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.frameworks.bash_arguments import edited_launch
from pytest_nemoperf.frameworks.config import ConfigValues, shown_config
from pytest_nemoperf.frameworks.logged import read_logged_output
from pytest_nemoperf.frameworks.megatron_arguments import MegatronArguments, option_words
from pytest_nemoperf.frameworks.megatron_config import (
    MARKER,
    SCRIPT_OPTION,
    WORDS_OPTION,
    MegatronRecipe,
    load_megatron,
    read_megatron,
    substituted,
)
from pytest_nemoperf.frameworks.own_recipe import find_checkout, missing_package, own_command, without_config
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import RunOutput

_LOG_FORMAT: Final = "megatron"
_HYBRID_SCRIPTS: Final = ("pretrain_hybrid.py", "pretrain_mamba.py")
_DROPPED: Final = (
    "save",
    "load",
    "save-interval",
    "save-retain-interval",
    "non-persistent-save-interval",
    "ckpt-step",
    "async-save",
    "use-persistent-ckpt-worker",
    "exit-interval",
    "exit-duration-in-mins",
    "wandb-project",
    "wandb-entity",
    "wandb-exp-name",
    "wandb-save-dir",
)
"""Arguments that are left out: checkpoints, which would also continue the count of steps, and ends of its own."""


class MegatronLMFramework:
    """Runs a shell script, or Megatron-LM's training script with the arguments of a file.

    A shell script runs as it is; the command line with its training script gets other arguments at the end.
    """

    @property
    def name(self) -> str:
        """Name in recipes."""
        return "megatron_lm"

    @property
    def log_formats(self) -> tuple[str, ...]:
        """Names of the presets of its logs."""
        return (_LOG_FORMAT,)

    def log_format(self, plan: Plan) -> str:  # noqa: ARG002 (each run writes the same)
        """Return the name of the preset of its log."""
        return _LOG_FORMAT

    def log_file(self, plan: Plan) -> str:  # noqa: ARG002 (as above)
        """Return the pattern of its log's files: the preset's."""
        return ""

    def read_config(self, path: Path, *, options: Mapping[str, Any], env: Mapping[str, str]) -> ConfigValues:
        """Return the values of a recipe file for a plan; see ConfigReader."""
        return read_megatron(path, options=options, env=env)

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
            for name in (*_DROPPED, *_left_out(plan)):
                dropped += [f"--{name}", f"--{name.replace('-', '_')}"]
            variables = edited_launch(
                run_dir.resolve() / "launch",
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
            RecordError: If a step is missing.
        """
        return read_logged_output(plan, run_dir=run_dir, log_format=_LOG_FORMAT, log_file="")


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
        if key not in (SCRIPT_OPTION, WORDS_OPTION) and value is not None and value is not False:
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
    values = {name: words for name, words in recipe.arguments.values.items() if name not in _DROPPED}
    arguments = MegatronArguments({**values, **added.values}, subject=recipe.arguments.subject)
    words, missing = substituted(list(arguments.words()), env={**os.environ, **recipe.env, **plan.env})
    if missing:
        raise PlanError(
            f"{plan.case}: {arguments.subject} needs {', '.join(sorted(missing))}, which no variable says; give it in "
            "the recipe's env"
        )
    launcher = ["python", "-m", "torch.distributed.run", "--nproc_per_node", str(plan.layout.total_gpus)]
    return [*launcher, script, *words]
