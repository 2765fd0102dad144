"""Plans that torchtitan can run: every axis and setting is mapped by trainers/torchtitan.py or refused here. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from packaging.version import Version

from pytest_nemoperf.frameworks.plans.command_settings import command_setting_problems
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.layouts.pipeline_stages import schedule_problems
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import Activation, MoE
from pytest_nemoperf.recipes.recipe import Plan, Precision

FIRST_PIPELINE_TORCH: Final = "2.14"
"""torchtitan 0.3.0 hands over micro-batches as ``arg_mbs``; torch 2.13's schedules take the whole batch only."""

FROM_PLAN: Final = (
    "training.local_batch_size",
    "training.global_batch_size",
    "training.seq_len",
    "training.steps",
    "training.max_norm",
    "training.mixed_precision_param",
    "parallelism.data_parallel_replicate_degree",
    "parallelism.data_parallel_shard_degree",
    "parallelism.tensor_parallel_degree",
    "parallelism.enable_sequence_parallel",
    "parallelism.pipeline_parallel_degree",
    "parallelism.pipeline_parallel_schedule",
    "parallelism.pipeline_parallel_microbatch_size",
    "parallelism.module_fqns_per_model_part",
    "parallelism.context_parallel_degree",
    "parallelism.expert_parallel_degree",
    "activation_checkpoint",
    "compile.enable",
    "optimizer",
    "lr_scheduler",
    "dataloader",
    "tokenizer",
    "checkpoint.enable",
    "validator.enable",
    "debug.seed",
    "debug.moe_force_load_balance",
    "metrics.log_freq",
    "metrics.enable_tensorboard",
    "dump_folder",
)
"""Options, or groups of them, that follow from the plan, or that the run needs for its log."""

_PLAIN: Final = {
    "norm": "rmsnorm",
    "activation": Activation.SWIGLU,
    "has_post_norms": False,
    "rope_local_theta": None,
    "rope_dim": None,
    "max_positions": None,
    "embedding_scale": 1.0,
    "out_bias": False,
    "mlp_bias": False,
    "attention_gate": False,
    "attention_sinks": False,
    "attention_softcap": None,
    "final_softcap": None,
    "logit_scale": 1.0,
    "query_scale": None,
    "query_temperature": None,
    "sliding_window": None,
    "nope_interval": 0,
    "mla": None,
    "compressed_attention": None,
    "hyper_connections": None,
    "mamba": None,
    "gated_delta_net": None,
    "hybrid_pattern": "",
    "mtp_num_layers": 0,
    "has_value_head": False,
}
"""Parts of a model, each with the one value that its llama3 and qwen3 models have."""
_PLAIN_MOE: Final = {
    "shared_ffn_hidden_size": 0,
    "num_groups": 1,
    "has_score_correction": False,
    "scales_input": False,
    "router_bias": False,
    "latent_size": None,
    "num_hash_layers": 0,
    "activation_limit": None,
}


def plan_problems(plan: Plan, *, torch: str) -> Iterator[str]:
    """Yield the reasons that torchtitan can't run a plan, the workload's first.

    Args:
        plan: The plan.
        torch: Version of torch in the interpreter of the run; empty if not known.
    """
    yield from _workload_problems(plan)
    yield from command_setting_problems(plan)
    yield from _layout_problems(plan.layout, plan=plan, torch=torch)
    yield from _model_problems(plan.model)
    if plan.precision not in (Precision.FP32, Precision.BF16):
        yield (
            f"precision={plan.precision} is transformer-engine's, and torchtitan's 8-bit formats are torchao's, which "
            "are not mapped; use bf16 or fp32"
        )
    if plan.model.moe is not None and plan.precision is not Precision.BF16:
        yield (
            f"precision={plan.precision} with a mixture of experts: torchtitan always multiplies experts in bf16; use "
            "precision=bf16"
        )
    for name in plan.framework_options:
        if _follows_from_plan(name):
            yield f"framework_options: each run sets {name} itself, from the plan; leave it out"


def _follows_from_plan(name: str) -> bool:
    """Return whether an option follows from the plan, dashes and negation as on the command line included."""
    plain = name.replace("-", "_").lstrip("_").replace(".no_", ".")
    return any(plain == own or plain.startswith(f"{own}.") for own in FROM_PLAN)


def option_words(options: dict[str, Any]) -> Iterator[str]:
    """Yield options as torchtitan's command line has them: a flag is ``--a.b`` or ``--a.no-b``."""
    for name, value in options.items():
        if value is True:
            yield f"--{name}"
        elif value is False:
            group, dot, flag = name.rpartition(".")
            yield f"--{group}{dot}no-{flag}"
        else:
            yield f"--{name}={value}"


