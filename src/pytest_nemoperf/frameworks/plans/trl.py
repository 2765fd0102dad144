"""Plans as arguments of TRL's GRPOTrainer: every axis and setting is mapped or refused here. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pytest_nemoperf.frameworks.plans.command_settings import command_setting_problems
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.huggingface.export import unexportable_model
from pytest_nemoperf.recipes import hyperparameters
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recompute
from pytest_nemoperf.recipes.rl import RL


def grpo_arguments(plan: Plan, *, rl: RL, output_dir: str) -> dict[str, Any]:
    """Return the arguments of trl.GRPOConfig for a plan that plan_problems has none of."""
    algorithm = rl.algorithm_config
    arguments: dict[str, Any] = {
        "output_dir": output_dir,
        "max_steps": plan.total_steps * plan.num_updates,
        "per_device_train_batch_size": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.grad_accum_steps,
        "generation_batch_size": rl.num_samples,
        "num_generations": rl.num_generations_per_prompt,
        "num_iterations": 1,
        "max_completion_length": rl.max_response_len,
        "temperature": rl.temperature,
        "top_p": rl.top_p,
        "top_k": rl.top_k or 0,
        "use_vllm": rl.generator == "vllm",
        "beta": algorithm.kl_coef,
        "epsilon": algorithm.clip_low,
        "epsilon_high": algorithm.clip_high,
        "loss_type": "grpo" if algorithm.loss_mean == "sequence" else "dapo",
        "scale_rewards": "group" if algorithm.is_std_normalized else "none",
        "learning_rate": rl.learning_rate,
        "lr_scheduler_type": "constant",
        "adam_beta1": hyperparameters.BETAS[0],
        "adam_beta2": hyperparameters.BETAS[1],
        "adam_epsilon": hyperparameters.EPS,
        "weight_decay": hyperparameters.WEIGHT_DECAY,
        "max_grad_norm": hyperparameters.MAX_GRAD_NORM,
        "bf16": plan.precision is Precision.BF16,
        "gradient_checkpointing": plan.recompute is Recompute.FULL,
        "seed": plan.seed,
        "shuffle_dataset": False,
        "use_cpu": plan.device == "cpu",
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    shortest = "min_new_tokens"
    if rl.generator == "vllm":
        shortest = "min_tokens"
        arguments |= {
            "vllm_mode": "colocate",
            "vllm_max_model_length": plan.seq_len,
            "vllm_importance_sampling_correction": False,  # plans with an importance_cap are refused
        }
    if rl.has_pinned_lengths:  # no response may end before it is full
        arguments["generation_kwargs"] = {shortest: rl.max_response_len}
    return {**arguments, **plan.framework_options}


def plan_problems(plan: Plan) -> Iterator[str]:
    """Yield the reasons that GRPOTrainer can't run a plan, the workload's first."""
    rl = plan.rl
    if rl is None:
        yield (
            "workload=pretrain with framework='trl', whose trainers tune a model; give the recipe rl=RL(...), or use "
            "framework='torch'"
        )
        return
    for is_asked, setting, rule in (
        (bool(plan.framework_config), f"framework_config={plan.framework_config!r}", "its arguments are the plan's"),
        (plan.is_profiled, "is_profiled=True", "our profiler is not in its loop; use framework='torch'"),
        (plan.turn is not None, "a comparison in turns", "its loop does not wait for another run; compare whole runs"),
        (plan.is_compiled, "is_compiled=True", "its generation would be compiled anew for each length; leave it out"),
        (plan.is_router_balanced, "is_router_balanced=True", "its models route their tokens; leave it out"),
        (
            plan.recompute is Recompute.SELECTIVE,
            "recompute=selective",
            "Hugging Face's models recompute whole layers; use none or full",
        ),
        (
            plan.precision not in (Precision.FP32, Precision.BF16),
            f"precision={plan.precision}",
            "Hugging Face's Trainer has no 8-bit training; use bf16 or fp32",
        ),
    ):
        if is_asked:
            yield f"{setting} with framework='trl': {rule}"
    yield from command_setting_problems(plan)
    unexportable = unexportable_model(plan.model)
    if plan.model.moe is not None and unexportable is None:
        unexportable = "weights of experts are not handed over"
    if unexportable is not None:
        yield f"model {plan.model.name} is no Hugging Face model here: {unexportable}; use another model"
    yield from _layout_problems(plan.layout)
    yield from _algorithm_problems(rl)
    yield from _rollout_problems(rl, plan=plan)
    own = grpo_arguments(replace(plan, framework_options={}), rl=rl, output_dir="")
    for name in plan.framework_options:
        if name in own:
            yield f"framework_options: each run sets {name} itself, from the plan; leave it out"


def _layout_problems(layout: Layout) -> Iterator[str]:
    for axis in ("tp", "pp", "cp", "ep", "dp_shard"):
        degree = getattr(layout, axis)
        if degree > 1:
            yield f"{axis}={degree}: each rank of TRL holds the whole model here; use {axis}=1 and dp_replicate"
    if layout.shard_optimizer:
        yield "shard_optimizer=True: each rank of TRL holds the whole optimizer here; use shard_optimizer=False"
    generation = layout.generation
    if generation is None:
        return
    if not generation.is_colocated:
        yield "generation is_colocated=False: TRL generates on the ranks that train; use is_colocated=True"
    for axis in ("tp", "pp"):
        degree = getattr(generation, axis)
        if degree > 1:
            yield f"generation {axis}={degree}: each rank of TRL generates with the whole model here; use {axis}=1"


def _algorithm_problems(rl: RL) -> Iterator[str]:
    algorithm = rl.algorithm_config
    for is_asked, setting in (
        (algorithm.advantage != "group", f"advantage={algorithm.advantage!r}"),
        (algorithm.is_leave_one_out, "is_leave_one_out=True"),
        (algorithm.has_dynamic_sampling, "has_dynamic_sampling=True"),
        (algorithm.overlong_share > 0, f"overlong_share={algorithm.overlong_share:g}"),
        (algorithm.importance_cap is not None, f"importance_cap={algorithm.importance_cap}"),
    ):
        if is_asked:
            yield f"algorithm {algorithm.name} has {setting}, which is not mapped to GRPOTrainer; use algorithm='grpo'"


def _rollout_problems(rl: RL, *, plan: Plan) -> Iterator[str]:
    for is_asked, setting, rule in (
        (rl.max_staleness > 0, f"max_staleness={rl.max_staleness}", "its weights are never old; use max_staleness=0"),
        (rl.is_packed, "is_packed=True", "it pads its rows; use is_packed=False"),
        (
            rl.max_batch_size is not None,
            f"max_batch_size={rl.max_batch_size}",
            "a rank decodes all its samples at once; leave it out",
        ),
        (
            not isinstance(rl.response_lengths, str),
            "response_lengths of each sample",
            "it has one limit for all; use 'fixed' or 'sampled'",
        ),
        (bool(rl.dataset), f"dataset={rl.dataset!r}", "the prompts are made up; leave it out"),
        (
            rl.generator not in ("native", "vllm"),
            f"generator={rl.generator!r}",
            "it has transformers' own generation ('native') and vllm; choose one of these",
        ),
        (
            rl.generation_precision is not None,
            f"generation_precision={rl.generation_precision!r}",
            "it generates in the precision of training; leave it out",
        ),
        (
            rl.generator == "vllm" and plan.device == "cpu",
            "generator='vllm' on a CPU",
            "TRL's vLLM shares a GPU's memory with training; use generator='native'",
        ),
    ):
        if is_asked:
            yield f"{setting} with framework='trl': {rule}"
    longest = rl.prompt_len + rl.max_response_len
    if longest > plan.seq_len:
        yield (
            f"prompt_len+max_response_len ({rl.prompt_len}+{rl.max_response_len}={longest}) is more than "
            f"seq_len={plan.seq_len}, and TRL has no limit for both together; raise seq_len to {longest}, or shorten "
            "one of the two"
        )
    share = plan.micro_batch_size * plan.layout.dp
    if rl.num_samples % share:
        yield (
            f"num_prompts_per_step*num_generations_per_prompt={rl.num_samples} samples are not a multiple of "
            f"micro_batch_size*dp_replicate={share}, which TRL generates for; change one"
        )
