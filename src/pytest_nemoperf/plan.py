"""From recipe to plan: every divisibility rule, and an error that shows the arithmetic."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace

from pytest_nemoperf.architecture import ModelConfig
from pytest_nemoperf.components import FeedForward
from pytest_nemoperf.errors import NoLayoutError, PlanError
from pytest_nemoperf.flops import find_convention, num_flops, num_flops_per_token
from pytest_nemoperf.parallelism import GenerationLayout, Layout
from pytest_nemoperf.recipe import Plan, Precision, Recipe, Recompute
from pytest_nemoperf.stages import schedule_problems, stage_layers
from pytest_nemoperf.systems import System

STARTUP_ALLOWANCE_SEC = 60.0
"""Of a derived time-out, for imports, process groups and the model; torchrun took 33 s for 8 CPU ranks."""
STEP_ALLOWANCE_SEC = 20.0
"""Of a derived time-out, for each step: a time-out ends runs that hang, it does not judge slow ones."""
MAX_CASE_ID_LENGTH = 200
"""File systems take names of 255 bytes; ``.json`` and the name of a temporary file need some of them."""

_NODES_AND_GPUS = re.compile(r"\d+n\d+g")
_NATIVE = "torch"


def resolve(recipe: Recipe, *, system: System, inject_pct: float = 0.0, timeout_sec: float | None = None) -> Plan:
    """Return how a recipe runs on a system.

    Args:
        recipe: What to run.
        system: Where.
        inject_pct: Self-test: each step is delayed by so many percent.
        timeout_sec: Wall-clock limit of one run, seconds; None takes the recipe's, or derives one.

    Raises:
        NoLayoutError: If the recipe has no layout for the system.
        PlanError: If a rule is broken; the message shows the arithmetic.
    """
    layout = _find_layout(recipe, system=system)
    if not (math.isfinite(inject_pct) and inject_pct >= 0):
        raise PlanError(f"inject_pct={inject_pct} must be a finite percentage >= 0; 20 makes each step 20% slower")
    if timeout_sec is not None and not (math.isfinite(timeout_sec) and timeout_sec > 0):
        raise PlanError(f"timeout_sec={timeout_sec} must be positive, finite seconds")
    model = recipe.model_config
    for problem in _problems(recipe, layout=layout, model=model):
        raise PlanError(f"{model.name} on {system.name}: {problem}")
    convention = find_convention(recipe.flops_convention)
    rl = None if recipe.rl is None else replace(recipe.rl, algorithm=recipe.rl.algorithm_config)
    if rl is not None:
        # Multi-token prediction speeds up pre-training; reinforcement learning trains the next token alone.
        model = replace(model, mtp_num_layers=0)
        layout = replace(layout, generation=layout.generation or GenerationLayout(gpus=layout.gpus))
        seq_lens = rl.most_lengths()
        num_tokens = sum(seq_lens)
        flops_per_token = num_flops(model, seq_lens=seq_lens, convention=convention, tp=layout.tp) / num_tokens
    else:
        num_tokens = recipe.global_batch_size * recipe.seq_len
        flops_per_token = num_flops_per_token(model, seq_len=recipe.seq_len, convention=convention, tp=layout.tp)
    return Plan(
        case=case_id(recipe, system=system),
        workload=recipe.workload,
        system=system.name,
        device=system.device,
        framework=recipe.framework,
        model=model,
        precision=recipe.precision,
        seq_len=recipe.seq_len,
        global_batch_size=recipe.global_batch_size,
        micro_batch_size=recipe.micro_batch_size,
        grad_accum_steps=recipe.global_batch_size // (recipe.micro_batch_size * layout.dp),
        layout=layout,
        recompute=recipe.recompute,
        is_compiled=recipe.is_compiled,
        is_router_balanced=recipe.is_router_balanced,
        num_nodes=_num_nodes(layout, system=system),
        steps=recipe.steps,
        warmup_steps=recipe.warmup_steps,
        seed=recipe.seed,
        tokens_per_step=num_tokens,
        flops_per_token=flops_per_token,
        flops_convention=convention.name,
        peak_tflops=system.peak_tflops.get(recipe.precision.number_format),
        timeout_sec=timeout_sec or recipe.timeout_sec or _derived_timeout_sec(recipe, inject_pct=inject_pct),
        inject_pct=inject_pct,
        command=recipe.command,
        env=recipe.env,
        rl=rl,
    )


def case_id(recipe: Recipe, *, system: System) -> str:
    """Return the name of a recipe on a system: stable, readable, and safe as a file name.

    For example ``pretrain-llama3-8b-1n8g-torch-bf16-fsdp4tp2-seq8192-gbs128-mbs1``. Recipes that differ in
    anything the id shows have different ids: nodes, precision and sizes have fixed forms, and the names
    between them may not look like those.

    Raises:
        NoLayoutError: If the recipe has no layout for the system.
        PlanError: If the GPUs don't fill nodes, or a name makes the id ambiguous or too long for a file.
    """
    layout = _find_layout(recipe, system=system)
    nodes = _num_nodes(layout, system=system)
    model = recipe.model_config.name
    _check_names(model=model, framework=recipe.framework)
    parts = (
        recipe.workload,
        model,
        f"{nodes}n{layout.total_gpus // nodes}g",
        recipe.framework,
        recipe.precision,
        layout.label,
        f"seq{recipe.seq_len}",
        f"gbs{recipe.global_batch_size}",
        f"mbs{recipe.micro_batch_size}",
        f"recompute_{recipe.recompute}" if recipe.recompute is not Recompute.NONE else "",
        "compiled" if recipe.is_compiled else "",
        "balanced" if recipe.is_router_balanced else "",
        recipe.variant,
    )
    case = "-".join(part for part in parts if part)
    if len(case) > MAX_CASE_ID_LENGTH:
        raise PlanError(
            f"case id {case!r} has {len(case)} characters, a file name takes {MAX_CASE_ID_LENGTH}; "
            "shorten the model's name or the variant"
        )
    return case


def _check_names(*, model: str, framework: str) -> None:
    for part in model.split("-"):
        if _NODES_AND_GPUS.fullmatch(part):
            raise PlanError(
                f"model name {model!r} has the part {part!r}, which in a case id means nodes and GPUs; rename the model"
            )
    for part in framework.split("-"):
        if part in set(Precision):
            raise PlanError(
                f"framework name {framework!r} has the part {part!r}, which in a case id means precision; "
                "rename the framework"
            )


def _find_layout(recipe: Recipe, *, system: System) -> Layout:
    if system.name not in recipe.layouts:
        raise NoLayoutError(
            f"{recipe.model_config.name} has no layout for system {system.name}; "
            f"it has layouts for {', '.join(sorted(recipe.layouts))}"
        )
    return recipe.layouts[system.name]


def _num_nodes(layout: Layout, *, system: System) -> int:
    per_node, gpus = system.gpus_per_node, layout.total_gpus
    if per_node is None or gpus <= per_node:
        return 1
    if gpus % per_node:
        whole = gpus // per_node * per_node
        raise PlanError(
            f"gpus={gpus} fill {gpus}/{per_node} = {gpus / per_node:g} nodes, for "
            f"{system.title} has {per_node} GPUs a node; use {whole} or {whole + per_node} GPUs"
        )
    return gpus // per_node


def _derived_timeout_sec(recipe: Recipe, *, inject_pct: float) -> float:
    steps = recipe.warmup_steps + recipe.steps
    return STARTUP_ALLOWANCE_SEC + STEP_ALLOWANCE_SEC * steps * (1 + inject_pct / 100)


def _problems(recipe: Recipe, *, layout: Layout, model: ModelConfig) -> Iterator[str]:
    """Yield every broken rule, the batch first: it is what people change most."""
    yield from _batch_problems(recipe, layout=layout)
    yield from _sequence_problems(recipe.seq_len, layout=layout, model=model)
    yield from _tensor_problems(model, layout=layout, is_native=recipe.framework == _NATIVE)
    yield from _trade_problems(model, layout=layout)
    yield from _pipeline_problems(recipe, layout=layout, model=model)
    yield from _expert_problems(model, layout=layout, is_native=recipe.framework == _NATIVE)
    if recipe.is_router_balanced and model.moe is None:
        yield "is_router_balanced=True is for mixtures of experts, this model is dense; use is_router_balanced=False"


def _batch_problems(recipe: Recipe, *, layout: Layout) -> Iterator[str]:
    gbs, mbs = recipe.global_batch_size, recipe.micro_batch_size
    one_pass = mbs * layout.dp
    if gbs % one_pass:
        near = f"{gbs // one_pass * one_pass} or " if gbs > one_pass else ""
        yield (
            f"global_batch_size={gbs} is not a multiple of micro_batch_size*dp_replicate*dp_shard "
            f"({mbs}*{layout.dp_replicate}*{layout.dp_shard}={one_pass}), so the ranks would need "
            f"{gbs}/{one_pass} = {gbs / one_pass:g} gradient accumulation steps; "
            f"use global_batch_size={near}{(gbs // one_pass + 1) * one_pass}, "
            "or change micro_batch_size or the layout"
        )


def _sequence_problems(seq_len: int, *, layout: Layout, model: ModelConfig) -> Iterator[str]:
    if model.max_positions is not None and seq_len > model.max_positions:
        yield (
            f"seq_len={seq_len} is longer than max_positions={model.max_positions}, and the model has learned no "
            f"positions beyond; use seq_len={model.max_positions} or less"
        )
    if layout.cp > 1 and seq_len % (2 * layout.cp):
        yield (
            f"seq_len={seq_len} is not a multiple of 2*cp (2*{layout.cp}={2 * layout.cp}): each rank takes "
            "one early and one late piece, so that causal attention costs all ranks the same; change seq_len or cp"
        )
    elif layout.tp > 1 and layout.sequence_parallel and seq_len % (layout.tp * layout.cp):
        yield (
            f"seq_len={seq_len} is not a multiple of tp*cp ({layout.tp}*{layout.cp}={layout.tp * layout.cp}) "
            "as sequence parallelism needs; change seq_len or tp, or set sequence_parallel=False"
        )


def _tensor_problems(model: ModelConfig, *, layout: Layout, is_native: bool) -> Iterator[str]:
    """Yield what tp can't cut; other frameworks may copy key-value heads."""
    sizes = {"num_heads": model.num_heads}
    if any(layer.feed_forward is FeedForward.DENSE for layer in model.layers):
        sizes["ffn_hidden_size"] = model.ffn_hidden_size
    if model.moe is not None:
        sizes["moe.shared_ffn_hidden_size"] = model.moe.shared_ffn_hidden_size
    if is_native:
        sizes["num_kv_heads"] = model.num_kv_heads
    for name, size in sizes.items():
        if size % layout.tp:
            yield _indivisible("tp", layout.tp, name=name, size=size)


