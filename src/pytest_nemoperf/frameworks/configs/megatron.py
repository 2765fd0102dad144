"""Plan values of Megatron-LM's arguments: a shell script, a YAML file of arguments, or a text file of them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any, Final

from pytest_nemoperf.bounds import whole_number
from pytest_nemoperf.errors import RecipeError, check_flag, shorten
from pytest_nemoperf.frameworks.configs.bash_arguments import read_script
from pytest_nemoperf.frameworks.configs.checkout import find_checkout
from pytest_nemoperf.frameworks.configs.checkpoint_names import NamedModel
from pytest_nemoperf.frameworks.configs.config_values import ConfigValues, config_digest, shown_config
from pytest_nemoperf.frameworks.configs.megatron_arguments import (
    OWN_ARGUMENTS,
    RUN_ARGUMENTS,
    STEPS,
    MegatronArguments,
    launched_ranks,
    option_words,
    split_launch,
)
from pytest_nemoperf.frameworks.configs.megatron_model import megatron_model
from pytest_nemoperf.frameworks.configs.number_formats import FP8_RECIPES
from pytest_nemoperf.frameworks.configs.option_names import check_own, check_typo
from pytest_nemoperf.frameworks.configs.yaml_file import load_yaml, read_text
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.recipes.recipe import SCRIPT_MAY_RUN, Precision, Recompute

MARKER: Final = "pretrain_gpt.py"
"""File by which a checkout of Megatron-LM is known."""
SCRIPT_OPTION: Final = "script"
"""Option that names the training script instead of an argument."""
WORDS_OPTION: Final = "script_args"
"""Option that holds the arguments of a shell script."""
OTHER_OPTIONS: Final = (SCRIPT_OPTION, WORDS_OPTION, SCRIPT_MAY_RUN)
"""Options that are no arguments of Megatron-LM."""

_MAX_SHOWN: Final = 100
_MAX_LAYOUT: Final = 10_000
"""Letters of a pipeline layout, one a layer or stage; ten times as many as a model may have layers."""
_MARKS: Final = ("--micro-batch-size", "--num-layers")
_OTHER_SCRIPTS: Final = (
    *("bert", "t5", "vlm", "ict", "retro", "vision", "llava", "multimodal", "mimo", "_rl", "dino", "classif"),
    *("generate", "generation", "text_gen", "eval", "inference", "server", "quantize", "prune", "export", "convert"),
    *("validate", "mmlu"),
)
"""Words in names of scripts that train no decoder of text, or train nothing."""
_DECODER_SCRIPTS: Final = ("pretrain_gpt", "pretrain_mamba", "pretrain_hybrid")
_OTHER_FOLDERS: Final = ("bert", "t5", "mimo", "multimodal", "inference", "vision", "retro")
_OTHER_ARGUMENTS: Mapping[str, str] = MappingProxyType(
    {
        "encoder-num-layers": "an encoder",
        "decoder-num-layers": "an encoder",
        "decoder-seq-length": "an encoder",
        "vocab-extra-ids": "an encoder",
        "mask-prob": "BERT or T5",
        "short-seq-prob": "BERT or T5",
        "bert-no-binary-head": "BERT",
        "bert-load": "BERT",
        "bert-embedder-type": "BERT",
        "ict-head-size": "retrieval",
        "ict-load": "retrieval",
        "biencoder-projection-dim": "retrieval",
        "biencoder-shared-query-context-model": "retrieval",
        "query-in-block-prob": "retrieval",
        "language-model-checkpoint": "a multimodal model",
        "img-h": "a multimodal model",
        "vision-pretraining": "a model of pictures",
        "num-classes": "a model of pictures",
        "perform-rl-step": "reinforcement learning",
        "export-kd-teacher-load": "distillation",
        "num-tokens-to-generate": "nothing and generates",
        "out-seq-length": "nothing and generates",
        "sample-input-file": "nothing and generates",
        "sample-output-file": "nothing and generates",
    }
)
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class MegatronRecipe:
    """Arguments as a team keeps them.

    Attributes:
        arguments: The training's arguments, the recipe's options on top of them.
        written: The same without options.
        launcher: Words before the training script; empty unless a shell script says them.
        script: Training script; empty if the file does not say it.
        shell_words: Arguments of the shell script; None for a file that is none.
        env: Variables that the file sets.
    """

    arguments: MegatronArguments
    written: MegatronArguments
    launcher: Sequence[str] = ()
    script: str = ""
    shell_words: Sequence[str] | None = None
    env: Mapping[str, str] = field(default_factory=dict)


def load_megatron(path: Path, *, options: Mapping[str, Any], env: Mapping[str, str]) -> MegatronRecipe:
    """Return the arguments of a file: ``.sh`` is run by bash up to its training, ``.yaml`` and others are read.

    Raises:
        RecipeError: If it is a script that may not run, or holds none, or trains something else than a language model.
    """
    subject = shown_config(path)
    settings = {key: value for key, value in options.items() if key not in OTHER_OPTIONS}
    names = [key.lstrip("-").replace("_", "-") for key in settings]
    check_own(names, own=RUN_ARGUMENTS, steps=STEPS, subject=subject)
    script = str(options.get(SCRIPT_OPTION) or "")
    launcher: Sequence[str] = ()
    shell_words: tuple[str, ...] | None = None
    variables: dict[str, str] = {}
    if path.suffix == ".sh":
        read_text(path)
        _check_may_run(options, subject=subject)
        shell_words = option_words(options.get(WORDS_OPTION) or ())
        launch = read_script(
            path,
            words=shell_words,
            directory=find_checkout(path, marker=MARKER) or Path.cwd(),
            env=env,
            marks=_MARKS,
            subject=subject,
        )
        launcher, script, words = split_launch(launch)
        if not script:
            _refuse_quoted(launch, subject=subject)
        if "/" in launch[0]:
            raise RecipeError(
                f"{subject} starts its training by the path {launch[0]}, where no arguments can be changed: "
                f"it would train all of its own steps; let it say {PurePath(launch[0]).name}, found by PATH, or "
                "give the training's own arguments as YAML or text"
            )
        written = MegatronArguments.parsed(words, subject=subject)
    elif path.suffix in (".yaml", ".yml"):
        written, variables = _yaml_arguments(path)
    else:
        written = _text_arguments(path)
    _refuse_others(written, script=script)
    return MegatronRecipe(
        arguments=written.with_options(settings),
        written=written,
        launcher=launcher,
        script=script,
        shell_words=shell_words,
        env=variables,
    )


def _check_may_run(options: Mapping[str, Any], *, subject: str) -> None:
    """Refuse to read a shell script that the recipe does not allow to run."""
    may_run = options.get(SCRIPT_MAY_RUN, False)
    check_flag(may_run, subject=f"{subject}: framework_options {SCRIPT_MAY_RUN}")
    if not may_run:
        raise RecipeError(
            f"{subject} is a shell script, which is read by letting bash run it up to its launch line, launchers "
            "replaced: whatever else it does really happens, also for a plan or a dry run; allow that by "
            f"framework_options={{{SCRIPT_MAY_RUN!r}: True}}, or name a YAML or text file of arguments, which needs "
            "none"
        )


def _refuse_quoted(words: Sequence[str], *, subject: str) -> None:
    """Refuse a training in a quoted command: its arguments can't be changed there."""
    for word in words:
        if any(mark in word for mark in _MARKS) and any(char.isspace() for char in word):
            raise RecipeError(
                f"{subject}: the training is inside a quoted command of {words[0]} ({word.strip()[:_MAX_SHOWN]}), "
                "whose arguments are neither read nor changed; let the script start it by its words, or give the "
                "training's own arguments as YAML or text"
            )


