"""Plan values of Megatron-Bridge's recipe functions, and of YAML overrides on top of one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.frameworks.configs.adapters import refuse_adapters
from pytest_nemoperf.frameworks.configs.bridge_model import bridge_model, provider_of
from pytest_nemoperf.frameworks.configs.checkout import find_checkout
from pytest_nemoperf.frameworks.configs.checkpoint_names import NamedModel
from pytest_nemoperf.frameworks.configs.config_values import ConfigValues, config_digest, shown_config
from pytest_nemoperf.frameworks.configs.megatron import layout_stages
from pytest_nemoperf.frameworks.configs.number_formats import FP8_RECIPES
from pytest_nemoperf.frameworks.configs.option_names import check_own, check_typo
from pytest_nemoperf.frameworks.configs.python_recipes import SourceTree
from pytest_nemoperf.frameworks.configs.python_values import UNKNOWN, Opaque, Unknown
from pytest_nemoperf.frameworks.configs.yaml_file import load_yaml
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.recipes.recipe import Precision, Recompute

MARKER: Final = "scripts/training/run_recipe.py"
"""Training script, by which a checkout of Megatron-Bridge is known."""
RECIPE_OPTION: Final = "recipe"
"""Option that names the recipe function that a YAML file of overrides is for."""

_PRECISIONS: Final = "megatron.bridge.training.mixed_precision"
_BY_NAME: Final = ("get_mixed_precision_config",)
_PACKAGES: Final = ("perf_recipes", "recipes")
"""Packages that are searched for a recipe's name, in the order of the training script."""
_BENCHMARK = re.compile(r"_(pretrain|sft|peft)_(?P<gpus>[1-9]\d{,6})gpu_[a-z0-9]+_(bf16|fp8\w\w|nvfp4)(_\w+)?_config")
_FULL_SEQUENCES: Final = frozenset({"GPTDatasetConfig", "MockGPTDatasetConfig"})
_OWN: Final = (
    "checkpoint",
    "logger",
    "validation",
    "profiling",
    "train.train_iters",
    "train.eval_iters",
    "train.eval_interval",
    "dataset.blend",
    "dataset.blend_per_split",
)
_STEPS: Final = ("train.train_iters",)
_RUN_SETTINGS: Final = (
    *_STEPS,
    "validation.eval_iters",
    "checkpoint.save",
    "checkpoint.load",
    "logger.log_interval",
    "logger.log_throughput",
    "logger.tensorboard_dir",
)
"""Settings that the launch of a run overrides."""
_MAX_DEPTH: Final = 9
"""Objects within each other that a digest looks into: one may hold itself."""
_UNTOLD: Final = "can't be told from the source"


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeRecipe:
    """A recipe function followed through its source.

    Attributes:
        name: Function.
        config: What it returns, overrides and options set.
        content: The same without options, as plain data.
        is_benchmark: It is of perf_recipes, whose name says the number of GPUs, and which runs on mock data.
        overrides: Values of a YAML file by dotted name.
        tree: The source.
    """

    name: str
    config: Opaque
    content: Any
    is_benchmark: bool
    overrides: Mapping[str, Any] = field(default_factory=dict)
    tree: SourceTree


