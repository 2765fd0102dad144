"""Recipe file of NeMo Automodel that a plan becomes, and the reasons why some plans become none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pytest_nemoperf.errors import RecipeError, did_you_mean
from pytest_nemoperf.frameworks.configs.automodel import BENCHMARK, TRAINING
from pytest_nemoperf.frameworks.configs.option_names import check_own
from pytest_nemoperf.frameworks.configs.yaml_file import set_option
from pytest_nemoperf.frameworks.plans.command_settings import command_setting_problems
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.layouts.pipeline_stages import chunk_problems, schedule_problems
from pytest_nemoperf.models.huggingface.export import unexportable_model
from pytest_nemoperf.models.trainable import unsupported_model
from pytest_nemoperf.recipes.hyperparameters import MAX_GRAD_NORM
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recompute

MODEL_FOLDER: Final = "model"
"""Folder of the run directory with the model's config.json; it holds no weights."""
SUMMARY_FILE: Final = "benchmark.json"
_BACKEND: Final = "nemo_automodel.components.models.common.utils.BackendConfig"
_PARTS: Final = "pytest_nemoperf.trainers.automodel"
_RECIPES: Final = (TRAINING, BENCHMARK)
_DTYPE: Final = "model.torch_dtype"
_OPEN: Final = frozenset({"recipe", "model.attn_implementation", _DTYPE})
"""Settings of the generated file that framework_options may change."""
_DTYPES: Mapping[Precision, str] = MappingProxyType(
    {Precision.FP32: "float32", Precision.BF16: "bfloat16", Precision.FP8_CS: "bfloat16"}
)
"""Number format of computation by precision; torchao's 8-bit layers take and give bfloat16."""
_CHECKPOINTING: Mapping[Recompute, bool | str] = MappingProxyType(
    {Recompute.NONE: False, Recompute.SELECTIVE: "selective", Recompute.FULL: True}
)
_DEFAULT_CHUNKS: Final = 2
"""Model chunks of a pipeline rank under their interleaved schedules if nothing is said."""


def recipe_kind(plan: Plan) -> str:
    """Return the name of the recipe class that a plan runs: the training, unless its options name the benchmark."""
    return str(plan.framework_options.get("recipe", TRAINING))


def unmapped(plan: Plan) -> str | None:
    """Return the first setting of a plan that no recipe file can say, with its value and advice, or None."""
    return next(_problems(plan), None)


def _problems(plan: Plan) -> Iterator[str]:
    name = "NeMo Automodel"
    if plan.rl is not None:
        yield f"{plan.workload} is not what {name} trains; use framework='nemo_rl' or 'trl', or leave rl out"
    problem = unexportable_model(plan.model)
    if problem:
        other = "megatron_bridge" if unsupported_model(plan.model) else "torch"
        yield (
            f"{name} builds models from a Hugging Face config, and {plan.model.name} has none here: {problem}; use "
            f"framework_config with a recipe file of its own, or framework={other!r}"
        )
    if plan.has_varying_lengths:
        yield f"has_varying_lengths=True: plan runs of {name} train full sequences; leave it out, or use a recipe file"
    if plan.precision not in _DTYPES:
        yield (
            f"precision={plan.precision}: {name}'s dense models have torchao's layers with one scale a tensor, which "
            "is fp8_cs; use that, bf16 or fp32"
        )
    if plan.inject_pct:
        yield "--perf-inject delays steps from inside, and this case is measured by its log; leave it out"
    yield from command_setting_problems(plan)
    yield from _axis_problems(plan)
    yield from _format_problems(plan)
    yield from _option_problems(plan)


