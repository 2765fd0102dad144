"""Cost of copied key-value heads, worked out by hand on a model of round numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.models.components import MLA
from pytest_nemoperf.pricing.kv_copies import KVCopies, kv_copies
from pytest_nemoperf.pricing.memory import stage_memory
from pytest_nemoperf.pricing.price import price_plan
from pytest_nemoperf.pricing.traffic import axis_traffic
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.report.terminal.plans import render_price
from tests.builders import ROUND_MODEL as MODEL
from tests.builders import make_plan

TP4 = Layout(gpus=4, tp=4)
HEAD = 2 * 16 * 64  # rows of a key head and a value head, hidden size


def plan_of(layout: Layout, *, num_kv_heads: int = 2, mtp_num_layers: int = 0, **changes: Any) -> Plan:
    model = replace(MODEL, num_kv_heads=num_kv_heads, mtp_num_layers=mtp_num_layers)
    return make_plan(model=model, layouts={"cpu": layout}, seq_len=32, global_batch_size=8, **changes)


def test_copies_cost_state_traffic_and_products() -> None:
    copies = kv_copies(plan_of(TP4))

    # two of four ranks share a head: half of what each holds in four layers is extra
    extra = 4 * HEAD // 2
    assert copies == KVCopies(
        num_copies=2,
        weights=4 * extra,
        gradients=4 * extra,
        optimizer=8 * extra,
        sent_bytes_per_step=4 * HEAD * 4,
        flops_per_step=8 * 32 * 6 * 4 * 2 * HEAD,
    )


def test_their_bytes_are_what_a_rank_keeps_beyond_heads_that_are_shared_out() -> None:
    shared = stage_memory(plan_of(TP4, num_kv_heads=4), pp_rank=0)
    copied = stage_memory(plan_of(TP4, num_kv_heads=1), pp_rank=0)
    copies = kv_copies(plan_of(TP4, num_kv_heads=1))
    assert copies is not None

    assert shared.weights == copied.weights  # a head each: its own, or a copy of the only one
    assert copies.weights == 4 * 4 * HEAD * 3 // 4


def test_the_stage_with_most_copies_counts() -> None:
    copies = kv_copies(plan_of(Layout(gpus=8, tp=4, pp=2), mtp_num_layers=1))
    assert copies is not None

    assert copies.weights == 4 * 3 * HEAD // 2  # two layers, and one of multi-token prediction
    assert copies.flops_per_step == 8 * 32 * 6 * 5 * 2 * HEAD


def test_shards_keep_an_equal_part_of_the_copies() -> None:
    whole = kv_copies(plan_of(TP4))
    sharded = kv_copies(plan_of(Layout(gpus=8, tp=4, dp_shard=2)))
    assert whole is not None
    assert sharded is not None

    assert (2 * sharded.weights, 2 * sharded.optimizer) == (whole.weights, whole.optimizer)


@pytest.mark.parametrize("layout", [Layout(gpus=2, tp=2), Layout(gpus=2, dp_shard=2)], ids=["tp2", "fsdp2"])
def test_heads_that_are_shared_out_cost_nothing(layout: Layout) -> None:
    assert kv_copies(plan_of(layout)) is None


def test_latent_attention_copies_nothing() -> None:
    latent = MLA(q_lora_rank=None, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8)
    plan = make_plan(model=replace(MODEL, mla=latent), layouts={"cpu": TP4})

    assert kv_copies(plan) is None


def test_model_flops_are_the_models() -> None:
    copied = plan_of(TP4, flops_convention="full-attention")
    whole = plan_of(Layout(gpus=1), flops_convention="full-attention")

    assert copied.flops_per_token == whole.flops_per_token


def test_people_see_what_copies_cost() -> None:
    plan = plan_of(TP4)
    price = price_plan(plan, system=find_system("cpu"), baseline=None)

    text = " ".join(render_price(price, system_title="cpu").split())

    assert price.traffic == axis_traffic(plan, stages=[0])
    assert "tp=4 is more than num_kv_heads=2: each key-value head is on 2 ranks;" in text
    assert "the copies are 16 KiB of weights, 16 KiB of gradients, 32 KiB of optimizer" in text
    assert "send 32 KiB a step over tp to sum their gradients" in text


def test_people_see_nothing_of_copies_where_there_are_none() -> None:
    price = price_plan(plan_of(Layout(gpus=2, tp=2)), system=find_system("cpu"), baseline=None)

    assert "key-value head" not in render_price(price, system_title="cpu")


def test_compressed_attention_s_one_head_of_keys_is_no_copy_but_whole_on_every_rank() -> None:
    plan = replace(plan_of(Layout(gpus=2, tp=2)), model=find_model("deepseek-v4-flash-twin"))

    assert kv_copies(plan) is None