def _text_arguments(path: Path) -> MegatronArguments:
    """Return the arguments of a text file."""
    subject = shown_config(path)
    text = read_text(path)
    try:
        words = shlex.split(text, comments=True)
    except ValueError as error:
        raise RecipeError(
            f"{subject} is no list of arguments of Megatron-LM, by the rules of a shell: {str(error).lower()}; name a "
            "file of arguments such as --num-layers 12, or a YAML file (.yaml) or a shell script (.sh)"
        ) from None
    arguments = MegatronArguments.parsed(words, subject=subject)
    if not arguments.values:
        raise RecipeError(f"{subject} holds no arguments of Megatron-LM such as --num-layers 12; name another file")
    return arguments


def _yaml_arguments(path: Path) -> tuple[MegatronArguments, dict[str, str]]:
    """Return the arguments and variables of a YAML file as in Megatron-LM's functional tests."""
    data = load_yaml(path)
    subject = shown_config(path)
    mode = data.get("MODE", "pretraining")
    if mode != "pretraining":
        raise RecipeError(f"{subject} is of MODE {mode}, and pretraining is read; measure it by framework='command'")
    section = data.get("MODEL_ARGS", data)
    values: dict[str, tuple[str, ...]] = {}
    if isinstance(section, Mapping):
        for key, value in section.items():
            if str(key).startswith("--") and value is not False:
                values[str(key)] = _yaml_words(value)
    if not values:
        raise RecipeError(
            f"{subject} holds no arguments of Megatron-LM: neither MODEL_ARGS nor the file itself has keys such as "
            "--num-layers; name another file"
        )
    variables = data.get("ENV_VARS") or {}
    if not isinstance(variables, Mapping):
        raise RecipeError(f"{subject}: ENV_VARS={variables!r} must be a section of variables, each with its value")
    return MegatronArguments(values, subject=subject), {str(key): str(value) for key, value in variables.items()}


