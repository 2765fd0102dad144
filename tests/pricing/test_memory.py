"""FSDP's transient memory, worked out by hand; tests/native/train/test_memory.py compares the rest with real ranks."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.pricing.memory import stage_memory
from tests.builders import ROUND_MODEL as MODEL
from tests.builders import make_plan

ROOT = 2 * 128 * 64 + 64  # embedding, head, last norm
BLOCK = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128 + 2 * 64  # queries and output, keys and values, MLP, norms
TOKENS = 32


def transient_of(layout: Layout, *, pp_rank: int = 0, **changes: Any) -> int:
    values: dict[str, Any] = {"model": MODEL, "layouts": {"cpu": layout}, "seq_len": TOKENS, **changes}
    return stage_memory(make_plan(global_batch_size=8 * layout.dp, **values), pp_rank=pp_rank).transient


@pytest.mark.parametrize(("precision", "element"), [("bf16", 2), ("fp32", 4)])
def test_a_group_at_its_reduction_has_weights_gradients_and_their_copy_in_fp32(precision: str, element: int) -> None:
    gathered = (ROOT + 2 * BLOCK) * element
    reduced = max(ROOT, BLOCK) * (element + 4)
    logits = TOKENS * 128 * {2: 4 + 2, 4: 4}[element]  # in fp32, and as computed

    assert transient_of(Layout(gpus=4, dp_shard=4), precision=precision) == gathered + reduced + logits


def test_a_pipeline_keeps_weights_and_gradients_whole_beside_the_group_at_its_reduction() -> None:
    stage = 128 * 64 + 2 * BLOCK  # the embedding and two blocks

    moment = transient_of(Layout(gpus=8, dp_shard=4, pp=2), precision="bf16")

    assert moment == stage * (2 + 4) + BLOCK * (2 + 4)
