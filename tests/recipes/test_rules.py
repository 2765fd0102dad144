"""Rules of a plan, the arithmetic in their errors, and the frameworks they bind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.components import MLA
from pytest_nemoperf.recipes.resolve import resolve
from tests.recipes.test_resolve import CPU, FSDP4_TP2, H100, MIXTURE, MODEL, MOE, recipe_of

# 24 query heads in groups of six
SIX_GROUPS = replace(MODEL, num_heads=24, num_kv_heads=4)


@pytest.mark.parametrize(
    ("layout", "changes", "message"),
    [
        pytest.param(
            FSDP4_TP2,
            {"global_batch_size": 10},
            r"global_batch_size=10 .*micro_batch_size\*dp_replicate\*dp_shard \(1\*1\*4=4\), .* 10/4 = 2\.5 .*"
            r"use global_batch_size=8 or 12,",
            id="batch",
        ),
        pytest.param(
            FSDP4_TP2,
            {"global_batch_size": 4, "micro_batch_size": 3},
            r"\(3\*1\*4=12\), .* 4/12 = 0\.333333 .*use global_batch_size=12,",
            id="batch smaller than one pass",
        ),
        pytest.param(
            Layout(gpus=4, dp_replicate=2, dp_shard=2),
            {"global_batch_size": 6},
            r"\(1\*2\*2=4\)",
            id="batch over replicas and shards",
        ),
        pytest.param(
            Layout(gpus=3, tp=3),
            {"model": MODEL, "seq_len": 8190},
            r"tp=3 does not divide num_heads=8 \(8/3 = 2\.66667\)",
            id="heads",
        ),
        pytest.param(
            Layout(gpus=6, tp=6),
            {"model": SIX_GROUPS, "seq_len": 8196},
            r"tp=6 neither divides num_kv_heads=4 \(4/6 = 0\.666667\) nor is a multiple of it \(6/4 = 1\.5\), .*"
            r"choose tp among 1, 2, 4, 8, 12, 24$",
            id="key-value heads",
        ),
        pytest.param(
            Layout(gpus=6, tp=2, cp=3, cp_comm="a2a"),
            {"model": SIX_GROUPS, "seq_len": 8196},
            r"tp\*cp=2\*3=6 neither divides num_kv_heads=4 nor is a multiple of it, and with cp_comm=a2a",
            id="key-value heads that are traded",
        ),
        pytest.param(
            Layout(gpus=2, tp=2),
            {"model": replace(MODEL, ffn_hidden_size=193)},
            r"tp=2 does not divide ffn_hidden_size=193",
            id="ffn",
        ),
        pytest.param(
            Layout(gpus=2, tp=2),
            {"seq_len": 8191},
            r"seq_len=8191 is not a multiple of tp\*cp \(2\*1=2\) as sequence parallelism needs",
            id="sequence parallel",
        ),
        pytest.param(
            Layout(gpus=2, cp=2),
            {"seq_len": 8190},
            r"seq_len=8190 is not a multiple of 2\*cp \(2\*2=4\)",
            id="context parallel",
        ),
        pytest.param(
            Layout(gpus=8, cp=2, tp=4),
            {"seq_len": 8196},
            r"seq_len=8196 is not a multiple of tp\*cp \(4\*2=8\)",
            id="sequence over context parallel",
        ),
        pytest.param(
            Layout(gpus=5, pp=5),
            {"model": MODEL, "global_batch_size": 4},
            r"4 micro-batches a step are fewer than pp=5 stages; lower pp or micro_batch_size",
            id="micro-batches of a pipeline",
        ),
        pytest.param(
            Layout(gpus=4, pp=4, vp=4),
            {"model": MODEL, "framework": "megatron"},
            r"pp\*vp \(4\*4=16\) model chunks are more than num_layers=12",
            id="more chunks than layers",
        ),
        pytest.param(
            Layout(gpus=4, dp_shard=4, ep=2), {}, r"ep=2 and etp=1 .* this model is dense; use ep=1", id="experts"
        ),
        pytest.param(
            Layout(gpus=4, dp_shard=4, etp=2), {}, r"ep=1 and etp=2 .* this model is dense", id="expert tensors"
        ),
        pytest.param(
            Layout(gpus=4, dp_shard=4, ep=4),
            {"model": MIXTURE},
            r"ep=4 does not divide num_experts=6 \(6/4 = 1\.5\)",
            id="experts of a mixture",
        ),
        pytest.param(
            Layout(gpus=4, dp_shard=4, etp=4),
            {"model": MIXTURE},
            r"etp=4 does not divide moe\.ffn_hidden_size=50",
            id="width of an expert",
        ),
        pytest.param(
            Layout(gpus=2, tp=2, sequence_parallel=False),
            {"model": MIXTURE},
            r"tp=2 without sequence parallelism would send every token to the experts 2 times",
            id="mixture without sequence parallelism",
        ),
        pytest.param(
            Layout(gpus=1),
            {"model": replace(MODEL, max_positions=1024)},
            r"seq_len=8192 is longer than max_positions=1024, .*; use seq_len=1024 or less",
            id="more positions than the model has",
        ),
        pytest.param(
            Layout(gpus=1),
            {"model": replace(MODEL, max_positions=1024), "framework": "megatron"},
            r"seq_len=8192 is longer than max_positions=1024",
            id="more positions under any framework",
        ),
        pytest.param(
            Layout(gpus=2, tp=2),
            {"model": replace(MODEL, moe=replace(MOE, shared_ffn_hidden_size=51))},
            r"tp=2 does not divide moe\.shared_ffn_hidden_size=51",
            id="width of shared experts",
        ),
        pytest.param(
            Layout(gpus=1),
            {"is_router_balanced": True},
            r"is_router_balanced=True is for mixtures of experts, this model is dense; use is_router_balanced=False",
            id="balanced without a router",
        ),
        pytest.param(
            Layout(gpus=1),
            {"has_varying_lengths": True},
            r"has_varying_lengths=True with framework='torch', whose sequences all have seq_len=8192 tokens; drop it",
            id="varying lengths of the native engine",
        ),
    ],
)
def test_a_broken_rule_shows_the_arithmetic(layout: Layout, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        resolve(recipe_of(layout, **changes), system=CPU)


def test_a_published_layout_deals_its_layers_unevenly() -> None:
    # NVIDIA-NeMo/Megatron-Bridge docs/performance-summary.md 25.09, Llama 3.1 405B, 128 GB200
    layout = Layout(gpus=128, tp=4, pp=8, vp=8, cp=2, dp_shard=2)

    plan = resolve(recipe_of(layout, model="llama3.1-405b", global_batch_size=64), system=CPU)

    assert plan.model.num_layers % (layout.pp * layout.vp) == 62


@pytest.mark.parametrize(
    ("layout", "changes"),
    [
        pytest.param(Layout(gpus=6, tp=6), {"model": SIX_GROUPS, "seq_len": 8196}, id="tp beside key-value heads"),
        pytest.param(
            Layout(gpus=2, pp=2, vp=2), {"model": MODEL, "global_batch_size": 5}, id="rounds of micro-batches"
        ),
    ],
)
def test_rules_of_the_native_engine_do_not_bind_other_frameworks(layout: Layout, changes: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=r"tp=|rounds"):
        resolve(recipe_of(layout, **changes), system=CPU)

    assert resolve(recipe_of(layout, framework="megatron", **changes), system=CPU).layout == layout


def test_a_dense_width_binds_only_models_with_dense_layers() -> None:
    model = replace(MIXTURE, ffn_hidden_size=193)

    assert resolve(recipe_of(Layout(gpus=2, tp=2), model=model), system=CPU).model == model
    with pytest.raises(PlanError, match=r"tp=2 does not divide ffn_hidden_size=193"):
        resolve(recipe_of(Layout(gpus=2, tp=2), model=replace(model, moe=replace(MOE, num_dense_layers=1))), system=CPU)


def test_without_sequence_parallelism_tp_need_not_divide_the_sequence() -> None:
    layout = Layout(gpus=2, tp=2, sequence_parallel=False)

    assert resolve(recipe_of(layout, seq_len=8191), system=H100).seq_len == 8191


@pytest.mark.parametrize(
    ("layout", "num_kv_heads"),
    [
        pytest.param(Layout(gpus=4, tp=4), 2, id="two ranks a head"),
        pytest.param(Layout(gpus=8, tp=8), 1, id="one head"),
        pytest.param(Layout(gpus=8, tp=4, cp=2, cp_comm="a2a"), 2, id="copies that are traded"),
        pytest.param(Layout(gpus=8, tp=2, cp=4, cp_comm="a2a"), 4, id="heads traded to two ranks each"),
    ],
)
def test_key_value_heads_are_copied_where_ranks_are_a_multiple(layout: Layout, num_kv_heads: int) -> None:
    model = replace(MODEL, num_kv_heads=num_kv_heads)

    assert resolve(recipe_of(layout, model=model), system=CPU).layout == layout


def test_frameworks_on_transformer_engine_trade_key_value_heads_of_their_own() -> None:
    layout = Layout(gpus=8, tp=4, cp=2, cp_comm="a2a")

    with pytest.raises(PlanError, match=r"tp\*cp=4\*2=8 does not divide num_kv_heads=2, and with cp_comm=a2a"):
        resolve(recipe_of(layout, model=MODEL, framework="megatron"), system=CPU)


@pytest.mark.parametrize("layout", [Layout(gpus=2, tp=2), Layout(gpus=2, cp=2, cp_comm="a2a")], ids=["tp", "a2a"])
def test_latent_attention_has_no_key_value_heads_to_share_out(layout: Layout) -> None:
    latent = MLA(q_lora_rank=None, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8)
    model = replace(MODEL, num_heads=6, num_kv_heads=3, mla=latent)

    assert resolve(recipe_of(layout, model=model), system=CPU).layout == layout