def _axis_problems(plan: Plan) -> Iterator[str]:
    layout = plan.layout
    if plan.num_nodes > 1:
        yield f"gpus={layout.gpus} on {plan.num_nodes} nodes: its command line starts ranks on one; use fewer GPUs"
    if plan.model.moe is not None:
        yield from _mixture_problems(plan)
    if layout.shard_optimizer:
        yield (
            "shard_optimizer=True: NeMo Automodel shards the optimizer's states with the weights, by FSDP; use dp_shard"
        )
    if layout.dp_replicate > 1 and layout.dp_shard == 1 and not _is_ddp(layout):
        yield (
            f"dp_replicate={layout.dp_replicate} with tp={layout.tp}, cp={layout.cp}, pp={layout.pp}: NeMo Automodel's "
            "DDP has no other axis, and its FSDP replicates shards only; use dp_shard"
        )
    if layout.cp_comm != "all_gather":
        yield f"cp_comm={layout.cp_comm}: NeMo Automodel gathers keys and values; use cp_comm=all_gather"
    if plan.model.num_kv_heads % layout.tp:
        yield (
            f"tp={layout.tp} does not divide num_kv_heads={plan.model.num_kv_heads}, and NeMo Automodel copies none; "
            f"choose tp among the divisors of {plan.model.num_kv_heads}"
        )
    if layout.pp > 1:
        yield from _pipeline_problems(plan)


def _mixture_problems(plan: Plan) -> Iterator[str]:
    """Yield settings that Automodel's classes of mixtures lack, beside those that dense ones lack too."""
    layout = plan.layout
    name = "NeMo Automodel's mixtures of experts"
    if layout.tp > 1:
        yield f"tp={layout.tp}: {name} have no tensor parallelism; use tp=1, and ep for the experts"
    if layout.etp > 1:
        yield f"etp={layout.etp}: {name} keep each expert whole; use etp=1"
    if layout.cp > 1:
        yield f"cp={layout.cp}: {name} need transformer-engine's attention for it, untried here; use cp=1"
    if layout.ep > 1 and layout.dp_replicate > 1:
        yield f"ep={layout.ep} with dp_replicate={layout.dp_replicate}: {name} divide them among shards; use dp_shard"
    if plan.precision is Precision.FP8_CS:
        yield f"precision={plan.precision}: {name} would have layers of 8 bits beside the experts only; use bf16"


def _pipeline_problems(plan: Plan) -> Iterator[str]:
    layout = plan.layout
    stages = layout.pp * layout.vp
    yield from chunk_problems(plan.model, pp=layout.pp, vp=layout.vp)
    if plan.grad_accum_steps < layout.pp:
        yield (
            f"pp={layout.pp} with {plan.grad_accum_steps} micro-batches a step: NeMo Automodel needs one for each "
            "stage; raise global_batch_size, or lower micro_batch_size or pp"
        )
    else:  # its schedules are torch's, as the native engine's
        yield from schedule_problems(layout, num_micro_batches=plan.grad_accum_steps, is_compiled=False)
    if layout.tp > 1 and layout.sequence_parallel:
        yield (
            f"sequence_parallel=True with tp={layout.tp} and pp={layout.pp}: NeMo Automodel's stages after the first "
            "take whole sequences for pieces of them, and fail; use sequence_parallel=False"
        )
    if layout.pp_schedule == "zero_bubble" and layout.vp == 1:
        yield (
            f"pp_schedule=zero_bubble with vp={layout.vp}: the schedule takes two chunks of the model a rank or more; "
            "use vp=2 or pp_schedule=1f1b"
        )
    if layout.vp > _DEFAULT_CHUNKS and plan.model.num_layers % stages:
        yield (
            f"vp={layout.vp}: NeMo Automodel divides num_layers={plan.model.num_layers} into pp*vp={stages} chunks of "
            "as many layers each; choose a vp that divides"
        )
    if plan.model.tied_embeddings:
        yield (
            f"pp={layout.pp} with tied_embeddings=True: NeMo Automodel's stages don't share a weight; use pp=1, or a "
            "model with a head of its own"
        )
    if plan.is_compiled:
        yield f"is_compiled=True with pp={layout.pp}: NeMo Automodel compiles no pipeline stages; use is_compiled=False"


