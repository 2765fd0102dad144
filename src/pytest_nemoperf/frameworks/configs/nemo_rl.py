"""Plan values of NeMo RL's recipe files: GRPO, PPO and supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.frameworks.configs.adapters import refuse_adapters
from pytest_nemoperf.frameworks.configs.checkpoint_names import NamedModel, named_model
from pytest_nemoperf.frameworks.configs.config_values import ConfigValues, config_digest, shown_config
from pytest_nemoperf.frameworks.configs.nemo_rl_algorithm import read_rl
from pytest_nemoperf.frameworks.configs.number_formats import DTYPES, FP8_RECIPES
from pytest_nemoperf.frameworks.configs.option_names import check_own
from pytest_nemoperf.frameworks.configs.yaml_file import YamlConfig, load_inherited
from pytest_nemoperf.models.huggingface.config import HARMLESS_KEYS
from pytest_nemoperf.recipes.recipe import Precision, Recompute
from pytest_nemoperf.recipes.rl import RL

SCRIPT_OPTION: Final = "script"
"""Option that names the training script instead of a setting of the file."""
ALGORITHMS: Final = ("grpo", "ppo", "sft")
"""Sections of a file that are read, each named like its algorithm."""

_STEPS = tuple(f"{section}.max_num_steps" for section in ALGORITHMS)
_RUN_SETTINGS = (
    *_STEPS,
    *(f"{section}.{key}" for section in ALGORITHMS for key in ("val_period", "val_at_start", "val_at_end")),
    "checkpointing.enabled",
    "logger.log_dir",
    "logger.tensorboard_enabled",
    "logger.wandb_enabled",
    "logger.mlflow_enabled",
    "logger.swanlab_enabled",
)
"""Settings that the launch of a run overrides."""
_OTHERS = ("dpo", "rm", "distillation", "xtoken_off_policy_distillation")
_OWN = (
    "logger",
    "checkpointing",
    *(
        f"{section}.{key}"
        for section in ALGORITHMS
        for key in (
            "max_num_steps",
            "max_num_epochs",
            "val_period",
            "val_batches",
            "val_start_at",
            "val_at_start",
            "val_at_end",
            "val_batch_size",
            "val_global_batch_size",
            "val_micro_batch_size",
            "max_val_samples",
            "val_num_generations_per_prompt",
        )
    ),
)
"""Settings that each run has of its own, and validation, which is off: no part of the digest."""
_POSITIONS = frozenset({"rope_scaling", "rope_parameters", "rope_theta"})
"""Keys of a Hugging Face config that stretch positions and leave all sizes as they are."""


def load_nemo_rl(
    path: Path, *, options: Mapping[str, Any], env: Mapping[str, str]
) -> tuple[YamlConfig, Mapping[str, Any], str]:
    """Return a recipe file with its options, its content as written, and the algorithm that it runs.

    Raises:
        RecipeError: If it can't be read, or trains by something else.
    """
    settings = {key: value for key, value in options.items() if key != SCRIPT_OPTION}
    names = [name.lstrip("+") for name in settings]
    check_own(names, own=_RUN_SETTINGS, steps=_STEPS, subject=shown_config(path))
    config, raw = load_inherited(path, options=settings, env=env)
    for name in ALGORITHMS:
        if isinstance(config.get(name), Mapping) and config.get("policy") is not None:
            return config, raw, name
    for name in _OTHERS:
        if config.get(name) is not None:
            raise RecipeError(
                f"{config.subject} is a recipe of {name}, and those of {', '.join(ALGORITHMS)} are read; measure it by "
                "framework='command' and log_format='nemo_rl'"
            )
    raise RecipeError(
        f"{config.subject} is no recipe of NeMo RL: it has no section policy beside grpo, ppo or sft; name another file"
    )


def read_nemo_rl(path: Path, *, options: Mapping[str, Any], env: Mapping[str, str]) -> ConfigValues:
    """Return the values of a recipe file for a plan; see ConfigReader."""
    config, raw, algorithm = load_nemo_rl(path, options=options, env=env)
    _refuse_more_models(config)
    policy = config.section("policy")
    is_megatron = policy.flag("megatron_cfg.enabled")
    _refuse_adapters(policy, is_megatron=is_megatron)
    values, unread = _training_values(policy, is_megatron=is_megatron)
    seed = config.get(f"{algorithm}.seed")
    if type(seed) is int:
        values["seed"] = seed
    degrees: dict[str, Any] = {}
    if is_megatron:
        degrees = _megatron_degrees(policy.section("megatron_cfg"))
    elif policy.flag("dtensor_cfg.enabled"):
        degrees = _dtensor_degrees(policy.section("dtensor_cfg"))
    else:
        unread["layouts"] = "neither policy.megatron_cfg.enabled nor policy.dtensor_cfg.enabled is true"
    named = _model(policy)
    rl: RL | None = None
    generation: dict[str, Any] = {}
    gpus = _gpus(config)
    if algorithm == "sft":
        values["has_varying_lengths"] = True
        depth, is_shared = _prediction_depth(policy, is_megatron=is_megatron)
        named = named.with_prediction_depth(depth, is_shared=is_shared)
    else:
        generation = _generation(config, is_megatron=is_megatron)
        if gpus is not None and not generation["is_colocated"]:
            gpus -= generation["gpus"]
        rl = read_rl(config, algorithm=algorithm, seq_len=values.get("seq_len"))
    if named.unread:
        unread["model"] = named.unread
    return ConfigValues(
        digest=config_digest(raw, without=_OWN),
        model=named.model,
        gpus=gpus,
        degrees=degrees,
        generation=generation,
        values=values,
        rl=rl,
        unread=unread,
    )


def _training_values(policy: YamlConfig, *, is_megatron: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Return batch, length, precision and recomputation by name, and the reasons of those that can't be read."""
    values: dict[str, Any] = {"micro_batch_size": policy.count("train_micro_batch_size", 1)}
    unread: dict[str, str] = {}
    for name, key in (("seq_len", "max_total_sequence_length"), ("global_batch_size", "train_global_batch_size")):
        count = policy.count(key)
        if count is None:
            unread[name] = f"policy.{key} is not set"
        else:
            values[name] = count
    precision = _precision(policy, is_megatron=is_megatron)
    if isinstance(precision, Precision):
        values["precision"] = precision
    else:
        unread["precision"] = precision
    if is_megatron:
        values["recompute"] = _megatron_recompute(policy)
    elif policy.flag("dtensor_cfg.activation_checkpointing"):
        values["recompute"] = Recompute.FULL
    if _is_router_balanced(policy, is_megatron=is_megatron):
        values["is_router_balanced"] = True
    return values, unread