def _workload_problems(plan: Plan) -> Iterator[str]:
    for is_asked, setting, rule in (
        (plan.rl is not None, f"workload={plan.workload}", "torchtitan is run for pre-training; use framework='trl'"),
        (bool(plan.framework_config), f"framework_config={plan.framework_config!r}", "its config comes from the plan"),
        (plan.has_varying_lengths, "has_varying_lengths=True", "its sequences are full; use framework='command'"),
        (plan.is_profiled, "is_profiled=True", "our profiler is not in its loop; use its own, --profiler.enable"),
        (plan.turn is not None, "a comparison in turns", "its loop does not wait for another run; compare whole runs"),
    ):
        if is_asked:
            yield f"{setting} with framework='torchtitan': {rule}"


def _layout_problems(layout: Layout, *, plan: Plan, torch: str) -> Iterator[str]:
    if layout.shard_optimizer:
        yield (
            "shard_optimizer=True: torchtitan shards optimizer states with the weights only; use dp_shard, or "
            "framework='megatron'"
        )
    if layout.pp > 1 and torch and Version(torch) < Version(FIRST_PIPELINE_TORCH):
        yield (
            f"pp={layout.pp}: torchtitan's pipelines need torch {FIRST_PIPELINE_TORCH} or later, and torch {torch} is "
            "installed; update it, or use pp=1"
        )
    if layout.pp_schedule != "1f1b":
        yield (
            f"pp_schedule={layout.pp_schedule}: torchtitan has it only with two model chunks a rank in a V, which is "
            "another layout; use pp_schedule=1f1b"
        )
    if layout.vp > 1:  # its interleaved schedule is torch's, as the native engine's
        yield from schedule_problems(layout, num_micro_batches=plan.grad_accum_steps, is_compiled=False)
    if layout.pp > 1 and plan.model.tied_embeddings:
        yield f"pp={layout.pp} with tied_embeddings=True: torchtitan ties no weights across ranks; use pp=1"
    if layout.cp_comm != "all_gather":
        yield f"cp_comm={layout.cp_comm}: torchtitan gathers keys and values; use cp_comm=all_gather"
    if plan.model.num_kv_heads % layout.tp:
        yield (
            f"tp={layout.tp} does not divide num_kv_heads={plan.model.num_kv_heads}, and torchtitan copies none; "
            "lower tp"
        )
    spread = layout.tp * (2 * layout.cp if layout.cp > 1 else 1)
    if plan.seq_len % spread and layout.sequence_parallel:
        yield (
            f"seq_len={plan.seq_len} is not a multiple of {spread}, tp times twice cp, as torchtitan's sequence "
            "parallelism needs; change seq_len, or set sequence_parallel=False"
        )
    yield from _expert_axis_problems(layout, plan=plan)


def _expert_axis_problems(layout: Layout, *, plan: Plan) -> Iterator[str]:
    if plan.model.moe is None:
        return
    ranks = layout.dp_shard * layout.cp * layout.tp
    if ranks % layout.ep:
        yield (
            f"ep={layout.ep} does not divide dp_shard*cp*tp={ranks}, the ranks that torchtitan's experts share; "
            "dp_replicate is not among them: lower ep or raise dp_shard"
        )
    etp = layout.tp if layout.ep == 1 else 1
    if layout.etp != etp:
        yield (
            f"etp={layout.etp} at ep={layout.ep} and tp={layout.tp}: torchtitan cuts each expert by tp without ep, and "
            f"not at all with it; use etp={etp}"
        )


def _model_problems(model: ModelConfig) -> Iterator[str]:
    parts = [_differing(model, _PLAIN, prefix="")]
    if model.moe is not None:
        parts.append(_differing(model.moe, _PLAIN_MOE, prefix="moe."))
        if model.moe.router == "sqrtsoftplus":
            parts.append([f"moe.router={model.moe.router!r}"])
    if model.qk_norm == "l2":
        parts.append(["qk_norm='l2'"])
    scaling = model.rope_scaling
    if scaling is not None and (scaling.kind != "llama3" or model.qk_norm is not None):
        parts.append([f"rope_scaling.kind={scaling.kind!r}" + (" with qk_norm" if model.qk_norm else "")])
    names = [name for found in parts for name in found]
    if names:
        yield (
            f"model {model.name} has {', '.join(names)}, which torchtitan's llama3 and qwen3 models, the ones that are "
            "mapped, do not have; use another model or another framework"
        )


def _differing(part: ModelConfig | MoE, plain: dict[str, Any], *, prefix: str) -> list[str]:
    found = []
    for name, value in plain.items():
        has = getattr(part, name)
        if has != value:
            shown = repr(has) if isinstance(has, str | int | float | tuple) else "..."
            found.append(f"{prefix}{name}={shown}")
    return found
