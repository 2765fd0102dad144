"""Rules of a framework's memory: bytes of weights, gradients and optimizer states, operators that keep activations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from pytest_nemoperf.recipes.recipe import Plan, Precision

_BF16: Final = 2
_FP32: Final = 4
_MOMENTS: Final = 8  # AdamW's two, fp32
_SCALARS: Final = 4  # its step count
_QUANTIZED: Final = {"fp8": 2, "nvfp4": 1}
"""Bytes of copies in two orders, for the products of forward and backward, by number format; without their scales."""


class KeptBy(StrEnum):
    """Operators that decide which activations forward keeps for backward."""

    NATIVE = "torch"  # the native engine's
    MEGATRON = "megatron"  # Megatron-Core's layers on transformer-engine's


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRules:
    """Bytes that a framework keeps for each parameter, and the operators of its forward pass.

    Attributes:
        owner: Name of what keeps them, in reports.
        weight: Of a weight as passes read it.
        master: Of its fp32 copy that the optimizer updates; 0 if it updates the weight itself.
        gradient: Of a gradient from its backward to the optimizer's step.
        moments: Of the optimizer's moments.
        scalars: Of the optimizer's scalars, per weight and not per parameter.
        cast: Of a weight's cast that a micro-batch keeps from forward to backward; 0 without casts.
        quantized: Of a weight's copies in 8 or 4 bits, made once a step for the products of the blocks.
        kept_by: Operators of the forward pass.
        has_reference_on_host: Weights of the policy that training started from are kept by the host, not by the GPU.
        has_state_on_host: The host keeps the training's weights and optimizer states while the same GPUs generate.
    """

    owner: str
    weight: int
    master: int
    gradient: int
    moments: int
    scalars: int = 0
    cast: int = 0
    quantized: int = 0
    kept_by: KeptBy = KeptBy.NATIVE
    has_reference_on_host: bool = False
    has_state_on_host: bool = False


def native_rules(plan: Plan) -> MemoryRules:
    """Return the rules of the native engine: fp32 weights, gradients and moments, and casts of weights for passes."""
    return MemoryRules(
        owner="the native engine",
        weight=_FP32,
        master=0,
        gradient=_FP32,
        moments=_MOMENTS,
        scalars=_SCALARS,
        cast=0 if plan.precision is Precision.FP32 else _BF16,
    )


def megatron_rules(plan: Plan) -> MemoryRules:
    """Return the rules of Megatron-Core with Adam, its own DDP and gradients that are accumulated in fp32.

    In a bf16 plan 18 bytes per parameter: bf16 weights, fp32 gradients, fp32 master weights and moments; the
    distributed optimizer shares the last two out, which leaves 6 + 12/d on each of d ranks. In an fp32 plan 16, or
    8 + 8/d. Under 8-bit and 4-bit formats the weights stay in bf16, and transformer-engine keeps a quantized copy of
    each weight of the blocks, and its transpose, from the first micro-batch of a step to the last.

    References:
        Megatron-LM, docs/user-guide/features/dist_optimizer.md, table of bytes per parameter, and
        megatron/training/theoretical_memory_usage.py, ``num_bytes_per_parameter``;
        Rajbhandari et al. 2020, section 5.1, https://arxiv.org/abs/1910.02054
    """
    is_fp32 = plan.precision is Precision.FP32
    return MemoryRules(
        owner="Megatron-Core",
        weight=_FP32 if is_fp32 else _BF16,
        master=0 if is_fp32 else _FP32,
        gradient=_FP32,
        moments=_MOMENTS,
        quantized=_QUANTIZED.get(plan.precision.number_format, 0),
        kept_by=KeptBy.MEGATRON,
    )


def nemo_rl_rules(plan: Plan, *, is_megatron: bool) -> MemoryRules:
    """Return the rules of NeMo RL: Megatron-Core's, or fp32 weights under FSDP2 as the native engine's for DTensor.

    The host keeps the reference policy, and while the same ranks generate the training's weights and states too
    (``offload_before_refit`` and ``offload_after_refit`` of NeMo RL's policy workers).
    """
    rules = megatron_rules(plan) if is_megatron else native_rules(plan)
    return replace(rules, has_reference_on_host=True, has_state_on_host=True)
