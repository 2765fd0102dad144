"""What a rank of a plan keeps in memory, kind by kind; the native engine's rules, counted without running it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pytest_nemoperf.activations import ActivationBytes, compute_bytes
from pytest_nemoperf.components import Layer
from pytest_nemoperf.generation_memory import generation_memory
from pytest_nemoperf.parallelism import Layout
from pytest_nemoperf.recipe import Plan, Recompute
from pytest_nemoperf.schedule import num_in_flight
from pytest_nemoperf.shards import WeightShard, stage_parts
from pytest_nemoperf.stages import stage_layers

_FP32 = 4
_OPTIMIZER_COPIES = 2  # AdamW's two moments, fp32
_OPTIMIZER_STEP = 4  # its step count, a scalar per weight
_GATHERED_BLOCKS = 2  # FSDP2 gathers a block while the one before it computes


@dataclass(frozen=True, slots=True, kw_only=True)
class StateBytes:
    """What a rank keeps between steps; exactly what the native engine allocates.

    Attributes:
        weights: fp32 master weights, with the rows FSDP2 pads every shard to.
        gradients: fp32, padded alike; there from backward to the optimizer's step.
        optimizer: AdamW's moments in fp32, unpadded, and a step count per weight.
    """

    weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    """Memory of the fullest rank of one pipeline stage, in bytes.

    Attributes:
        pp_rank: Which stage.
        num_layers: Decoder layers on it, all its model chunks together.
        num_parameters: Parameters a rank of it stores, padding not counted.
        weights: fp32 master weights.
        gradients: fp32.
        optimizer: AdamW's state.
        activations: Kept for backward, of all micro-batches in flight; an estimate.
        transient: For a moment: weights FSDP has gathered, gradients it has not reduced yet, casts of weights, the
            loss, a block under recomputation; an estimate from above.
        reference: Weights of the policy that training started from, fp32, where the algorithm compares with it.
        value_model: All that a second model of the policy's sizes keeps between steps, where there is one.
        total: All of them: the moment of training.
        generating: The moment of generation, where the same ranks generate: no gradients and activations, but the
            weights in the compute type and the cache of the fullest replica rank. 0 where they don't.
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
        """Memory at the worse of the two moments."""
        return max(self.total, self.generating)


def state_bytes(parts: Iterable[WeightShard], *, dense_shard: int = 0, expert_shard: int = 0) -> StateBytes:
    """Return what a rank with these parts keeps between steps.

    Args:
        parts: From stage_parts.
        dense_shard: Which FSDP shard of weights outside experts the rank has; the first is the largest.
        expert_shard: Which of experts' weights.
    """
    stored = own = num_weights = 0
    for part in parts:
        stored += part.padded_numel
        own += part.own_numel(expert_shard if part.weight.is_expert else dense_shard)
        num_weights += 1
    return StateBytes(
        weights=_FP32 * stored,
        gradients=_FP32 * stored,
        optimizer=_FP32 * _OPTIMIZER_COPIES * own + _OPTIMIZER_STEP * num_weights,
    )


def copied_state_bytes(parts: Iterable[WeightShard], *, num_copies: int) -> StateBytes:
    """Return the part of it that copies of key-value heads take; FSDP's shards have equal shares.

    Args:
        parts: From stage_parts.
        num_copies: Ranks that hold the same heads.
    """
    extra = round(sum(part.copied_numel / part.num_shards for part in parts) * (num_copies - 1) / num_copies)
    return StateBytes(weights=_FP32 * extra, gradients=_FP32 * extra, optimizer=_FP32 * _OPTIMIZER_COPIES * extra)


def stage_memory(plan: Plan, *, pp_rank: int) -> StageMemory:
    """Return the memory of the fullest rank of a pipeline stage."""
    parts = stage_parts(plan.model, layout=plan.layout, pp_rank=pp_rank)
    state = state_bytes(parts)
    activations = round(_activation_bytes(plan, pp_rank=pp_rank))
    transient = round(_transient_bytes(plan, parts=parts, pp_rank=pp_rank))
    algorithm = None if plan.rl is None else plan.rl.algorithm_config
    reference = state.weights if algorithm is not None and algorithm.has_reference else 0
    value_model = state.total if algorithm is not None and algorithm.has_value_model else 0
    generation = generation_memory(plan)
    kept = state.weights + state.optimizer + reference + (value_model - state.gradients if value_model else 0)
    return StageMemory(
        pp_rank=pp_rank,
        num_layers=len(_stage_layers(plan, pp_rank=pp_rank)),
        num_parameters=sum(part.own_numel(0) for part in parts),
        weights=state.weights,
        gradients=state.gradients,
        optimizer=state.optimizer,
        activations=activations,
        transient=transient,
        reference=reference,
        value_model=value_model,
        total=state.total + reference + value_model + activations + transient,
        generating=kept + generation.total if generation is not None and generation.is_colocated else 0,
    )


