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
from pytest_nemoperf.recipes.rl import usual_generation_precision
from pytest_nemoperf.recipes.rl_rules import rl_problems
from pytest_nemoperf.recipes.rules import layout_problems
from pytest_nemoperf.recipes.systems import System
from pytest_nemoperf.recipes.time_limit import derived_limit, with_limit

_UNKNOWN_SEC = 1.0  # of a plan whose limit follows from it


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
        if rl.generation_precision == usual_generation_precision(recipe.precision):
            rl = replace(rl, generation_precision=None)  # one workload, said in either way
        # Multi-token prediction speeds up pre-training; reinforcement learning trains the next token alone.
        model = replace(model, mtp_num_layers=0)
        seq_lens = rl.max_lengths(seq_len=recipe.seq_len)
        num_tokens = sum(seq_lens)
        flops_per_token = num_flops(model, seq_lens=seq_lens, convention=convention, tp=layout.tp) / num_tokens
    basis = "--perf-timeout"
    if timeout_sec is None:
        timeout_sec = recipe.timeout_sec
        basis = "timeout_sec of the recipe"
    plan = Plan(
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
        timeout_sec=timeout_sec or _UNKNOWN_SEC,
        timeout_basis=basis,
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
    if timeout_sec is None:
        return with_limit(plan, derived_limit(plan, system=system))
    return plan