def load_bridge(path: Path, *, options: Mapping[str, Any]) -> BridgeRecipe:
    """Return the recipe that a name stands for.

    Args:
        path: ``path/to/file.py:function``, ``package.module:function``, or the function's name in a checkout that is
            the working directory; or a YAML file of overrides, with the function in the option ``recipe``.
        options: The recipe's framework_options.

    Raises:
        RecipeError: If there is no such function, or it can't be followed.
    """
    subject = shown_config(path)
    overrides: dict[str, Any] = {}
    target = str(path)
    if path.suffix in (".yaml", ".yml"):
        overrides = dict(_leaves(load_yaml(path)))
        target = str(options.get(RECIPE_OPTION) or "")
        if not target:
            raise RecipeError(
                f"{subject} holds overrides, and not the recipe that they are for; give "
                f"framework_options={{{RECIPE_OPTION!r}: 'path/to/file.py:function'}}"
            )
    file, function, root = _find_function(target, config=path, subject=subject)
    tree = SourceTree(root, by_name=_BY_NAME)
    config = tree.call(file, function=function)
    if not isinstance(config, Opaque) or config.get("train") is None:
        raise RecipeError(f"{subject}: {function} returns no ConfigContainer; name a recipe function")
    for name, value in overrides.items():
        _set(config, name, value)
    content = _plain(config)
    settings = {name: value for name, value in options.items() if name != RECIPE_OPTION}
    names = [name.lstrip("+~") for name in settings]
    check_own(names, own=_RUN_SETTINGS, steps=_STEPS, subject=subject)
    for name, value in settings.items():
        if name[0] not in "+~":
            _check_attribute(config, name, subject=subject)
        _set(config, name, value)
    return BridgeRecipe(
        name=function,
        config=config,
        content=content,
        is_benchmark="perf_recipes" in file.parts,
        overrides=overrides,
        tree=tree,
    )


def _check_attribute(config: Opaque, name: str, *, subject: str) -> None:
    """Refuse a name that is almost one of the attributes that were followed; the training script refuses others."""
    node: Any = config
    for key in name.split("."):
        if not isinstance(node, Opaque):
            return
        known = {*node.values, *node.defaults, *node.touched}
        check_typo(
            key, known=known, subject=f"{subject}: {name}", advice=f" (to set it all the same, write '++{name}')"
        )
        node = node.get(key)


def _leaves(node: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, prefix=f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _find_function(target: str, *, config: Path, subject: str) -> tuple[Path, str, Path]:
    """Return a function's file and name, and the folder of its packages."""
    place, _, function = target.rpartition(":")
    checkout = find_checkout(config, marker=MARKER)
    if place.endswith(".py"):
        file = Path(place)
        if not file.is_file():
            raise RecipeError(f"{subject}: there is no {file} in {Path.cwd()}; give its path from there, or all of it")
        return file, function, _source_root(file, checkout=checkout)
    if checkout is None:
        raise RecipeError(
            f"{subject} names no file, and the working directory is no checkout of Megatron-Bridge (a folder with "
            f"{MARKER}); write path/to/file.py:function"
        )
    root = checkout / "src"
    if place:
        file = root.joinpath(*place.split(".")).with_suffix(".py")
        if not file.is_file():
            raise RecipeError(f"{subject}: there is no {file}; write path/to/file.py:function")
        return file, function, root
    for package in _PACKAGES:
        for file in sorted((root / "megatron" / "bridge" / package).rglob("*.py")):
            if re.search(
                rf"^def {re.escape(function)}\(|\bas {re.escape(function)}\b", file.read_text("utf-8"), re.MULTILINE
            ):
                return file, function, root
    raise RecipeError(f"{subject}: {checkout} has no recipe {function}; write path/to/file.py:function")


def _source_root(file: Path, *, checkout: Path | None) -> Path:
    for folder in file.resolve().parents:
        if (folder / "megatron" / "bridge").is_dir():
            return folder
    return file.resolve().parent if checkout is None else checkout / "src"


def _set(config: Opaque, name: str, value: Any) -> None:
    """Set a value by its dotted name; sections that are none are made."""
    node = config
    *sections, last = name.lstrip("+~").split(".")
    for key in sections:
        inner = node.get(key)
        if not isinstance(inner, Opaque):
            inner = Opaque(made_by=key)
            node.values[key] = inner
        node = inner
    node.values[last] = value


def _plain(value: Any, *, depth: int = 0) -> Any:
    """Return a followed value as plain data, for a digest."""
    if isinstance(value, Opaque):
        if depth > _MAX_DEPTH:
            return value.made_by
        plain: dict[str, Any] = {"made_by": [each.made_by for each in value.chain()]}
        plain["args"] = [[_plain(arg, depth=depth + 1) for arg in each.args] for each in value.chain()]
        for name, each in value.values.items():
            plain[name] = _plain(each, depth=depth + 1)
        return plain
    if isinstance(value, dict):
        return {str(key): _plain(each, depth=depth + 1) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each, depth=depth + 1) for each in value]
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    return type(value).__name__