def host_bytes(plan: Plan) -> int:
    """Return the memory of all ranks of a plan together, for hosts on which they share it."""
    layout = plan.layout
    stages = (stage_memory(plan, pp_rank=pp_rank).peak for pp_rank in range(layout.pp))
    training = sum(stages) * (layout.gpus // layout.pp)
    generation = generation_memory(plan)
    apart = 0 if generation is None or generation.is_colocated else generation.total * (layout.total_gpus - layout.gpus)
    return training + apart


def shown_stages(layout: Layout) -> tuple[int, ...]:
    """Return the first, a middle and the last pipeline rank, each once."""
    return tuple(sorted({0, layout.pp // 2, layout.pp - 1}))


def _stage_layers(plan: Plan, *, pp_rank: int) -> list[Layer]:
    chunks, layers = stage_layers(plan.model, pp=plan.layout.pp, vp=plan.layout.vp)[pp_rank], plan.model.layers
    return [layers[index] for chunk in chunks for index in chunk]


def _activation_bytes(plan: Plan, *, pp_rank: int) -> float:
    """Return what all micro-batches in flight keep; the head's share is that of one, whose backward follows at once."""
    costs, layout, model = ActivationBytes(plan), plan.layout, plan.model
    layers = _stage_layers(plan, pp_rank=pp_rank)
    kept = sum(costs.layer(layer).under(plan.recompute) for layer in layers)
    in_flight = num_in_flight(layout, num_micro_batches=plan.grad_accum_steps, pp_rank=pp_rank)
    total = in_flight * kept + (0 if plan.recompute is Recompute.FULL else costs.tables())
    # The whole step's token ids are there, and its labels.
    num_ids = (pp_rank == 0) + (pp_rank == layout.pp - 1)
    total += num_ids * plan.grad_accum_steps * costs.embedding()
    if pp_rank == layout.pp - 1:
        total += costs.head() + model.mtp_num_layers * costs.mtp(plan.recompute)
    return total


def _transient_bytes(plan: Plan, *, parts: tuple[WeightShard, ...], pp_rank: int) -> float:
    costs, layout = ActivationBytes(plan), plan.layout
    total = _gathered_bytes(plan, parts=parts) if layout.dp_shard > 1 else _cast_bytes(plan, parts, pp_rank=pp_rank)
    if pp_rank == layout.pp - 1:
        total += costs.loss_workspace()
    if plan.recompute is not Recompute.NONE:
        again = (costs.layer(layer) for layer in set(_stage_layers(plan, pp_rank=pp_rank)))
        total += max((kept.whole - kept.under(plan.recompute) for kept in again), default=0.0)
    return total


def _gathered_bytes(plan: Plan, *, parts: tuple[WeightShard, ...]) -> float:
    """Return FSDP's copies: gathered weights, and gradients that wait for their reduction.

    A pipeline keeps all its weights gathered, and whole gradients in fp32 until its last pass. Without one, the
    embedding and the head are there from the beginning of a pass to its end, blocks and their gradients come and go.
    While a group's gradients are reduced they are there twice: as backward left them, and copied into fp32.
    """
    blocks: dict[str, int] = {}
    for part in parts:
        blocks[part.unit] = blocks.get(part.unit, 0) + part.numel
    root = blocks.pop("root", 0)
    largest = max(blocks.values(), default=0)
    whole = root + sum(blocks.values())
    element = compute_bytes(plan.precision)
    reduced = max(root, largest) * (element + _FP32)
    if plan.layout.pp > 1:
        return whole * (element + _FP32) + reduced
    return (root + min(_GATHERED_BLOCKS * largest, sum(blocks.values()))) * element + reduced


def _cast_bytes(plan: Plan, parts: tuple[WeightShard, ...], *, pp_rank: int) -> float:
    """Return the casts of master weights that each micro-batch in flight keeps for its backward.

    Full recomputation casts the weights of blocks again; those of the head are cast once, for it is no block.
    """
    element = compute_bytes(plan.precision)
    if element == _FP32:
        return 0.0
    looked_up = {"positions.weight"} | (set() if plan.model.tied_embeddings else {"embedding.weight"})
    looked_up |= {"embedding.weight"} if pp_rank < plan.layout.pp - 1 else set()
    cast = [part for part in parts if part.weight.name not in looked_up]
    blocks = sum(part.numel for part in cast if part.unit != "root" or ".block." in part.weight.name)
    root = sum(part.numel for part in cast) - blocks
    if plan.recompute is Recompute.FULL:
        blocks = 0
    in_flight = num_in_flight(plan.layout, num_micro_batches=plan.grad_accum_steps, pp_rank=pp_rank)
    return (in_flight * blocks + root) * element
