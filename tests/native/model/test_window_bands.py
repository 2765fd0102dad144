"""Windows in bands against windows by masks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pytest_nemoperf.native.model.attention_core import Masks, SoftmaxCore
from pytest_nemoperf.native.model.window_bands import BandedCore

NUM_KEYS = 13
CASES: dict[str, dict[str, Any]] = {
    "causal": {},
    "window": {"window": 4},
    "window-of-one": {"window": 1},
    "window-of-almost-all": {"window": 12},
    "window-longer-than-the-sequence": {"window": 50},
    "chunks": {"window": 5, "is_chunked": True},
    "softcap-and-window": {"softcap": 2.0, "window": 5},
    "softcap-and-chunks": {"softcap": 2.0, "window": 4, "is_chunked": True},
}


def random(*shape: int, seed: int) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    return values.requires_grad_()


def inputs(*, has_sinks: bool) -> list[Tensor | None]:
    """Return 4 query heads of 2 key-value heads, with narrower values, and sinks."""
    sinks = random(4, seed=4) if has_sinks else None
    return [
        random(2, 4, NUM_KEYS, 8, seed=1),
        random(2, 2, NUM_KEYS, 8, seed=2),
        random(2, 2, NUM_KEYS, 6, seed=3),
        sinks,
    ]


def run(core: SoftmaxCore, tensors: list[Tensor | None]) -> list[Tensor]:
    """Return the values, and the gradients of everything that went in."""
    q, k, v, sinks = tensors
    assert q is not None
    assert k is not None
    assert v is not None
    out = core(q, k, v, sinks_H=sinks)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(5))
    return [out, *torch.autograd.grad((out * weights).sum(), [x for x in tensors if x is not None])]


@pytest.mark.parametrize("has_sinks", [False, True], ids=["", "sinks"])
@pytest.mark.parametrize("case", CASES)
def test_bands_give_the_values_and_gradients_of_masks(case: str, has_sinks: bool) -> None:  # noqa: FBT001 (parametrized)
    options = {"scale": 1 / math.sqrt(8), **CASES[case]}

    banded = run(BandedCore(**options), inputs(has_sinks=has_sinks))
    masked = run(SoftmaxCore(**options), inputs(has_sinks=has_sinks))

    for ours, theirs in zip(banded, masked, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_mask_of_a_window_is_as_large_as_the_window() -> None:
    masks = Masks()
    q, k, v = random(1, 2, 64, 8, seed=1), random(1, 2, 64, 8, seed=2), random(1, 2, 64, 8, seed=3)

    BandedCore(scale=1.0, window=4, masks=masks)(q, k, v)

    assert [mask.shape for mask in masks.made.values()] == [(4, 4)]