def _indivisible(axis: str, degree: int, *, name: str, size: int) -> str:
    advice = f"choose {axis} among the divisors of {size}" if size > 1 else f"use {axis}=1"
    return f"{axis}={degree} does not divide {name}={size} ({size}/{degree} = {size / degree:g}); {advice}"


def _trade_problems(model: ModelConfig, *, layout: Layout) -> Iterator[str]:
    """Yield what keeps context parallel ranks from trading heads for tokens (cp_comm a2a)."""
    if layout.cp == 1 or layout.cp_comm != "a2a":
        return
    for name in ("num_heads", "num_kv_heads"):
        size = getattr(model, name)
        if size % (layout.tp * layout.cp):
            yield (
                f"tp*cp={layout.tp}*{layout.cp}={layout.tp * layout.cp} does not divide {name}={size}, and with "
                "cp_comm=a2a each rank has some heads of the whole sequence; lower cp or use cp_comm=all_gather"
            )


def _expert_problems(model: ModelConfig, *, layout: Layout, is_native: bool) -> Iterator[str]:
    if model.moe is None:
        if layout.ep * layout.etp > 1:
            yield (
                f"ep={layout.ep} and etp={layout.etp} share out the experts of a mixture of experts, "
                "this model is dense; use ep=1 and etp=1"
            )
        return
    for axis, name, size in (
        ("ep", "num_experts", model.moe.num_experts),
        ("etp", "moe.ffn_hidden_size", model.moe.ffn_hidden_size),
    ):
        degree = getattr(layout, axis)
        if size % degree:
            yield _indivisible(axis, degree, name=name, size=size)
    if is_native and layout.tp > 1 and not layout.sequence_parallel:
        yield (
            f"tp={layout.tp} without sequence parallelism would send every token to the experts {layout.tp} times; "
            "set sequence_parallel=True for a mixture of experts"
        )


def _pipeline_problems(recipe: Recipe, *, layout: Layout, model: ModelConfig) -> Iterator[str]:
    """Yield what pp can't cut, and what the native engine's schedules can't run."""
    try:
        stage_layers(model, pp=layout.pp, vp=layout.vp)
    except PlanError as problem:
        yield str(problem)
    if recipe.framework == _NATIVE:
        num_micro_batches = recipe.global_batch_size // (recipe.micro_batch_size * layout.dp)
        yield from schedule_problems(layout, num_micro_batches=num_micro_batches, is_compiled=recipe.is_compiled)
