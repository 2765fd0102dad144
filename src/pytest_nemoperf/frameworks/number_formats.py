"""Number formats that a system's GPUs can't multiply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pytest_nemoperf.recipes.recipe import Plan, Precision
from pytest_nemoperf.recipes.systems import find_system

# transformer-engine's own limits: check_fp8_support, check_fp8_block_scaling_support, check_mxfp8_support and
# check_nvfp4_support in
# NVIDIA/TransformerEngine transformer_engine/pytorch/quantization.py.
_FIRST_CAPABILITY: Final[Mapping[Precision, tuple[int, int]]] = {
    Precision.FP8_DS: (8, 9),
    Precision.FP8_CS: (8, 9),
    Precision.FP8_SC: (9, 0),
    Precision.MXFP8: (10, 0),
    Precision.NVFP4: (10, 0),
}


def unsupported_format(plan: Plan) -> str | None:
    """Return the reason that the plan's system lacks its precision, or None if it has it."""
    first = _FIRST_CAPABILITY.get(plan.precision)
    if first is None:
        return None
    system = find_system(plan.system)
    if system.compute_capability is None:
        return f"precision={plan.precision} needs an NVIDIA GPU, and {system.name} has none; use bf16 or fp32"
    if system.compute_capability < first:
        needs = version_text(first)
        has = version_text(system.compute_capability)
        return f"precision={plan.precision} needs compute capability {needs}, {system.title} has {has}; use bf16"
    return None


def version_text(version: tuple[int, ...]) -> str:
    """Return a version as it is written."""
    return ".".join(map(str, version))
