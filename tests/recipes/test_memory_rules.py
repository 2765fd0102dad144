"""Bytes per parameter as Megatron-LM's documentation has them."""

from __future__ import annotations

import pytest

from pytest_nemoperf.recipes.memory_rules import KeptBy, megatron_rules, native_rules
from tests.builders import make_plan


@pytest.mark.parametrize(
    ("precision", "kept", "shared"),
    [
        pytest.param("bf16", 6, 12, id="bf16 weights, fp32 gradients: 18, or 6 + 12/d"),
        pytest.param("fp32", 8, 8, id="fp32 weights and gradients: 16, or 8 + 8/d"),
    ],
)
def test_megatron_keeps_the_bytes_of_its_documentation(precision: str, kept: int, shared: int) -> None:
    rules = megatron_rules(make_plan(precision=precision))

    assert rules.weight + rules.gradient == kept
    assert rules.master + rules.moments == shared
    assert rules.kept_by is KeptBy.MEGATRON


_QUANTIZED = [("fp32", 0), ("bf16", 0), ("fp8_cs", 2), ("mxfp8", 2), ("nvfp4", 1)]


@pytest.mark.parametrize(("precision", "quantized"), _QUANTIZED)
def test_only_8_and_4_bit_formats_have_quantized_copies(precision: str, quantized: int) -> None:
    assert megatron_rules(make_plan(precision=precision)).quantized == quantized


def test_the_native_engine_updates_the_weights_themselves_and_casts_them() -> None:
    rules = native_rules(make_plan(precision="bf16"))

    assert (rules.weight, rules.master, rules.gradient, rules.moments, rules.cast) == (4, 0, 4, 8, 2)
    assert native_rules(make_plan(precision="fp32")).cast == 0