def _format_problems(plan: Plan) -> Iterator[str]:
    """Yield the reason that weights would not be kept in fp32 below the precision of computation.

    Only FSDP's policy tells the two apart, and one process alone has none (components/distributed/fsdp2.py,
    fsdp2_sharding_enabled).
    """
    if plan.precision is Precision.FP32 or _is_mixed(plan.layout) or _DTYPE in plan.framework_options:
        return
    where = f"dp_replicate={plan.layout.dp_replicate} (DDP)" if plan.layout.total_gpus > 1 else "gpus=1"
    yield (
        f"precision={plan.precision} with {where}: NeMo Automodel computes in another format than it keeps weights in "
        "only under FSDP, and here bf16 means weights and optimizer states in fp32; use dp_shard, or precision=fp32, "
        f"or keep them in bf16 by framework_options={{'{_DTYPE}': 'bfloat16'}}"
    )


def _option_problems(plan: Plan) -> Iterator[str]:
    kind = recipe_kind(plan)
    if kind not in _RECIPES:
        yield f"framework_options: recipe={kind!r} is not run by plans; {did_you_mean(kind, _RECIPES)}"
    elif kind == BENCHMARK and plan.layout.total_gpus == 1:
        yield (
            "framework_options: the benchmark recipe with gpus=1, where NeMo Automodel's command line runs the "
            "training loop instead; leave recipe out, or use two GPUs or more"
        )
    try:
        _with_options({}, plan)
    except RecipeError as error:
        yield str(error)


def plan_config(plan: Plan, *, run_dir: Path) -> dict[str, Any]:
    """Return the content of the recipe file of a run.

    Args:
        plan: Plan of the run, one that is not unmapped.
        run_dir: Directory of the run, absolute.
    """
    layout = plan.layout
    batch = plan.micro_batch_size
    if layout.pp > 1:  # theirs is what a rank's pipeline takes in one go
        batch *= plan.grad_accum_steps
    config: dict[str, Any] = {
        "recipe": recipe_kind(plan),
        "seed": plan.seed,
        "step_scheduler": {
            "global_batch_size": plan.global_batch_size,
            "local_batch_size": batch,
            "max_steps": plan.total_steps,
            "num_epochs": 1,
            "val_every_steps": None,
        },
        "dist_env": {
            "backend": "nccl" if plan.device == "cuda" else "gloo",
            "timeout_minutes": math.ceil(plan.timeout_sec / 60),
        },
        "model": {
            "_target_": "nemo_automodel.NeMoAutoModelForCausalLM.from_config",
            "config": str(run_dir / MODEL_FOLDER),
            "torch_dtype": "float32",
            "attn_implementation": "sdpa",
            # Their own classes of dense models have context parallelism with transformer-engine's attention only.
            "force_hf": layout.cp > 1,
        },
        "distributed": _distributed(plan),
        "dataset": {"_target_": f"{_PARTS}.PlanTokens", "seq_len": plan.seq_len, "tokenizer": None},
        "dataloader": {
            "_target_": "torchdata.stateful_dataloader.StatefulDataLoader",
            "shuffle": False,
            "collate_fn": f"{_PARTS}.collate",
        },
        "loss_fn": {"_target_": "nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy"},
        "optimizer": {"_target_": f"{_PARTS}.PlanAdamW"},
        "clip_grad_norm": {"max_norm": MAX_GRAD_NORM},
        "checkpoint": {"enabled": False, "checkpoint_dir": str(run_dir / "checkpoints")},
    }
    if plan.is_router_balanced:
        config["model"]["backend"] = {"_target_": _BACKEND, "fake_balanced_gate": True}
    if plan.precision is Precision.FP8_CS:
        config["fp8"] = {"enabled": True, "recipe_name": "tensorwise", "filter_fqns": ["lm_head"]}
    if plan.is_compiled and _is_ddp(layout):
        config["compile"] = {"enabled": True}
    if recipe_kind(plan) == BENCHMARK:
        config["benchmark"] = {
            "warmup_steps": plan.warmup_steps,
            "peak_tflops": plan.peak_tflops or 1.0,  # of its own MFU, which is not read
            "nsys_start": -1,
            "nsys_end": -1,
            "nsys_ranks": [],
            "json_output_path": str(run_dir / SUMMARY_FILE),
        }
    return _with_options(config, plan)


