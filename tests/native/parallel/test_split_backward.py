"""Backward passes in two halves against whole ones, in one process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pytest_nemoperf.native.model.layers import Linear
from pytest_nemoperf.native.model.recompute import apply_recompute
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.native.parallel.split_backward import SplitBackward
from pytest_nemoperf.native.train.data import SyntheticTokens
from pytest_nemoperf.recipes.recipe import Recompute
from tests.native.families import PARTS
from tests.native.tiny import CPU, build, tiny_config, tiny_plan

BIASED = tiny_config(qkv_bias=True, activation="gelu", mlp_bias=True)
MODELS = {
    "dense": tiny_config(),
    "biases": BIASED,
    "tied": tiny_config(tied_embeddings=True),
    "latent attention, experts, several tokens ahead": PARTS["mla-moe-mtp"],
}


def split_model(plan: Any) -> tuple[Decoder, SplitBackward]:
    model = build(plan)
    split = SplitBackward()
    split.apply(model)
    apply_recompute(model, recompute=plan.recompute)
    return model, split


def gradients(model: Decoder) -> dict[str, Tensor]:
    found = {}
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            found[name] = weight.grad.clone()
    return found


@pytest.mark.filterwarnings("ignore:grouped_mm needs rows")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recompute", list(Recompute))
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_two_halves_make_the_gradients_of_a_whole_pass(model: Any, recompute: Recompute, precision: str) -> None:
    plan = replace(tiny_plan(model=model, precision=precision), recompute=recompute)
    micro_batches = SyntheticTokens(plan, dp_rank=0, device=CPU).micro_batches(0)
    whole = build(plan)
    halves, split = split_model(plan)

    for tokens_BS, labels_BSN in micro_batches:
        whole(tokens_BS, labels_BSN).backward()
    passes = []
    for tokens_BS, labels_BSN in micro_batches:
        halves(tokens_BS, labels_BSN).backward()
        passes.append(split.take())
    for weight_pass in passes:
        weight_pass()

    expected = gradients(whole)
    found = gradients(halves)
    assert found.keys() == expected.keys()
    tolerance = 1e-5 if precision == "fp32" else 2e-2
    for name, grad in found.items():
        error = (grad - expected[name]).norm() / expected[name].norm()
        assert error <= tolerance, name


def test_the_first_half_leaves_matrices_without_gradients() -> None:
    plan = tiny_plan()
    ((tokens_BS, labels_BSN), *_) = SyntheticTokens(plan, dp_rank=0, device=CPU).micro_batches(0)
    model, split = split_model(plan)

    model(tokens_BS, labels_BSN).backward()

    matrices = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Linear)}
    assert gradients(model).keys() == dict(model.named_parameters()).keys() - matrices - {"head.weight"}
    split.take()()
    assert gradients(model).keys() == dict(model.named_parameters()).keys()


def test_a_pass_between_the_halves_of_another_keeps_its_own() -> None:
    plan = tiny_plan()
    ((tokens_BS, labels_BSN), *_) = SyntheticTokens(plan, dp_rank=0, device=CPU).micro_batches(0)
    model, split = split_model(plan)
    first = model(tokens_BS, labels_BSN)
    second = model(tokens_BS, labels_BSN)
    first.backward()
    first_half = split.take()
    second.backward()

    first_half()
    once = model.get_parameter("head.weight").grad
    assert once is not None
    once = once.clone()
    split.take()()
    twice = model.get_parameter("head.weight").grad

    assert twice is not None
    torch.testing.assert_close(twice, 2 * once)
