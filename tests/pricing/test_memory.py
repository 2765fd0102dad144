"""FSDP's transient memory and Megatron-Core's states, worked out by hand.

The rest is compared with real ranks in tests/native/train/test_memory.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.pricing.memory import StageMemory, stage_memory
from pytest_nemoperf.recipes.memory_rules import megatron_rules
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from tests.builders import ROUND_MODEL as MODEL
from tests.builders import make_plan, make_recipe

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


MIXTURE = find_model("mixtral-8x7b")
EIGHT = Layout(gpus=8, dp_replicate=8, ep=4, shard_optimizer=True)


def megatron_memory(layout: Layout, *, precision: str = "bf16") -> StageMemory:
    recipe = make_recipe(
        model=MIXTURE, layouts={"h100": layout}, global_batch_size=8, precision=precision, framework="megatron"
    )
    plan = resolve(recipe, system=find_system("h100"))
    return stage_memory(plan, pp_rank=0, rules=megatron_rules(plan))


def test_the_distributed_optimizer_shares_states_among_copies_of_a_weight_and_those_of_experts_among_theirs() -> None:
    experts = 32 * (8 // 4) * 3 * 4096 * 14336
    whole = megatron_memory(replace(EIGHT, shard_optimizer=False))
    dense = whole.num_parameters - experts

    shared = megatron_memory(EIGHT)

    assert (shared.weights, shared.gradients) == (2 * whole.num_parameters, 4 * whole.num_parameters)
    assert whole.optimizer == 12 * whole.num_parameters
    assert shared.optimizer == 12 * (dense // 8 + experts // 2)


def test_an_fp32_plan_has_no_master_weights_beside_its_weights() -> None:
    memory = megatron_memory(EIGHT, precision="fp32")

    assert memory.weights == 4 * memory.num_parameters
    assert memory.optimizer * 12 == megatron_memory(EIGHT).optimizer * 8


def test_an_8_bit_plan_keeps_a_copy_of_each_matrix_of_its_blocks_and_the_transpose() -> None:
    more = megatron_memory(EIGHT, precision="fp8_cs").transient - megatron_memory(EIGHT).transient

    table = 32000 * 4096
    norms = (2 * 32 + 1) * 4096
    assert more == 2 * (megatron_memory(EIGHT).num_parameters - 2 * table - norms)
