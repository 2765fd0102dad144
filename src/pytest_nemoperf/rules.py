"""Divisibility: what the batch, the sequence and the model's sizes must be for a layout to cut them."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_nemoperf.architecture import ModelConfig
from pytest_nemoperf.components import FeedForward
from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.parallelism import Layout
from pytest_nemoperf.recipe import Recipe
from pytest_nemoperf.stages import schedule_problems, stage_layers

NATIVE = "torch"
"""The framework whose own limits are known here."""


def layout_problems(recipe: Recipe, *, layout: Layout, model: ModelConfig) -> Iterator[str]:
    """Yield every broken rule of training, with its arithmetic; the batch first: it is what people change most."""
    yield from _batch_problems(recipe, layout=layout)
    yield from _sequence_problems(recipe.seq_len, layout=layout, model=model)
    yield from _tensor_problems(model, layout=layout, is_native=recipe.framework == NATIVE)
    yield from _trade_problems(model, layout=layout)
    yield from _pipeline_problems(recipe, layout=layout, model=model)
    yield from _expert_problems(model, layout=layout, is_native=recipe.framework == NATIVE)
    if recipe.has_varying_lengths and recipe.framework == NATIVE:
        yield (
            f"has_varying_lengths=True with framework={NATIVE!r}, whose sequences all have seq_len={recipe.seq_len} "
            "tokens; drop it, or use framework='command'"
        )
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
    for name, size in split_sizes(model, is_native=is_native).items():
        if size % layout.tp:
            yield indivisible("tp", layout.tp, name=name, size=size)


def split_sizes(model: ModelConfig, *, is_native: bool) -> dict[str, int]:
    """Return what tensor parallelism cuts outside the routed experts; other frameworks may copy key-value heads."""
    sizes = {"num_heads": model.num_heads}
    if any(layer.feed_forward is FeedForward.DENSE for layer in model.layers):
        sizes["ffn_hidden_size"] = model.ffn_hidden_size
    if model.moe is not None:
        sizes["moe.shared_ffn_hidden_size"] = model.moe.shared_ffn_hidden_size
    if is_native:
        sizes["num_kv_heads"] = model.num_kv_heads
    return sizes


def indivisible(axis: str, degree: int, *, name: str, size: int) -> str:
    """Return the sentence about a degree that does not divide a size."""
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
            yield indivisible(axis, degree, name=name, size=size)
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
    if recipe.framework == NATIVE:
        num_micro_batches = recipe.global_batch_size // (recipe.micro_batch_size * layout.dp)
        yield from schedule_problems(layout, num_micro_batches=num_micro_batches, is_compiled=recipe.is_compiled)
