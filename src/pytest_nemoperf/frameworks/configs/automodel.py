"""Plan values of NeMo Automodel's recipe files: training and benchmarks of text models."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.frameworks.configs.adapters import refuse_adapters
from pytest_nemoperf.frameworks.configs.checkpoint_names import NamedModel, named_model
from pytest_nemoperf.frameworks.configs.config_values import ConfigValues, config_digest, shown_config
from pytest_nemoperf.frameworks.configs.number_formats import DTYPES
from pytest_nemoperf.frameworks.configs.option_names import check_known, check_own
from pytest_nemoperf.frameworks.configs.yaml_file import YamlConfig, load_yaml, set_option
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.models.huggingface.config import HARMLESS_KEYS
from pytest_nemoperf.models.huggingface.read import config_model
from pytest_nemoperf.recipes.recipe import Precision, Recompute

TRAINING: Final = "TrainFinetuneRecipeForNextTokenPrediction"
BENCHMARK: Final = "BenchmarkingRecipeForNextTokenPrediction"

_OWN = (
    "checkpoint",
    "wandb",
    "mlflow",
    "comet",
    "ci",
    "dist_env",
    "validation_dataset",
    "validation_dataloader",
    "step_scheduler.max_steps",
    "step_scheduler.num_epochs",
    "step_scheduler.ckpt_every_steps",
    "step_scheduler.save_checkpoint_every_epoch",
    "step_scheduler.val_every_steps",
    "step_scheduler.log_remote_every_steps",
    "benchmark",
)
"""Settings that each run has of its own, validation, which is off, and notes for others: no part of the digest."""
_STEPS = ("step_scheduler.max_steps", "benchmark.warmup_steps")
_VALIDATION: Final = "validation_dataset"
_FULL_SEQUENCES = (
    "MockIterableDataset",
    "NanogptDataset",
    "MegatronPretraining",
)
"""Datasets whose sequences all have the length that the file says."""
_LENGTH_KEYS = ("seq_len", "seq_length", "max_seq_len", "max_seq_length", "max_length")
_TE_RECIPES: Mapping[str, Precision] = MappingProxyType(
    {
        "delayed": Precision.FP8_DS,
        "current": Precision.FP8_CS,
        "block": Precision.FP8_SC,
        "mxfp8": Precision.MXFP8,
        "nvfp4": Precision.NVFP4,
    }
)
_MODEL_SOURCES = frozenset(
    {"_target_", "pretrained_model_name_or_path", "name_or_path", "trust_remote_code", "revision"}
)
_PREDICTION = frozenset({"num_nextn_predict_layers"})
_POSITIONS = frozenset({"rope_scaling", "rope_parameters", "rope_theta", "max_position_embeddings"})
_GPT2_DEFAULTS: Mapping[str, int] = MappingProxyType(
    {"vocab_size": 50_257, "n_positions": 2048, "n_embd": 768, "n_layer": 12, "n_head": 12}
)
"""Values of build_gpt2_model in nemo_automodel/components/models/gpt2.py."""
_MEGATRON_FSDP = frozenset({"megatron_fsdp", "megatron-fsdp", "mfsdp"})
_SHARDED_WEIGHTS = 3
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?e[+-]?\d+", re.IGNORECASE)
_MULTI_STAGE = ("interleaved", "zbv", "v_schedule", "looped", "dualpipe")


def load_automodel(path: Path, *, options: Mapping[str, Any]) -> tuple[YamlConfig, Mapping[str, Any], str]:
    """Return a recipe file with its options, its content as written, and the name of the recipe class that it runs.

    Raises:
        RecipeError: If it can't be read, or runs another kind of recipe.
    """
    raw = load_yaml(path)
    data = deepcopy(raw)
    names = [name.lstrip("-") for name in options]
    own = ("step_scheduler.val_every_steps", "checkpoint.enabled", "checkpoint.checkpoint_dir", *validations(raw))
    plain = [name.lstrip("+") for name in names]
    check_own(plain, own=(*_STEPS, *own), steps=_STEPS, subject=shown_config(path))
    check_known(names, data=raw, subject=shown_config(path))
    for name, value in options.items():
        set_option(data, name, value)
    config = YamlConfig(data, subject=shown_config(path))
    target = config.get("recipe")
    if isinstance(target, Mapping):
        target = target.get("_target_")
    if not isinstance(target, str) or not target:
        raise RecipeError(
            f"{config.subject} is no recipe of NeMo Automodel: it names none in recipe; name another file"
        )
    kind = target.strip().rpartition(".")[2]
    if kind not in (TRAINING, BENCHMARK):
        raise RecipeError(
            f"{config.subject} is a recipe of {kind}, and those of {TRAINING} and {BENCHMARK} are read; measure it by "
            "framework='command' and log_format='automodel'"
        )
    return config, raw, kind


def validations(raw: Mapping[str, Any]) -> list[str]:
    """Return the sections of a file that hold data for validation, which a run leaves out."""
    names = map(str, raw)  # a file of another kind may have others, such as "on", which YAML takes for true
    return [name for name in names if name.startswith(_VALIDATION) and name != f"{_VALIDATION}_loader"]


def read_automodel(path: Path, *, options: Mapping[str, Any]) -> ConfigValues:
    """Return the values of a recipe file for a plan; see ConfigReader."""
    config, raw, _ = load_automodel(path, options=options)
    unread: dict[str, str] = {}
    values: dict[str, Any] = {
        "global_batch_size": config.count("step_scheduler.global_batch_size", 32),
        "micro_batch_size": config.count("step_scheduler.local_batch_size", 1),
        "has_varying_lengths": not _has_full_sequences(config),
    }
    if config.get("peft") is not None:
        refuse_adapters("peft", subject=config.subject, log_format="automodel")
    seq_len, key = _sequence_length(config)
    if seq_len is None:
        unread["seq_len"] = f"{key} is not set"
    else:
        values["seq_len"] = seq_len
    precision = _precision(config)
    if isinstance(precision, Precision):
        values["precision"] = precision
    else:
        unread["precision"] = precision
    values |= _switches(config)
    named = _model(config)
    if named.unread:
        unread["model"] = named.unread
    degrees = _degrees(config.section("distributed"))
    if degrees["pp"] > 1:
        values["micro_batch_size"] = config.count("distributed.pipeline.pp_microbatch_size", 1)
        chunks = _model_chunks(config.section("distributed.pipeline"), pp=degrees["pp"], model=named.model)
        if isinstance(chunks, str):
            unread["layouts"] = chunks
        else:
            degrees["vp"] = chunks
    return ConfigValues(
        digest=config_digest(raw, without=_OWN),
        model=named.model,
        gpus=_gpus(config.section("distributed"), degrees=degrees),
        degrees=degrees,
        values=values,
        unread=unread,
    )


def _has_full_sequences(config: YamlConfig) -> bool:
    target = config.text("dataset._target_").rpartition(".")[2].rpartition(":")[2]
    return target in _FULL_SEQUENCES


def _sequence_length(config: YamlConfig) -> tuple[int | None, str]:
    """Return tokens per sequence, of a pack if sequences are packed, and the key that should say them."""
    if config.get("packed_sequence.packed_sequence_size"):
        return config.count("packed_sequence.packed_sequence_size"), "packed_sequence.packed_sequence_size"
    for key in _LENGTH_KEYS:
        if config.get(f"dataset.{key}") is not None:
            return config.count(f"dataset.{key}"), f"dataset.{key}"
    return None, "dataset.seq_length"


def _precision(config: YamlConfig) -> Precision | str:
    """Return the number format; the reason if there is no word for it."""
    te_recipe = config.text("model.backend.te_fp8.recipe")
    if te_recipe:
        return _TE_RECIPES.get(te_recipe) or f"model.backend.te_fp8.recipe={te_recipe} has no word here"
    if config.flag("fp8.enabled"):
        name = config.text("fp8.recipe_name") or "tensorwise"
        if name == "tensorwise":
            return Precision.FP8_CS
        return f"fp8.recipe_name={name} has no word here"
    strategy = (config.text("distributed.strategy") or "fsdp2").lower()
    default = "auto" if strategy == "ddp" else "bfloat16"  # FSDP computes in bf16 over weights of any format
    key = "model.torch_dtype" if strategy == "ddp" else "distributed.mp_policy.param_dtype"
    name = (config.text(key) or default).removeprefix("torch.")
    if name == "auto":
        return "model.torch_dtype=auto takes the checkpoint's"
    return DTYPES.get(name) or f"{key}={name} has no word here"


def _switches(config: YamlConfig) -> dict[str, Any]:
    """Return seed, recomputation, compilation and routing, as far as the file says them."""
    values: dict[str, Any] = {}
    seed = config.get("rng.seed", config.get("seed"))
    if type(seed) is int:
        values["seed"] = seed
    recompute = str(config.get("distributed.activation_checkpointing", False)).lower()
    if recompute == "selective":
        values["recompute"] = Recompute.SELECTIVE
    elif recompute in ("true", "full", "on", "yes", "enabled"):
        values["recompute"] = Recompute.FULL
    values["is_compiled"] = config.flag("compile.enabled") or config.flag("distributed.enable_compile")
    if config.flag("model.backend.fake_balanced_gate"):
        values["is_router_balanced"] = True
    return values


def _degrees(distributed: YamlConfig) -> dict[str, Any]:
    """Return parallel degrees; FSDP shards over the ranks that are left, DDP copies to them.

    Megatron-FSDP shards weights by its third strategy only, which is the one that it has if none is set.
    """
    degrees: dict[str, Any] = {"sequence_parallel": distributed.flag("sequence_parallel")}
    for name in ("tp", "pp", "cp", "ep"):
        degrees[name] = distributed.count(f"{name}_size", 1)
    data = distributed.count("dp_size")
    strategy = (distributed.text("strategy") or "fsdp2").lower()
    is_sharded = strategy != "ddp"
    if strategy in _MEGATRON_FSDP:
        is_sharded = distributed.get("zero_dp_strategy", _SHARDED_WEIGHTS) == _SHARDED_WEIGHTS
    if not is_sharded:
        degrees["dp_replicate"] = data or 0
        degrees["dp_shard"] = 1
    else:
        copies = distributed.count("dp_replicate_size", 1) or 1
        degrees["dp_replicate"] = copies
        degrees["dp_shard"] = 0
        if data is not None and data % copies == 0:
            degrees["dp_shard"] = data // copies
    schedule = distributed.text("pipeline.pp_schedule").lower()
    if degrees["pp"] > 1 and ("zero" in schedule or "zb" in schedule):
        degrees["pp_schedule"] = "zero_bubble"
    return degrees


def _gpus(distributed: YamlConfig, *, degrees: Mapping[str, Any]) -> int | None:
    """Return the ranks if the file says all degrees; they are the launch's otherwise."""
    data = distributed.count("dp_size")
    if data is None:
        return None
    return data * int(math.prod(degrees[name] for name in ("tp", "pp", "cp")))


