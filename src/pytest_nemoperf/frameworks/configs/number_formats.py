"""Number formats by the names that several frameworks' recipe files have for them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.recipes.recipe import Precision

FP8_RECIPES: Final[Mapping[str, Precision]] = MappingProxyType(
    {
        "delayed": Precision.FP8_DS,
        "tensorwise": Precision.FP8_CS,
        "blockwise": Precision.FP8_SC,
        "mxfp8": Precision.MXFP8,
    }
)
"""Scalings of FP8 in Megatron-Core."""
DTYPES: Final[Mapping[str, Precision]] = MappingProxyType(
    {"bfloat16": Precision.BF16, "bf16": Precision.BF16, "float32": Precision.FP32, "fp32": Precision.FP32}
)
"""Types of torch."""
GENERATION_PRECISIONS: Final = MappingProxyType({"fp32": "float32", "bf16": "bfloat16", "fp8": "fp8"})
"""Words of NeMo RL's ``vllm_cfg.precision`` by precision of generation."""