def _distributed(plan: Plan) -> dict[str, Any]:
    layout = plan.layout
    if _is_ddp(layout):
        return {"strategy": "ddp", "activation_checkpointing": _CHECKPOINTING[plan.recompute]}
    section: dict[str, Any] = {
        "strategy": "fsdp2",
        "dp_replicate_size": layout.dp_replicate,
        "tp_size": layout.tp,
        "cp_size": layout.cp,
        "pp_size": layout.pp,
        "sequence_parallel": layout.sequence_parallel and layout.tp > 1,
        "activation_checkpointing": _CHECKPOINTING[plan.recompute],
        "enable_compile": plan.is_compiled,
        "mp_policy": {
            "_target_": "torch.distributed.fsdp.MixedPrecisionPolicy",
            "param_dtype": _DTYPES[plan.precision],
            "reduce_dtype": "float32",
            "output_dtype": None,
            "cast_forward_inputs": False,
        },
    }
    if layout.pp > 1:
        section["pipeline"] = _pipeline(plan)
    if layout.ep > 1:
        section["ep_size"] = layout.ep
    return section


def _pipeline(plan: Plan) -> dict[str, Any]:
    layout = plan.layout
    schedule = "1f1b"
    if layout.pp_schedule == "zero_bubble":
        schedule = "interleavedzerobubble"
    elif layout.vp > 1:
        schedule = "interleaved1f1b"
    section: dict[str, Any] = {"pp_schedule": schedule, "pp_microbatch_size": plan.micro_batch_size}
    if layout.vp > _DEFAULT_CHUNKS:
        section["layers_per_stage"] = plan.model.num_layers // (layout.pp * layout.vp)
    return section


def _with_options(config: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Return a recipe file with the plan's options in it.

    Raises:
        RecipeError: If an option is what the plan says otherwise.
    """
    options = {name.lstrip("-+"): value for name, value in plan.framework_options.items()}
    closed = [name for name in options if name not in _OPEN]
    check_own(closed, own=_OWN, steps=("step_scheduler.max_steps",), subject="framework_options of a plan run")
    for name, value in options.items():
        set_option(config, name, value)
    return config


_OWN: Final = (
    "seed",
    "dist_env",
    "model._target_",
    "model.config",
    "model.backend.fake_balanced_gate",
    "dataset",
    "dataloader.collate_fn",
    "dataloader.shuffle",
    "validation_dataset",
    "packed_sequence",
    "peft",
    "optimizer",
    "lr_scheduler",
    "clip_grad_norm.max_norm",
    "checkpoint",
    "benchmark",
    "fp8",
    "compile",
    *(
        f"step_scheduler.{name}"
        for name in ("global_batch_size", "local_batch_size", "max_steps", "num_epochs", "val_every_steps")
    ),
    *(
        f"distributed.{name}"
        for name in (
            "strategy",
            "dp_size",
            "dp_replicate_size",
            "tp_size",
            "cp_size",
            "pp_size",
            "ep_size",
            "sequence_parallel",
            "activation_checkpointing",
            "enable_compile",
            "mp_policy.param_dtype",
            "pipeline.pp_schedule",
            "pipeline.pp_microbatch_size",
            "pipeline.layers_per_stage",
        )
    ),
)
"""Settings that follow from the plan, or that every run has of its own."""


def _is_ddp(layout: Layout) -> bool:
    return layout.dp_replicate > 1 and layout.dp_replicate == layout.total_gpus


def _is_mixed(layout: Layout) -> bool:
    """Whether weights may have another format than the products that they go into."""
    return layout.total_gpus > 1 and not _is_ddp(layout)
