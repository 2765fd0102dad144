"""The formula against an independent count: torch's, of the products that the native model's step computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pytest_nemoperf.flops.conventions import find_convention
from pytest_nemoperf.flops.count import flops_terms, num_flops_per_token
from pytest_nemoperf.models.architecture import ModelConfig, value_model
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.native.model.moe import Experts, looped_product
from pytest_nemoperf.native.model.transformer import Decoder
from tests.native.families import PARTS
from tests.native.tiny import build, tiny_plan

SEQ_LEN = 24
TOKENS = 2 * SEQ_LEN
FULL = find_convention("full-attention")
TWINS = ["llama3-8b", "llama4-maverick-128e", "qwen3-30b-a3b", "deepseek-v2", "deepseek-v3", "mixtral-8x7b"]
TWINS += ["gpt-oss-20b", "gpt3-175b", "nemotron4-15b", "gemma2-2b", "gemma3-4b"]
MODELS = {f"{name}-twin": find_model(f"{name}-twin") for name in TWINS} | PARTS
MODELS["value"] = value_model(find_model("gemma2-2b-twin"))


def grouped_flops(rows: Any, matrices: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
    """Return the FLOPs of a grouped product of rows with their expert's matrix, or of a gradient of it."""
    return int(2 * rows[0] * rows[1] * matrices[-1])


def counter() -> FlopCounterMode:
    # torch has no formula for grouped products yet.
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten._grouped_mm: grouped_flops})


def meta_model(config: ModelConfig) -> Decoder:
    # bf16, because grouped products on the meta device take nothing else.
    with torch.device("meta"):
        model = Decoder(config, seq_len=SEQ_LEN, dtype=torch.bfloat16)
    model.tabulate_positions(torch.device("meta"))
    return model


def batch(config: ModelConfig, *, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    num_ahead = 1 + config.mtp_num_layers
    tokens = torch.zeros(2, SEQ_LEN, dtype=torch.int64, device=device)
    return tokens, tokens[..., None].expand(-1, -1, num_ahead)


@pytest.mark.parametrize("name", MODELS)
def test_the_formula_equals_the_products_of_a_step(name: str) -> None:
    config = MODELS[name]
    model = meta_model(config)

    with sdpa_kernel(SDPBackend.MATH), counter() as counted:
        model(*batch(config, device="meta")).backward()

    assert counted.get_total_flops() == TOKENS * num_flops_per_token(config, seq_len=SEQ_LEN, convention=FULL)


@pytest.mark.parametrize("name", ["qwen3-30b-a3b", "deepseek-v3"])
def test_the_formula_equals_the_products_of_a_step_with_experts_one_by_one(name: str) -> None:
    config = find_model(f"{name}-twin")
    model = build(tiny_plan(model=config, seq_len=SEQ_LEN))
    for module in model.modules():
        if isinstance(module, Experts):
            module.product = looped_product

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        model(*batch(config, device="cpu")).backward()

    assert counted.get_total_flops() == TOKENS * num_flops_per_token(config, seq_len=SEQ_LEN, convention=FULL)


@pytest.mark.parametrize(
    ("term", "modules"),
    [("router", ["moe.router"]), ("experts", ["moe.experts"]), ("shared experts", ["moe.shared"]), ("head", ["head"])],
)
def test_each_term_is_what_its_modules_compute(term: str, modules: list[str]) -> None:
    config = find_model("qwen3-30b-a3b-twin" if term != "shared experts" else "llama4-scout-16e-twin")
    model = meta_model(config)

    with counter() as counted:
        model(*batch(config, device="meta"))

    counts = counted.get_flop_counts()
    forward = sum(sum(counts[name].values()) for name in counts if name.endswith(tuple(f".{end}" for end in modules)))
    terms = flops_terms(config, seq_len=SEQ_LEN, convention=FULL)
    assert 3 * forward == TOKENS * terms[term]