def _model_chunks(pipeline: YamlConfig, *, pp: int, model: str | ModelConfig) -> int | str:
    """Return the model chunks of a pipeline rank; the reason if they can't be told."""
    schedule = re.sub(r"[^a-z]", "", (pipeline.text("pp_schedule") or "1f1b").lower())
    layers = pipeline.count("layers_per_stage")
    if layers is None:
        return 2 if any(word.replace("_", "") in schedule for word in _MULTI_STAGE) else 1
    if not model:
        return (
            f"distributed.pipeline.layers_per_stage={layers} makes chunks of the model, whose number of layers is not "
            "known; the pipeline's vp is needed"
        )
    if isinstance(model, str):
        model = find_model(model)
    stages = math.ceil(model.num_layers / layers)
    if pipeline.text("round_virtual_stages_to_pp_multiple") == "up":
        return math.ceil(stages / pp)
    return max(1, stages // pp)


def _model(config: YamlConfig) -> NamedModel:
    target = config.text("model._target_")
    if target.endswith("build_gpt2_model"):
        values = {key: config.count(f"model.{key}", default) for key, default in _GPT2_DEFAULTS.items()}
        return NamedModel(model=config_model({"model_type": "gpt2", **values}, subject=f"{config.subject}: model"))
    name = config.get("model.pretrained_model_name_or_path")
    key = "model.pretrained_model_name_or_path"
    inner = config.get("model.config")
    changed: set[str] = set()
    if isinstance(inner, str):
        name, key = inner, "model.config"
    elif name is None and isinstance(inner, Mapping):
        key = "model.config.pretrained_model_name_or_path"
        name = inner.get("pretrained_model_name_or_path") or inner.get("name_or_path")
        if name is None:
            return _spelt_model(inner)
        changed = set(inner) - _MODEL_SOURCES - _PREDICTION - _POSITIONS - HARMLESS_KEYS
    if changed:
        return NamedModel(unread=f"model.config changes {', '.join(sorted(changed))} of {name}")
    named = named_model(str(name or ""), key=key)
    return _with_prediction(config, named)


def _spelt_model(values: Mapping[str, Any]) -> NamedModel:
    """Return the architecture of a config that is written out, of a family that is known by its class's module."""
    kind = re.search(r"transformers\.models\.(\w+)\.", str(values.get("_target_")))
    if kind is None:
        return NamedModel(unread=f"model.config of {values.get('_target_')} is not understood")
    data = {key: _number(value) for key, value in values.items() if key not in _MODEL_SOURCES}
    try:
        return NamedModel(model=config_model({"model_type": kind[1], **data}, subject="model.config"))
    except RecipeError as error:
        return NamedModel(unread=str(error))


def _number(value: Any) -> Any:
    """Return the number that a text stands for, since YAML 1.1 takes 1e-5 for a text; any other value as it is."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    return value


def _with_prediction(config: YamlConfig, named: NamedModel) -> NamedModel:
    """Return the architecture with the depth of multi-token prediction that is trained.

    Nemotron 3 trains the file's, or the checkpoint's; the other families' classes have none.
    """
    if not named.model:
        return named
    depth = config.get("model.num_nextn_predict_layers", config.get("model.config.num_nextn_predict_layers"))
    if type(depth) is int:
        return named.with_prediction_depth(depth, is_shared=config.flag("model.mtp_use_repeated_layer"))
    model = find_model(named.model) if isinstance(named.model, str) else named.model
    if model.hybrid_pattern:
        return named
    return named.with_prediction_depth(0)