def _yaml_words(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str) and value.startswith("[") and value.endswith("]") and "*" not in value:
        return tuple(value[1:-1].split())
    return option_words(value)


def _refuse_others(arguments: MegatronArguments, *, script: str) -> None:
    """Refuse all but the training of a decoder."""
    for name, kind in _OTHER_ARGUMENTS.items():
        if name in arguments:
            raise RecipeError(
                f"{arguments.subject} trains {kind} (--{name}), and decoders of text are read; measure it by "
                "framework='command' and log_format='megatron'"
            )
    place = PurePath(script)
    is_other = any(word in place.name for word in _OTHER_SCRIPTS) or place.parent.name in _OTHER_FOLDERS
    if is_other and place.stem not in _DECODER_SCRIPTS:
        raise RecipeError(
            f"{arguments.subject} starts {place.name}, and the training of decoders of text is read; measure it by "
            "framework='command' and log_format='megatron'"
        )
    if arguments.text("tokenizer-type").startswith("BertWordPiece"):
        raise RecipeError(
            f"{arguments.subject} trains BERT (--tokenizer-type {arguments.text('tokenizer-type')}), and decoders of "
            "text are read; measure it by framework='command' and log_format='megatron'"
        )


def read_megatron(path: Path, *, options: Mapping[str, Any], env: Mapping[str, str]) -> ConfigValues:
    """Return the values of a file for a plan; see ConfigReader."""
    recipe = load_megatron(path, options=options, env=env)
    arguments = recipe.arguments
    named = megatron_model(arguments)
    values, unread = training_values(arguments)
    if named.unread:
        unread["model"] = named.unread
    degrees = parallel_degrees(arguments)
    chunks = model_chunks(arguments, pp=degrees["pp"], model=named)
    if isinstance(chunks, str):
        unread["layouts"] = chunks
    else:
        degrees["vp"] = chunks
    _check_names(options, recipe=recipe)
    digested: dict[str, Any] = {name: list(words) for name, words in recipe.written.values.items()}
    return ConfigValues(
        digest=config_digest({"arguments": digested, "env": dict(recipe.env)}, without=_own_paths()),
        model=named.model,
        gpus=launched_ranks(recipe.launcher),
        degrees=degrees,
        values=values,
        unread=unread,
    )


