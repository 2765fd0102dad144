"""The core of attention, case by case, against the definition written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pytest_nemoperf.native.model.attention_core import Masks, SoftmaxCore

NUM_KEYS = 12


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def queries_keys_values() -> tuple[Tensor, Tensor, Tensor]:
    """Return 4 query heads of 2 key-value heads; values are narrower, as under latent attention."""
    return random(2, 4, NUM_KEYS, 8, seed=1), random(2, 2, NUM_KEYS, 8, seed=2), random(2, 2, NUM_KEYS, 6, seed=3)


def definition(q: Tensor, k: Tensor, v: Tensor, core: SoftmaxCore, *, sinks: Tensor | None = None) -> Tensor:
    """Return the value of each query, one by one."""
    out = torch.empty(*q.shape[:3], v.shape[3])
    for head in range(q.shape[1]):
        for query in range(q.shape[2]):
            first = 0
            if core.window is not None:
                first = query // core.window * core.window if core.is_chunked else max(0, query - core.window + 1)
            keys = k[:, head // 2, first : query + 1]
            values = v[:, head // 2, first : query + 1]
            scores = (keys @ q[:, head, query, :, None])[..., 0] * core.scale
            if core.softcap is not None:
                scores = core.softcap * torch.tanh(scores / core.softcap)
            shares = scores.exp()
            total = shares.sum(-1, keepdim=True)
            if sinks is not None:
                total = total + sinks[head].exp()
            out[:, head, query] = (shares / total)[:, None].matmul(values)[:, 0]
    return out


CASES: dict[str, dict[str, Any]] = {
    "causal": {},
    "scale": {"scale": 0.7},
    "window": {"window": 5},
    "window-longer-than-the-sequence": {"window": 50},
    "chunks": {"window": 5, "is_chunked": True},
    "softcap": {"softcap": 2.0},
    "softcap-and-window": {"softcap": 2.0, "window": 5},
}


@pytest.mark.parametrize("has_sinks", [False, True], ids=["", "sinks"])
@pytest.mark.parametrize("case", CASES)
def test_the_core_equals_its_definition(case: str, has_sinks: bool) -> None:  # noqa: FBT001 (parametrized)
    core = SoftmaxCore(**{"scale": 1 / math.sqrt(8), **CASES[case]})
    q, k, v = queries_keys_values()
    sinks = random(4, seed=4) if has_sinks else None

    torch.testing.assert_close(core(q, k, v, sinks_H=sinks), definition(q, k, v, core, sinks=sinks))


@pytest.mark.parametrize("has_sinks", [False, True], ids=["", "sinks"])
@pytest.mark.parametrize("case", CASES)
def test_a_piece_of_the_queries_gets_the_same_values(case: str, has_sinks: bool) -> None:  # noqa: FBT001 (parametrized)
    core = SoftmaxCore(**{"scale": 1 / math.sqrt(8), **CASES[case]})
    q, k, v = queries_keys_values()
    sinks = random(4, seed=4) if has_sinks else None

    whole = core(q, k, v, sinks_H=sinks)
    pieces = [core(q[:, :, at : at + 3], k, v, first_query=at, sinks_H=sinks) for at in range(0, NUM_KEYS, 3)]

    torch.testing.assert_close(torch.cat(pieces, dim=2), whole)


def test_layers_share_their_masks() -> None:
    masks = Masks()
    q, k, v = queries_keys_values()

    for _ in range(3):
        SoftmaxCore(scale=1.0, window=4, masks=masks)(q, k, v)
    SoftmaxCore(scale=1.0, masks=masks)(q, k, v)

    assert len(masks.made) == 1


@pytest.mark.parametrize("order", [(5, 9), (9, 5)], ids=["the longer last", "the longer first"])
@pytest.mark.parametrize("is_chunked", ["", "chunked"])
def test_rows_of_several_lengths_share_a_mask(order: tuple[int, int], is_chunked: str) -> None:
    masks = Masks()
    options: dict[str, Any] = {"window": 4, "is_chunked": bool(is_chunked), "device": torch.device("cpu")}

    for length in order:
        mask = masks.mask(first_query=3, num_queries=length, **options)

        assert torch.equal(mask, Masks().mask(first_query=3, num_queries=length, **options))
    assert len(masks.made) == 1