def _prediction_depth(policy: YamlConfig, *, is_megatron: bool) -> tuple[int, bool]:
    """Return the depth of multi-token prediction, and whether all depths use one block; DTensor trains none."""
    if not is_megatron:
        return 0, False
    depth = policy.count("megatron_cfg.mtp_num_layers") if policy.get("megatron_cfg.mtp_num_layers") else 0
    return depth or 0, policy.flag("megatron_cfg.mtp_use_repeated_layer")


def _refuse_more_models(config: YamlConfig) -> None:
    """Refuse recipes with models on ranks that no layout has a place for."""
    if config.get("on_policy_distillation") and config.get("on_policy_distillation.enabled", True):
        raise RecipeError(
            f"{config.subject}: on_policy_distillation has teachers beside the policy, and no layout has a place for "
            "them; measure it by framework='command' and log_format='nemo_rl'"
        )
    if "reward_model" in _environments(config):
        raise RecipeError(
            f"{config.subject}: env.reward_model takes ranks of its own, and no layout has a place for them; measure "
            "it by framework='command' and log_format='nemo_rl'"
        )


def _refuse_adapters(policy: YamlConfig, *, is_megatron: bool) -> None:
    backend = "megatron_cfg" if is_megatron else "dtensor_cfg"
    for section in (policy, policy.section(backend)):
        for key in ("lora_cfg", "lora", "peft"):
            if section.get(key) and section.flag(f"{key}.enabled", default=True):
                name = key if section is policy else f"{backend}.{key}"
                refuse_adapters(f"policy.{name}", subject=policy.subject.removesuffix(": policy"), log_format="nemo_rl")


def _environments(config: YamlConfig) -> set[str]:
    """Return the environments that the data asks for."""
    names = set()
    for part in ("train", "validation", "default"):
        for entry in config.sections(f"data.{part}"):
            if isinstance(entry.get("env_name"), str):
                names.add(entry["env_name"])
    return names


def _gpus(config: YamlConfig) -> int | None:
    """Return all ranks of the cluster; None if the file does not say them."""
    nodes = config.count("cluster.num_nodes")
    per_node = config.count("cluster.gpus_per_node")
    if nodes is None or per_node is None:
        return None
    return nodes * per_node