def _check_names(options: Mapping[str, Any], *, recipe: MegatronRecipe) -> None:
    """Refuse options that are almost one of the arguments of the file, or that are read; argparse knows others."""
    known = {*recipe.written.values, *recipe.arguments.asked, *OWN_ARGUMENTS}
    for key in options:
        if key not in OTHER_OPTIONS:
            name = key.lstrip("-")
            check_typo(name.replace("_", "-"), known=known, subject=recipe.arguments.subject)
            check_typo(name, known=OTHER_OPTIONS, subject=recipe.arguments.subject)


def _own_paths() -> set[str]:
    return {f"arguments.{name}" for name in OWN_ARGUMENTS}


def training_values(arguments: MegatronArguments) -> tuple[dict[str, Any], dict[str, str]]:
    """Return batch, length, precision and switches by name, and the reasons of those that can't be read.

    Raises:
        RecipeError: If the batch grows from step to step, or arguments come from a checkpoint.
    """
    _refuse_values_of_elsewhere(arguments)
    values: dict[str, Any] = {"micro_batch_size": arguments.count("micro-batch-size") or 1}
    unread: dict[str, str] = {}
    for name, key in (("seq_len", "seq-length"), ("global_batch_size", "global-batch-size")):
        count = arguments.count(key)
        if count:
            values[name] = count
        else:
            unread[name] = f"--{key} is not set"
    precision = megatron_precision(arguments)
    if isinstance(precision, Precision):
        values["precision"] = precision
    else:
        unread["precision"] = precision
    granularity = arguments.text("recompute-granularity")
    if granularity == "full":
        values["recompute"] = Recompute.FULL
    elif granularity == "selective" or "recompute-activations" in arguments:
        values["recompute"] = Recompute.SELECTIVE
    if "moe-router-force-load-balancing" in arguments:
        values["is_router_balanced"] = True
    if "sft" in arguments:
        values["has_varying_lengths"] = True
    seed = whole_number(arguments.text("seed"))
    if seed is not None:
        values["seed"] = seed
    return values, unread


def _refuse_values_of_elsewhere(arguments: MegatronArguments) -> None:
    """Refuse a batch that grows from step to step, and arguments that a checkpoint says."""
    for name in ("rampup-batch-size", "step-batch-size-schedule"):
        if name in arguments:
            raise RecipeError(
                f"{arguments.subject}: --{name} {' '.join(arguments.values[name])} gives each step another batch, and "
                f"a plan has one; leave it out by framework_options={{{name!r}: None}}"
            )
    if "use-checkpoint-args" in arguments:
        raise RecipeError(
            f"{arguments.subject}: --use-checkpoint-args takes its values from the checkpoint of --load, and a run "
            "loads none; leave it out by framework_options={'use-checkpoint-args': None}, and give there what the "
            "checkpoint says"
        )


def megatron_precision(arguments: MegatronArguments) -> Precision | str:
    """Return the number format of the matrix products; the reason if there is no word for it."""
    if "fp4-format" in arguments:
        return Precision.NVFP4
    if "fp8-format" in arguments:
        name = arguments.text("fp8-recipe", "delayed")
        return FP8_RECIPES.get(name) or f"--fp8-recipe {name} has no word here"
    if "bf16" in arguments:
        return Precision.BF16
    if "fp16" in arguments:
        return "--fp16 has no word here"
    return Precision.FP32


