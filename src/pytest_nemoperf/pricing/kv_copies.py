"""Cost of copied key-value heads, if tensor parallel ranks outnumber them: memory, FLOPs, traffic."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_nemoperf.layouts.shards import counted_shards
from pytest_nemoperf.models.components import Mixer
from pytest_nemoperf.models.weights import num_kv_copies
from pytest_nemoperf.pricing.memory import StateBytes, copied_state_bytes
from pytest_nemoperf.pricing.traffic import copied_gradient_bytes
from pytest_nemoperf.recipes.memory_rules import native_rules
from pytest_nemoperf.recipes.recipe import Plan

_FLOPS_PER_MAC = 2
_PASSES = 3  # forward, gradient of the input, gradient of the weight
_KEYS_AND_VALUES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class KVCopies:
    """Cost of copied key-value heads beyond heads without copies.

    Bytes are included in the plan's memory and traffic; the FLOPs of copies are not in its model FLOPs.

    Attributes:
        num_copies: Ranks of a tensor parallel group that hold the same heads.
        weights: Bytes of weights, on a rank of the stage with the most copies.
        gradients: Bytes of gradients, on the same rank.
        optimizer: Bytes of optimizer state, on the same rank.
        sent_bytes_per_step: Bytes a rank sends in one step to sum the gradients of the copies.
        flops_per_step: FLOPs of all ranks, forward and backward; recomputation is not counted, as in model FLOPs.
    """

    num_copies: int
    weights: int
    gradients: int
    optimizer: int
    sent_bytes_per_step: int
    flops_per_step: float


def kv_copies(plan: Plan) -> KVCopies | None:
    """Return the cost of copied key-value heads in training under the native engine; None if no rank holds a copy."""
    num_copies = num_kv_copies(plan.model, tp=plan.layout.tp)
    if num_copies == 1:
        return None
    states: list[StateBytes] = []
    sent: list[float] = []
    for pp_rank in range(plan.layout.pp):
        shards = counted_shards(plan.model, layout=plan.layout, pp_rank=pp_rank)
        states.append(copied_state_bytes(shards, num_copies=num_copies, rules=native_rules(plan)))
        sent.append(copied_gradient_bytes(plan, pp_rank=pp_rank))
    state = max(states, key=lambda stage: stage.total)
    return KVCopies(
        num_copies=num_copies,
        weights=state.weights,
        gradients=state.gradients,
        optimizer=state.optimizer,
        sent_bytes_per_step=plan.num_updates * round(max(sent)),
        flops_per_step=(num_copies - 1) * _projection_flops_per_token(plan) * plan.tokens_per_step,
    )


def _projection_flops_per_token(plan: Plan) -> int:
    """Return the FLOPs per token of the key and value projections, of all layers and heads."""
    model = plan.model
    num_layers = model.mtp_num_layers
    for layer, count in model.layer_counts.items():
        if layer.mixer is Mixer.ATTENTION:
            num_layers += count
    num_macs = model.hidden_size * _KEYS_AND_VALUES * model.num_kv_heads * model.head_dim
    return _PASSES * _FLOPS_PER_MAC * num_layers * num_macs