def _megatron_degrees(megatron: YamlConfig) -> dict[str, Any]:
    degrees: dict[str, Any] = {"sequence_parallel": megatron.flag("sequence_parallel")}
    for name, key in (
        ("tp", "tensor_model_parallel_size"),
        ("pp", "pipeline_model_parallel_size"),
        ("vp", "virtual_pipeline_model_parallel_size"),
        ("cp", "context_parallel_size"),
        ("ep", "expert_model_parallel_size"),
        ("etp", "expert_tensor_parallel_size"),
    ):
        degrees[name] = megatron.count(key, 1)
    is_sharded = megatron.flag("distributed_data_parallel_config.use_custom_fsdp")
    # The setting of the same name beside the degrees of data parallelism is not read by NeMo RL.
    degrees["shard_optimizer"] = megatron.flag("optimizer.use_distributed_optimizer") and not is_sharded
    degrees["dp_shard"] = 0 if is_sharded else 1
    degrees["dp_replicate"] = 1 if is_sharded else 0
    return degrees


def _dtensor_degrees(dtensor: YamlConfig) -> dict[str, Any]:
    return {
        "tp": dtensor.count("tensor_parallel_size", 1),
        "cp": dtensor.count("context_parallel_size", 1),
        "ep": dtensor.count("expert_parallel_size", 1),
        "dp_replicate": dtensor.count("dp_replicate_size", 1),
        "dp_shard": 0,
        "sequence_parallel": dtensor.flag("sequence_parallel"),
    }


def _megatron_recompute(policy: YamlConfig) -> Recompute:
    if not policy.flag("megatron_cfg.activation_checkpointing"):
        return Recompute.NONE
    if policy.text("megatron_cfg.recompute_granularity") == "selective":
        return Recompute.SELECTIVE
    return Recompute.FULL


def _precision(policy: YamlConfig, *, is_megatron: bool) -> Precision | str:
    """Return the number format of training; the reason if there is no word for it."""
    if is_megatron and policy.flag("megatron_cfg.fp8_cfg.enabled"):
        name = policy.text("megatron_cfg.fp8_cfg.fp8_recipe")
        if name not in FP8_RECIPES:
            return f"policy.megatron_cfg.fp8_cfg.fp8_recipe={name or 'null'} has no word here"
        return FP8_RECIPES[name]
    name = policy.text("precision") or "bfloat16"
    if name not in DTYPES:
        return f"policy.precision={name} has no word here"
    return DTYPES[name]


def _is_router_balanced(policy: YamlConfig, *, is_megatron: bool) -> bool:
    if is_megatron:
        return policy.flag("megatron_cfg.model_overrides.moe_router_force_load_balancing")
    return policy.flag("dtensor_cfg.automodel_kwargs.backend.fake_balanced_gate")


def _model(policy: YamlConfig) -> NamedModel:
    changed = set(policy.section("hf_config_overrides").data) - _POSITIONS - HARMLESS_KEYS
    if changed:
        return NamedModel(unread=f"policy.hf_config_overrides changes {', '.join(sorted(changed))}")
    return named_model(policy.text("model_name"), key="policy.model_name")


def _generation(config: YamlConfig, *, is_megatron: bool) -> dict[str, Any]:
    """Return the attributes of the generation layout."""
    generation = config.section("policy.generation")
    backend = generation.text("backend") or "vllm"
    tp: int | None
    pp: int | None = 1
    if backend == "megatron":
        trained = config.section("policy.megatron_cfg" if is_megatron else "policy.dtensor_cfg")
        tp = generation.count("mcore_generation_config.tensor_model_parallel_size")
        pp = generation.count("mcore_generation_config.pipeline_model_parallel_size")
        tp = tp or trained.count("tensor_model_parallel_size", 1)
        pp = pp or trained.count("pipeline_model_parallel_size", 1)
    elif backend == "sglang":
        tp = generation.count("sglang_cfg.tp_size", 1)
        pp = generation.count("sglang_cfg.pp_size", 1)
    else:
        section = "trtllm_cfg" if backend == "trtllm" else "vllm_cfg"
        tp = generation.count(f"{section}.tensor_parallel_size", 1)
        pp = generation.count(f"{section}.pipeline_parallel_size", 1)
    layout: dict[str, Any] = {"tp": tp, "pp": pp, "is_colocated": generation.flag("colocated.enabled", default=True)}
    if not layout["is_colocated"]:
        nodes = generation.count("colocated.resources.num_nodes", 1) or 1
        per_node = (
            generation.count("colocated.resources.gpus_per_node") or config.count("cluster.gpus_per_node", 1) or 1
        )
        layout["gpus"] = nodes * per_node
    return layout