def parallel_degrees(arguments: MegatronArguments) -> dict[str, Any]:
    """Return parallel degrees; FSDP shards over the ranks that are left, DDP and its sharded optimizer copy to them."""
    tp = arguments.count("tensor-model-parallel-size") or 1
    cp = arguments.count("context-parallel-size") or 1
    degrees: dict[str, Any] = {
        "tp": tp,
        "pp": arguments.count("pipeline-model-parallel-size") or 1,
        "cp": cp,
        "ep": arguments.count("expert-model-parallel-size") or 1,
        "etp": 1,
        "sequence_parallel": "sequence-parallel" in arguments,
    }
    if arguments.count("num-experts"):
        degrees["etp"] = arguments.count("expert-tensor-parallel-size") or tp
    if cp > 1 and arguments.text("cp-comm-type") == "a2a":
        degrees["cp_comm"] = "a2a"
    is_sharded = "use-torch-fsdp2" in arguments
    is_shared = "use-distributed-optimizer" in arguments or arguments.text("optimizer") == "dist_muon"
    if "use-megatron-fsdp" in arguments or "use-custom-fsdp" in arguments:
        # Megatron-FSDP turns the distributed optimizer on; the strategy says what is shared out by it.
        strategy = arguments.text("data-parallel-sharding-strategy", "no_shard")
        is_sharded = strategy == "optim_grads_params"
        is_shared = strategy != "no_shard"
    degrees["shard_optimizer"] = is_shared and not is_sharded
    if is_sharded:
        degrees["dp_replicate"] = arguments.count("num-distributed-optimizer-instances") or 1
        degrees["dp_shard"] = 0
    else:
        degrees["dp_replicate"] = 0
        degrees["dp_shard"] = 1
    return degrees


def model_chunks(arguments: MegatronArguments, *, pp: int, model: NamedModel) -> int | str:
    """Return the model chunks of a pipeline rank; the reason if they can't be told."""
    if pp == 1:
        return 1
    given = arguments.count("num-virtual-stages-per-pipeline-rank")
    if given:
        return given
    stages = 0
    if "pipeline-model-parallel-layout" in arguments:
        stages = layout_stages(arguments.text("pipeline-model-parallel-layout"))
    pattern = arguments.text("hybrid-layer-pattern").partition("/")[0]
    if "|" in pattern:
        stages = pattern.count("|") + 1
    if stages:
        return max(1, stages // pp)
    per_stage = arguments.count("num-layers-per-virtual-pipeline-stage")
    if not per_stage:
        return 1
    num_layers = arguments.count("num-layers")
    if isinstance(model.model, ModelConfig):
        num_layers = model.model.num_layers
    if not num_layers:
        return "--num-layers-per-virtual-pipeline-stage makes chunks of the model, whose --num-layers is not set"
    for name in ("account-for-embedding-in-pipeline-split", "account-for-loss-in-pipeline-split"):
        num_layers += name in arguments
    return max(1, num_layers // (pp * per_stage))


def layout_stages(text: str) -> int:
    """Return the stages of a pipeline layout such as ``Et|(tt|)*30mL``.

    Raises:
        RecipeError: If its repetitions make it longer than any model is deep.
    """
    text = text.strip("'\"")

    def repeated(match: re.Match[str]) -> str:
        times = whole_number(match[2])
        if times is None or len(match[1]) * times > _MAX_LAYOUT:
            raise RecipeError(f"the pipeline layout {shorten(text)} has more than {_MAX_LAYOUT:,} letters written out")
        return match[1] * times

    while True:
        expanded = re.sub(r"\(([^()]*)\)\*(\d+)", repeated, text)
        if len(expanded) > _MAX_LAYOUT:
            raise RecipeError(f"the pipeline layout {shorten(text)} has more than {_MAX_LAYOUT:,} letters written out")
        if expanded == text:
            return text.count("|") + 1
        text = expanded


def substituted(words: Sequence[str], *, env: Mapping[str, str]) -> tuple[list[str], set[str]]:
    """Return words with their ``${VARIABLES}`` replaced, and the names of those that are not set."""
    missing: set[str] = set()

    def replace(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in env:
            missing.add(name)
        return env.get(name, match[0])

    return [_VARIABLE.sub(replace, word) for word in words], missing