def read_bridge(path: Path, *, options: Mapping[str, Any]) -> ConfigValues:
    """Return the values of a recipe for a plan; see ConfigReader."""
    recipe = load_bridge(path, options=options)
    config = recipe.config
    model = config.get("model")
    values: dict[str, Any] = {}
    unread: dict[str, str] = {}
    values["has_varying_lengths"] = not (recipe.is_benchmark or _made_by(config.get("dataset")) in _FULL_SEQUENCES)
    if config.get("peft") is not None:
        refuse_adapters("cfg.peft", subject=shown_config(path), log_format="megatron_bridge")
    for name, section, key in (
        ("seq_len", "dataset", "seq_length"),
        ("global_batch_size", "train", "global_batch_size"),
        ("micro_batch_size", "train", "micro_batch_size"),
    ):
        count = _value(config, section, key)
        if type(count) is int and count > 0:
            values[name] = count
        else:
            unread[name] = f"cfg.{section}.{key} {_UNTOLD if count is UNKNOWN else 'is not set'}"
    precision = _precision(config.get("mixed_precision"), tree=recipe.tree)
    if isinstance(precision, Precision):
        values["precision"] = precision
    else:
        unread["precision"] = precision
    named = bridge_model(config)
    if named.unread:
        unread["model"] = named.unread
    degrees: dict[str, Any] = {}
    if isinstance(model, Opaque):
        values |= _switches(model, rng=config.get("rng"))
        degrees = _degrees(model, ddp=config.get("ddp"), named=named)
        degrees["shard_optimizer"] = _is_optimizer_shared(config)
    untold = [name for name, value in degrees.items() if value is UNKNOWN]
    if untold or not degrees:
        unread["layouts"] = f"{', '.join(untold) or 'cfg.model'} {_UNTOLD}"
    for name in [name for name, value in values.items() if value is UNKNOWN]:
        del values[name]
        unread[name] = _UNTOLD
    return ConfigValues(
        digest=config_digest(recipe.content, without=_OWN),
        model=named.model,
        gpus=_gpus(recipe),
        degrees=degrees,
        values=values,
        unread=unread,
    )


def _gpus(recipe: BridgeRecipe) -> int | None:
    """Return the ranks of a benchmark recipe; the training script scales its batch for any other number."""
    match = _BENCHMARK.search(recipe.name)
    if not recipe.is_benchmark or match is None:
        return None
    return int(match["gpus"])


def _made_by(value: Any) -> str:
    return value.made_by if isinstance(value, Opaque) else ""


def _value(config: Opaque, section: str, key: str) -> Any:
    """Return an attribute of a section; None if it was never set."""
    node = config.get(section)
    if not isinstance(node, Opaque):
        return UNKNOWN if isinstance(node, Unknown) else None
    value = node.get(key)
    if isinstance(value, Opaque) and value.made_by == key:  # read before it was set
        return None
    return value


def _precision(mixed: Any, *, tree: SourceTree) -> Precision | str:
    """Return the number format; the reason if there is no word for it."""
    if isinstance(mixed, str):
        mixed = tree.call_named(_PRECISIONS, mixed.replace("-", "_"))
    if not isinstance(mixed, Opaque):
        return f"cfg.mixed_precision {_UNTOLD}"
    if mixed.get("fp4"):
        return Precision.NVFP4
    if mixed.get("fp8"):
        name = mixed.get("fp8_recipe", "tensorwise")
        return FP8_RECIPES.get(str(name)) or f"cfg.mixed_precision.fp8_recipe={name} has no word here"
    if mixed.get("fp16") is True:
        return "cfg.mixed_precision.fp16=True has no word here"
    precision: Precision | str = f"cfg.mixed_precision {_UNTOLD}"
    if mixed.get("bf16") is True:
        precision = Precision.BF16
    elif mixed.get("fp32") is True or (mixed.get("bf16") is False and mixed.get("fp16") is False):
        precision = Precision.FP32
    return precision


