"""Resolution of recipes to plans; errors show the arithmetic of a broken rule."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.flops.conventions import find_convention
from pytest_nemoperf.flops.count import num_flops, num_flops_per_token
from pytest_nemoperf.recipes.case_id import case_id, count_nodes, find_layout
from pytest_nemoperf.recipes.recipe import Plan, Recipe
from pytest_nemoperf.recipes.rl_rules import rl_problems
from pytest_nemoperf.recipes.rules import layout_problems
from pytest_nemoperf.recipes.systems import System

_STARTUP_ALLOWANCE_SEC = 60.0
"""Part of a derived time-out for imports, process groups and the model; torchrun took 33 s for 8 CPU ranks."""
_FRAMEWORK_STARTUP_ALLOWANCE_SEC = 1800.0
"""The same for a framework's own recipe, which may load a checkpoint, start a cluster and compile kernels."""
_SLOW_TO_START = frozenset({"automodel", "megatron", "megatron_bridge", "nemo_rl", "torchtitan", "trl"})
"""Frameworks that do so in runs of plans, too: torchtitan tunes its attention, NeMo RL starts a cluster."""
_STEP_ALLOWANCE_SEC = 20.0
"""Part of a derived time-out for each step; generous, since a time-out is for runs that hang."""
_RL_STEP_ALLOWANCE_SEC = 1000.0
"""The same for reinforcement learning on GPUs: published steps take 53 to 974 s (catalog/published)."""


def resolve(recipe: Recipe, *, system: System, inject_pct: float = 0.0, timeout_sec: float | None = None) -> Plan:
    """Return the plan of a recipe on a system.

    Args:
        recipe: Workload and layouts.
        system: One of the systems it has a layout for.
        inject_pct: Self-test: delay of each step in percent.
        timeout_sec: Wall-clock limit of one run, seconds; None takes the recipe's, or derives one.

    Raises:
        NoLayoutError: If the recipe has no layout for the system.
        PlanError: If a rule is broken; the message shows the arithmetic.
    """
    layout = find_layout(recipe, system=system)
    if not (math.isfinite(inject_pct) and inject_pct >= 0):
        raise PlanError(f"inject_pct={inject_pct} must be a finite percentage >= 0; 20 makes each step 20% slower")
    if timeout_sec is not None and not (math.isfinite(timeout_sec) and timeout_sec > 0):
        raise PlanError(f"timeout_sec={timeout_sec} must be positive, finite seconds")
    model = recipe.model_config
    for problem in chain(
        layout_problems(recipe, layout=layout, model=model), rl_problems(recipe, layout=layout, model=model)
    ):
        raise PlanError(f"{model.name} on {system.name}: {problem}")
    num_nodes = count_nodes(layout, system=system)
    convention = find_convention(recipe.flops_convention)
    rl = recipe.rl
    if rl is None:
        num_tokens = recipe.global_batch_size * recipe.seq_len
        flops_per_token = num_flops_per_token(model, seq_len=recipe.seq_len, convention=convention, tp=layout.tp)
    else:
        rl = replace(rl, algorithm=rl.algorithm_config)
        # Multi-token prediction speeds up pre-training; reinforcement learning trains the next token alone.
        model = replace(model, mtp_num_layers=0)
        seq_lens = rl.max_lengths(seq_len=recipe.seq_len)
        num_tokens = sum(seq_lens)
        flops_per_token = num_flops(model, seq_lens=seq_lens, convention=convention, tp=layout.tp) / num_tokens
    if timeout_sec is None:
        timeout_sec = recipe.timeout_sec
    if timeout_sec is None:
        timeout_sec = _derived_timeout_sec(recipe, system=system, inject_pct=inject_pct)
    return Plan(
        case=case_id(recipe, layout=layout, num_nodes=num_nodes),
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
        has_varying_lengths=recipe.has_varying_lengths,
        num_nodes=num_nodes,
        steps=recipe.steps,
        warmup_steps=recipe.warmup_steps,
        seed=recipe.seed,
        tokens_per_step=num_tokens,
        flops_per_token=flops_per_token,
        flops_convention=convention.name,
        peak_tflops=system.peak_tflops.get(recipe.precision.number_format),
        timeout_sec=timeout_sec,
        inject_pct=inject_pct,
        framework_config=recipe.framework_config,
        framework_options=recipe.framework_options,
        command=recipe.command,
        is_command_per_rank=recipe.is_command_per_rank,
        log_format=recipe.log_format,
        log_file=recipe.log_file,
        python=recipe.python,
        env=recipe.env,
        rl=rl,
        notes=recipe.notes,
        unstated=recipe.unstated,
        extra_metrics=recipe.extra_metrics,
    )


def _derived_timeout_sec(recipe: Recipe, *, system: System, inject_pct: float) -> float:
    steps = recipe.warmup_steps + recipe.steps
    allowance = _STEP_ALLOWANCE_SEC
    if recipe.rl is not None and system.device == "cuda":
        allowance = _RL_STEP_ALLOWANCE_SEC
    startup = _STARTUP_ALLOWANCE_SEC
    if recipe.framework_config or recipe.framework in _SLOW_TO_START:
        startup = _FRAMEWORK_STARTUP_ALLOWANCE_SEC
    return startup + allowance * steps * (1 + inject_pct / 100)
