"""Memory of a plan's ranks by the rules of its framework, kind by kind, counted without running it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.layouts.pipeline_schedule import num_in_flight
from pytest_nemoperf.layouts.shards import WeightShard, counted_shards, layers_of_stage
from pytest_nemoperf.pricing.activations import compute_bytes
from pytest_nemoperf.pricing.generation_memory import GenerationMemory, generation_memory
from pytest_nemoperf.pricing.megatron_activations import activation_bytes
from pytest_nemoperf.recipes.memory_rules import MemoryRules, native_rules
from pytest_nemoperf.recipes.recipe import Plan, Recompute

_FP32 = 4
CountedShards = Iterable[tuple[WeightShard, int]]
"""From counted_shards."""
_GATHERED_BLOCKS = 2  # FSDP2 gathers a block while the one before it computes


@dataclass(frozen=True, slots=True, kw_only=True)
class StateBytes:
    """Memory a rank keeps between steps; exact for the native engine.

    Attributes:
        weights: As passes read them, with the rows FSDP2 pads every shard to.
        gradients: Padded like the weights; allocated from backward to the optimizer's step.
        optimizer: Master weights, if they are copies, and AdamW's moments, unpadded, and a step count per weight.
    """

    weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """Weights, gradients and optimizer."""
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    """Memory of the fullest rank of one pipeline stage, in bytes.

    Attributes:
        pp_rank: The stage.
        num_layers: Decoder layers on it, all its model chunks together.
        num_parameters: Parameters a rank of it stores, padding not counted.
        weights: As passes read them; fp32 master weights in the native engine.
        gradients: fp32.
        optimizer: AdamW's state, and master weights that are copies.
        activations: Kept for backward, of all micro-batches in flight; an estimate.
        transient: Weights FSDP has gathered, gradients it has not reduced yet, casts and quantized copies of
            weights, the loss, a block under recomputation; an estimate from above.
        reference: Weights of the policy that training started from, if the algorithm compares with it.
        value_model: State of a second model of the policy's sizes, if the algorithm has one.
        total: Sum of these, in training.
        generating: In generation, if the same ranks generate: no gradients and activations, but the weights in the
            compute type and the cache of the fullest replica rank. 0 otherwise.
    """

    pp_rank: int
    num_layers: int
    num_parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    transient: int
    total: int
    reference: int = 0
    value_model: int = 0
    generating: int = 0

    @property
    def peak(self) -> int:
        """The larger of training and generation."""
        return max(self.total, self.generating)


def state_bytes(
    parts: CountedShards,
    *,
    rules: MemoryRules,
    is_optimizer_shared: bool = False,
    dense_shard: int = 0,
    expert_shard: int = 0,
) -> StateBytes:
    """Return the memory that a rank with these weight shards keeps between steps.

    Args:
        parts: From counted_shards.
        rules: Bytes per parameter.
        is_optimizer_shared: Ranks with the same weights share out the optimizer's states; uneven parts are rounded up.
        dense_shard: The rank's FSDP shard of weights outside experts; the first is the largest.
        expert_shard: The same of experts' weights.
    """
    stored = updated = num_weights = 0
    for shard, count in parts:
        stored += count * shard.padded_numel
        own = shard.own_numel(expert_shard if shard.weight.is_expert else dense_shard)
        if is_optimizer_shared:
            own = math.ceil(own / shard.num_replicas)
        updated += count * own
        num_weights += count
    return StateBytes(
        weights=rules.weight * stored,
        gradients=rules.gradient * stored,
        optimizer=(rules.master + rules.moments) * updated + rules.scalars * num_weights,
    )


def copied_state_bytes(parts: CountedShards, *, num_copies: int, rules: MemoryRules) -> StateBytes:
    """Return the memory of extra copies of key-value heads, averaged over FSDP's shards.

    Args:
        parts: From counted_shards.
        num_copies: Ranks that hold the same heads.
        rules: Bytes per parameter.
    """
    copied = sum(count * shard.copied_numel / shard.num_shards for shard, count in parts)
    extra = round(copied * (num_copies - 1) / num_copies)
    return StateBytes(
        weights=rules.weight * extra,
        gradients=rules.gradient * extra,
        optimizer=(rules.master + rules.moments) * extra,
    )


def memory_of_stages(plan: Plan, *, rules: MemoryRules | None = None) -> list[StageMemory]:
    """Return the memory of the fullest rank of each pipeline stage.

    Args:
        plan: From resolve.
        rules: The framework's; None for the native engine's.
    """
    generation = generation_memory(plan)
    rules = rules or native_rules(plan)
    return [_stage_memory(plan, pp_rank=rank, rules=rules, generation=generation) for rank in range(plan.layout.pp)]


def stage_memory(plan: Plan, *, pp_rank: int, rules: MemoryRules | None = None) -> StageMemory:
    """Return the memory of the fullest rank of one pipeline stage; see memory_of_stages."""
    rules = rules or native_rules(plan)
    return _stage_memory(plan, pp_rank=pp_rank, rules=rules, generation=generation_memory(plan))


def _stage_memory(plan: Plan, *, pp_rank: int, rules: MemoryRules, generation: GenerationMemory | None) -> StageMemory:
    parts = counted_shards(plan.model, layout=plan.layout, pp_rank=pp_rank)
    state = state_bytes(parts, rules=rules, is_optimizer_shared=plan.layout.shard_optimizer)
    activations = round(_activation_bytes(plan, pp_rank=pp_rank, rules=rules))
    transient = round(_transient_bytes(plan, parts=parts, pp_rank=pp_rank, rules=rules))
    num_parameters = sum(count * shard.own_numel(0) for shard, count in parts)
    reference = value_model = generating = 0
    if plan.rl is not None:
        kept = 0 if rules.has_state_on_host else state.weights + state.optimizer
        if plan.rl.algorithm_config.has_reference and not rules.has_reference_on_host:
            reference = state.weights
            kept += reference
        if plan.rl.algorithm_config.has_value_model:
            value_model = state.total
            kept += 0 if rules.has_state_on_host else value_model - state.gradients
        if generation is not None and generation.is_colocated:
            generating = kept + generation.total
    return StageMemory(
        pp_rank=pp_rank,
        num_layers=sum(layers_of_stage(plan.model, layout=plan.layout, pp_rank=pp_rank).values()),
        num_parameters=num_parameters,
        weights=state.weights,
        gradients=state.gradients,
        optimizer=state.optimizer,
        activations=activations,
        transient=transient,
        reference=reference,
        value_model=value_model,
        total=state.total + reference + value_model + activations + transient,
        generating=generating,
    )


def host_bytes(plan: Plan) -> int:
    """Return the memory of all ranks of a plan together, for ranks of the native engine that share a host's memory."""
    layout = plan.layout
    total = 0
    for stage in memory_of_stages(plan):
        total += stage.peak * (layout.gpus // layout.pp)
    generation = generation_memory(plan)
    if generation is not None and not generation.is_colocated:
        total += generation.total * (layout.total_gpus - layout.gpus)
    return total


def shown_stages(layout: Layout) -> tuple[int, ...]:
    """Return the first, a middle and the last pipeline rank, each once."""
    return tuple(sorted({0, layout.pp // 2, layout.pp - 1}))


def _activation_bytes(plan: Plan, *, pp_rank: int, rules: MemoryRules) -> float:
    """Return bytes kept by the micro-batches in flight, and by one in the head, before its backward."""
    costs = activation_bytes(plan, rules=rules)
    layout = plan.layout
    layers = layers_of_stage(plan.model, layout=layout, pp_rank=pp_rank)
    kept = sum(count * costs.layer(layer).under(plan.recompute) for layer, count in layers.items())
    in_flight = num_in_flight(layout, num_micro_batches=plan.grad_accum_steps, pp_rank=pp_rank)
    total = in_flight * kept
    if plan.recompute is not Recompute.FULL:
        total += costs.tables()
    # Token ids and labels of the whole step
    num_ids = (pp_rank == 0) + (pp_rank == layout.pp - 1)
    total += num_ids * plan.grad_accum_steps * costs.embedding()
    if pp_rank == layout.pp - 1:
        total += costs.head() + plan.model.mtp_num_layers * costs.mtp(plan.recompute)
    return total


def _transient_bytes(plan: Plan, *, parts: CountedShards, pp_rank: int, rules: MemoryRules) -> float:
    costs = activation_bytes(plan, rules=rules)
    if plan.layout.dp_shard > 1:
        total = _gathered_bytes(plan, parts=parts)
    else:
        total = _cast_bytes(plan, parts, pp_rank=pp_rank, cast=rules.cast)
    if rules.quantized:
        total += rules.quantized * _num_quantized(parts)
    if pp_rank == plan.layout.pp - 1:
        total += costs.loss_workspace()
    recomputed = 0.0
    for layer in layers_of_stage(plan.model, layout=plan.layout, pp_rank=pp_rank):
        kept = costs.layer(layer)
        recomputed = max(recomputed, kept.whole - kept.under(plan.recompute))
    return total + recomputed


def _gathered_bytes(plan: Plan, *, parts: CountedShards) -> float:
    """Return bytes of FSDP's copies: gathered weights, and gradients before their reduction.

    A pipeline keeps all its weights gathered, and whole gradients in fp32 until its last pass. Otherwise the embedding
    and the head are gathered for a whole pass, blocks one by one. A group's gradients have a second copy, in fp32,
    while they are reduced.
    """
    units: Counter[str] = Counter()
    in_blocks = 0
    for shard, count in parts:
        units[shard.unit] += shard.numel
        if shard.unit != "root":
            in_blocks += count * shard.numel
    root = units.pop("root", 0)
    largest = max(units.values(), default=0)
    whole = root + in_blocks
    element = compute_bytes(plan.precision)
    reduced = max(root, largest) * (element + _FP32)
    if plan.layout.pp > 1:
        return whole * (element + _FP32) + reduced
    return (root + min(_GATHERED_BLOCKS * largest, in_blocks)) * element + reduced


def _num_quantized(parts: CountedShards) -> int:
    """Return the parameters of the blocks' matrices, whole; embedding, head and norms are not quantized."""
    total = 0
    for shard, count in parts:
        is_block = shard.unit != "root" or ".block." in shard.weight.name
        if is_block and len(shard.shape) > 1:
            total += count * shard.numel
    return total


def _cast_bytes(plan: Plan, parts: CountedShards, *, pp_rank: int, cast: int) -> float:
    """Return bytes of the casts of master weights that each micro-batch in flight keeps for its backward.

    Full recomputation casts the weights of blocks again; those of the head, which is no block, are cast once.
    """
    if not cast:
        return 0.0
    looked_up = {"positions.weight"}  # tables are indexed before the cast, but for an embedding that is the head
    if not plan.model.tied_embeddings or pp_rank < plan.layout.pp - 1:
        looked_up.add("embedding.weight")
    blocks = root = 0
    for shard, count in parts:
        if shard.weight.name in looked_up:
            continue
        if shard.unit == "root" and ".block." not in shard.weight.name:
            root += count * shard.numel
        else:
            blocks += count * shard.numel
    if plan.recompute is Recompute.FULL:
        blocks = 0
    in_flight = num_in_flight(plan.layout, num_micro_batches=plan.grad_accum_steps, pp_rank=pp_rank)
    return (in_flight * blocks + root) * cast
