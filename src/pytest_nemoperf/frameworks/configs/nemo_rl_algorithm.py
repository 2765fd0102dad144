"""Reinforcement learning part of NeMo RL's recipe files."""

from __future__ import annotations

import re
from typing import Any

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.frameworks.configs.number_formats import DTYPES
from pytest_nemoperf.frameworks.configs.yaml_file import YamlConfig
from pytest_nemoperf.recipes.algorithms import Algorithm
from pytest_nemoperf.recipes.rl import RL


def read_rl(config: YamlConfig, *, algorithm: str, seq_len: int | None) -> RL:
    """Return a file's reinforcement learning part; responses end with their stop token.

    Args:
        config: The file.
        algorithm: ``grpo`` or ``ppo``, the section that says what a step is.
        seq_len: Tokens of the longest sequence, the limit of prompts and responses that have none of their own.

    Raises:
        RecipeError: If a value is missing or breaks a rule.
    """
    section = config.section(algorithm)
    generation = config.section("policy.generation")
    counts = {}
    for name in ("num_prompts_per_step", "num_generations_per_prompt"):
        count = section.count(name)
        if count is None:
            raise RecipeError(
                f"{config.subject} does not tell {algorithm}.{name}, which every step needs; set it there"
            )
        counts[name] = count
    prompt_len = config.count("data.max_input_seq_length") or seq_len
    max_response_len = generation.count("max_new_tokens") or seq_len
    if prompt_len is None or max_response_len is None:
        raise RecipeError(
            f"{config.subject} does not tell policy.max_total_sequence_length, the longest prompt and response "
            "where data.max_input_seq_length and policy.generation.max_new_tokens are not set; set it there, or by "
            "framework_options={'+policy.max_total_sequence_length': ...}"
        )
    try:
        return RL(
            **counts,
            prompt_len=prompt_len,
            max_response_len=max_response_len,
            response_lengths="sampled",
            algorithm=_algorithm(config, section=section, name=algorithm),
            max_staleness=_staleness(config, section=section, name=algorithm),
            generator=_generator(generation),
            generation_precision=_generation_precision(generation),
            temperature=generation.number("temperature", 1.0),
            top_p=generation.number("top_p", 1.0),
            top_k=_top_k(generation),
            is_packed=config.flag("policy.sequence_packing.enabled"),
            learning_rate=_learning_rate(config),
            dataset=_dataset(config),
        )
    except RecipeError as error:
        if str(error).startswith(config.subject):
            raise
        raise RecipeError(f"{config.subject}: {error}") from None


def _generation_precision(generation: YamlConfig) -> Any:
    """Return vLLM's number format; None for that of the policy.

    Raises:
        RecipeError: If there is no word for it.
    """
    name = generation.text("vllm_cfg.precision")
    if not name or (generation.text("backend") or "vllm") != "vllm":
        return None
    if name == "fp8":
        return name
    if name not in DTYPES:
        raise RecipeError(
            f"policy.generation.vllm_cfg.precision={name} has no word here; known are fp8, {', '.join(DTYPES)}: "
            "measure it by framework='command' and log_format='nemo_rl'"
        )
    return str(DTYPES[name])


def _algorithm(config: YamlConfig, *, section: YamlConfig, name: str) -> Algorithm:
    loss = config.section("loss_fn")
    estimator = section.section("adv_estimator")
    has_dynamic_sampling = section.flag("use_dynamic_sampling")
    values: dict[str, Any] = {
        "clip_low": loss.number("ratio_clip_min", 0.2),
        "clip_high": loss.number("ratio_clip_max", 0.2),
        "kl_coef": loss.number("reference_policy_kl_penalty", 0.0),
        "loss_mean": "token" if loss.flag("token_level_loss", default=True) else "sequence",
        "has_dynamic_sampling": has_dynamic_sampling,
    }
    if has_dynamic_sampling:
        values["max_rounds"] = section.count("dynamic_sampling_max_gen_batches", 10)
    if loss.flag("use_importance_sampling_correction") and loss.get("truncated_importance_sampling_ratio"):
        values["importance_cap"] = loss.number("truncated_importance_sampling_ratio", 1.0)
    shaping = section.section("reward_shaping")
    longest = shaping.count("max_response_length")
    if shaping.flag("enabled") and longest and shaping.get("overlong_buffer_length"):
        values["overlong_share"] = min(1.0, shaping.number("overlong_buffer_length", 0.0) / longest)
        values["overlong_penalty"] = shaping.number("overlong_buffer_penalty", 1.0)
    if name == "ppo":
        return Algorithm(
            name="ppo",
            advantage="gae",
            is_std_normalized=estimator.flag("normalize_advantages", default=True),
            gae_lambda=estimator.number("gae_lambda", 0.95),
            discount=estimator.number("gae_gamma", 1.0),
            **values,
        )
    return Algorithm(
        name=_group_name(estimator, has_dynamic_sampling=has_dynamic_sampling),
        is_leave_one_out=section.flag("use_leave_one_out_baseline", default=True),
        is_std_normalized=section.flag("normalize_rewards", default=True),
        **values,
    )


def _group_name(estimator: YamlConfig, *, has_dynamic_sampling: bool) -> str:
    """Return the algorithm's name: the estimator's unless it is GRPO's, which with dynamic sampling is DAPO's."""
    name = re.sub(r"[^a-z0-9._]+", "_", (estimator.text("name") or "grpo").lower())
    if name == "grpo" and has_dynamic_sampling:
        return "dapo"
    return name


def _staleness(config: YamlConfig, *, section: YamlConfig, name: str) -> int:
    """Return the steps that generation may run ahead."""
    sampler = config.section("async_rl.sampler")
    if config.get("async_rl") is not None:
        for key in ("max_lookahead_versions", "max_staleness_versions"):
            value = sampler.get(key)
            if type(value) is int and value >= 0:
                return value
        return 1
    if not section.flag(f"async_{name}.enabled"):
        return 0
    return section.count(f"async_{name}.max_trajectory_age_steps", 1) or 1


def _generator(generation: YamlConfig) -> Any:
    return generation.text("backend") or "vllm"


def _top_k(generation: YamlConfig) -> int | None:
    """Return the number of tokens that are sampled from; None for all, which some write as -1."""
    value = generation.get("top_k")
    if type(value) is int and value > 0:
        return value
    return None


def _learning_rate(config: YamlConfig) -> float:
    if config.flag("policy.megatron_cfg.enabled"):
        return config.number("policy.megatron_cfg.optimizer.lr", 1e-5)
    return config.number("policy.optimizer.kwargs.lr", 1e-5)


def _dataset(config: YamlConfig) -> str:
    """Return the names of the training datasets, or of their files."""
    names = []
    for entry in [*config.sections("data.train"), config.section("data").data]:
        for key in ("dataset_name", "data_path", "train_jsonl_fpath"):
            if isinstance(entry.get(key), str) and entry[key]:
                names.append(entry[key].rpartition("/")[2])
                break
    return "+".join(dict.fromkeys(names))