def _switches(model: Opaque, *, rng: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    granularity = model.get("recompute_granularity")
    if isinstance(granularity, Unknown):
        values["recompute"] = UNKNOWN
    elif granularity in ("full", "selective"):
        values["recompute"] = Recompute(granularity)
    if model.get("moe_router_force_load_balancing") is True:
        values["is_router_balanced"] = True
    seed = rng.get("seed") if isinstance(rng, Opaque) else None
    if type(seed) is int:
        values["seed"] = seed
    return values


def _degrees(model: Opaque, *, ddp: Any, named: NamedModel) -> dict[str, Any]:
    """Return parallel degrees; FSDP shards over the ranks that are left, DDP and its sharded optimizer copy to them."""
    degrees: dict[str, Any] = {}
    provider = provider_of(model)
    for name, key in (
        ("tp", "tensor_model_parallel_size"),
        ("pp", "pipeline_model_parallel_size"),
        ("cp", "context_parallel_size"),
        ("ep", "expert_model_parallel_size"),
    ):
        degrees[name] = _degree(model.get(key, provider.get(key)))
    degrees["etp"] = 1
    if _has_experts(named):
        degrees["etp"] = _degree(model.get("expert_tensor_parallel_size") or degrees["tp"])
    degrees["sequence_parallel"] = model.get("sequence_parallel") is True
    degrees["vp"] = _model_chunks(model, pp=degrees["pp"])
    if model.get("cp_comm_type") == "a2a" and degrees["cp"] != 1:
        degrees["cp_comm"] = "a2a"
    is_sharded = (
        isinstance(ddp, Opaque)
        and ddp.get("use_megatron_fsdp") is True
        and ddp.get("data_parallel_sharding_strategy") == "optim_grads_params"
    )
    if is_sharded:
        degrees["dp_replicate"] = _degree(ddp.get("num_distributed_optimizer_instances"))
        degrees["dp_shard"] = 0
    else:
        degrees["dp_replicate"] = 0
        degrees["dp_shard"] = 1
    return degrees


def _is_optimizer_shared(config: Opaque) -> Any:
    """Return whether the optimizer's states are shared out among whole weights; unknown if it can't be told.

    Either of two settings turns the distributed optimizer on for both; Megatron-FSDP always has it, and its strategy
    says what is shared out.
    """
    ddp = config.get("ddp")
    if isinstance(ddp, Opaque) and ddp.get("use_megatron_fsdp") is True:
        return ddp.get("data_parallel_sharding_strategy", "no_shard") not in ("no_shard", "optim_grads_params")
    is_shared: Any = False
    for section in ("ddp", "optimizer"):
        value = _value(config, section, "use_distributed_optimizer")
        if value is True:
            return True
        if value is UNKNOWN:
            is_shared = UNKNOWN
    return is_shared


def _degree(value: Any) -> Any:
    """Return a degree: 1 if it is not set, unknown if it can't be told."""
    if value is None:
        return 1
    return value if type(value) is int else UNKNOWN


def _has_experts(named: NamedModel) -> bool:
    if not named.model:
        return True
    model = named.model if isinstance(named.model, ModelConfig) else find_model(named.model)
    return model.moe is not None


def _model_chunks(model: Opaque, *, pp: Any) -> Any:
    if pp == 1:
        return 1
    layout = model.get("pipeline_model_parallel_layout")
    if type(pp) is int and isinstance(layout, str):
        return max(1, layout_stages(layout) // pp)
    if type(pp) is int and isinstance(layout, list):
        return max(1, len(layout) // pp)
    return _degree(model.get("virtual_pipeline_model_parallel_size"))
