"""Divisibility rules of a layout: batch, sequence and model sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.layouts.pipeline_stages import chunk_problems, schedule_problems, stage_layers
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import FeedForward
from pytest_nemoperf.recipes.recipe import Recipe

NATIVE = "torch"
"""Name of the native engine, whose own limits are checked too."""


def layout_problems(recipe: Recipe, *, layout: Layout, model: ModelConfig) -> Iterator[str]:
    """Yield every broken rule of training, with its arithmetic; the batch first, which is changed most often."""
    yield from _batch_problems(recipe, layout=layout)
    yield from _sequence_problems(recipe.seq_len, layout=layout, model=model)
    yield from tensor_problems(model, axis="tp", tp=layout.tp, is_native=recipe.framework == NATIVE)
    yield from _ulysses_problems(model, layout=layout, is_native=recipe.framework == NATIVE)
    yield from _pipeline_problems(recipe, layout=layout, model=model)
    yield from _expert_problems(model, layout=layout, is_native=recipe.framework == NATIVE)
    if recipe.has_varying_lengths and recipe.framework == NATIVE:
        yield (
            f"has_varying_lengths=True with framework={NATIVE!r}, whose sequences all have seq_len={recipe.seq_len} "
            "tokens; drop it, or use framework='command'"
        )
    if layout.shard_optimizer and recipe.framework == NATIVE:
        yield (
            f"shard_optimizer=True with framework={NATIVE!r}, which keeps the optimizer's states whole beside whole "
            "weights; use dp_shard for FSDP, or framework='megatron'"
        )
    if recipe.is_router_balanced and model.moe is None:
        yield "is_router_balanced=True is for mixtures of experts, this model is dense; use is_router_balanced=False"


def _batch_problems(recipe: Recipe, *, layout: Layout) -> Iterator[str]:
    gbs = recipe.global_batch_size
    mbs = recipe.micro_batch_size
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


def tensor_problems(model: ModelConfig, *, axis: str, tp: int, is_native: bool) -> Iterator[str]:
    """Yield sizes that tensor parallelism can't cut, outside the routed experts.

    Args:
        model: Architecture.
        axis: Name of the degree in the messages.
        tp: The degree.
        is_native: The native engine's rule for key-value heads binds, too; other frameworks may have another.
    """
    sizes = {"num_heads": model.num_heads}
    if any(layer.feed_forward is FeedForward.DENSE for layer in model.layer_counts):
        sizes["ffn_hidden_size"] = model.ffn_hidden_size
    if model.moe is not None:
        sizes["moe.shared_ffn_hidden_size"] = model.moe.shared_ffn_hidden_size
    for name, size in sizes.items():
        if size % tp:
            yield indivisible(axis, tp, name=name, size=size)
    if is_native and model.mla is None and not _can_share_kv_heads(model, num_ranks=tp):
        degrees = []
        for degree in _divisors(model.num_heads):
            if _can_share_kv_heads(model, num_ranks=degree):
                degrees.append(str(degree))
        yield (
            f"{axis}={tp} neither divides num_kv_heads={model.num_kv_heads} ({_quotient(model.num_kv_heads, tp)}) nor "
            f"is a multiple of it ({_quotient(tp, model.num_kv_heads)}), and each rank has whole key-value heads: "
            f"its own, or a copy of one; choose {axis} among {', '.join(degrees)}"
        )


def _divisors(number: int) -> list[int]:
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small)})


def _can_share_kv_heads(model: ModelConfig, *, num_ranks: int) -> bool:
    """Whether each rank gets as many key-value heads as the others, or each head goes to as many ranks."""
    return model.num_kv_heads % num_ranks == 0 or num_ranks % model.num_kv_heads == 0


def indivisible(axis: str, degree: int, *, name: str, size: int) -> str:
    """Return the message about a degree that does not divide a size."""
    advice = f"choose {axis} among the divisors of {size}" if size > 1 else f"use {axis}=1"
    return f"{axis}={degree} does not divide {name}={size} ({_quotient(size, degree)}); {advice}"


def _quotient(size: int, degree: int) -> str:
    return f"{size}/{degree} = {size / degree:g}"


def _ulysses_problems(model: ModelConfig, *, layout: Layout, is_native: bool) -> Iterator[str]:
    """Yield numbers of heads that context parallel ranks can't divide among them under cp_comm ``a2a`` (Ulysses).

    The native engine copies key-value heads to every rank with query heads of theirs; other frameworks use
    transformer-engine, which needs key-value heads for each rank.
    """
    num_ranks = layout.tp * layout.cp
    if layout.cp == 1 or layout.cp_comm != "a2a":
        return
    subject = f"tp*cp={layout.tp}*{layout.cp}={num_ranks}"
    rule = "and with cp_comm=a2a each rank has some heads of the whole sequence; lower cp or use cp_comm=all_gather"
    if model.num_heads % num_ranks:
        yield f"{subject} does not divide num_heads={model.num_heads}, {rule}"
    if model.mla is not None:
        return
    if not is_native and model.num_kv_heads % num_ranks:
        yield f"{subject} does not divide num_kv_heads={model.num_kv_heads}, {rule}"
    if is_native and not _can_share_kv_heads(model, num_ranks=num_ranks):
        yield f"{subject} neither divides num_kv_heads={model.num_kv_heads} nor is a multiple of it, {rule}"


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
    """Yield rules of pipeline stages, and those of the native engine's schedules."""
    if recipe.framework == NATIVE:
        yield from chunk_problems(model, pp=layout.pp, vp=layout.vp)
    try:
        stage_layers(model, pp=layout.pp, vp=layout.vp)
    except PlanError as problem:
        yield str(problem)
    if recipe.framework == NATIVE:
        num_micro_batches = recipe.global_batch_size // (recipe.micro_batch_size * layout.dp)
        yield from schedule_problems(layout, num_micro_batches=num_micro_batches, is_compiled=recipe.is_compiled)
