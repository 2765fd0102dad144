from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.layouts.shards import WeightShard, num_dense_shards, num_expert_shards, stage_shards
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import MoE
from pytest_nemoperf.models.weights import num_parameters

MODEL = ModelConfig(
    name="even",
    hidden_size=32,
    num_layers=4,
    num_heads=8,
    num_kv_heads=4,
    head_dim=8,
    ffn_hidden_size=48,
    vocab_size=64,
    moe=MoE(num_experts=8, topk=2, ffn_hidden_size=16, num_dense_layers=1),
)


def holders(part: WeightShard, *, layout: Layout) -> int:
    """Return the number of different parts of the weight, before FSDP."""
    parts = layout.ep if part.weight.is_expert else 1
    if part.weight.split is not None:
        parts *= layout.etp if part.weight.is_expert else layout.tp
    return parts


@given(
    tp=st.sampled_from([1, 2, 4]),
    pp=st.sampled_from([1, 2, 4]),
    cp=st.sampled_from([1, 2]),
    dp_shard=st.sampled_from([1, 2, 3, 4]),
    dp_replicate=st.sampled_from([1, 2]),
    ep=st.sampled_from([1, 2]),
    etp=st.sampled_from([1, 2]),
)
def test_all_ranks_together_hold_every_parameter_once(
    tp: int, pp: int, cp: int, dp_shard: int, dp_replicate: int, ep: int, etp: int
) -> None:
    shared = (dp_shard if dp_shard > 1 else dp_replicate) * cp * tp
    ep, etp = (ep, etp) if shared % (ep * etp) == 0 else (1, 1)
    gpus = tp * pp * cp * dp_shard * dp_replicate
    layout = Layout(gpus=gpus, tp=tp, pp=pp, cp=cp, dp_shard=dp_shard, dp_replicate=dp_replicate, ep=ep, etp=etp)

    parts = [part for pp_rank in range(pp) for part in stage_shards(MODEL, layout=layout, pp_rank=pp_rank)]

    held = sum(
        part.own_numel(shard) * holders(part, layout=layout) for part in parts for shard in range(part.num_shards)
    )
    assert held == num_parameters(MODEL)
    assert all(part.padded_numel >= part.own_numel(0) for part in parts)


@pytest.mark.parametrize(
    ("tp", "num_kv_heads", "extra_heads"),
    [
        pytest.param(8, 4, 4, id="two ranks a head"),
        pytest.param(8, 1, 7, id="one head"),
        pytest.param(4, 4, 0, id="a head each"),
        pytest.param(2, 4, 0, id="two heads each"),
    ],
)
def test_ranks_that_outnumber_the_key_value_heads_hold_copies(tp: int, num_kv_heads: int, extra_heads: int) -> None:
    model = replace(MODEL, num_kv_heads=num_kv_heads, qkv_bias=True, moe=None)
    layout = Layout(gpus=2 * tp, dp_shard=2, tp=tp)

    parts = stage_shards(model, layout=layout, pp_rank=0)

    held = sum(part.own_numel(shard) * holders(part, layout=layout) for part in parts for shard in range(2))
    key_and_value = 2 * model.head_dim * (model.hidden_size + 1) * model.num_layers  # with their biases
    assert held - num_parameters(model) == extra_heads * key_and_value
    assert sum(part.copied_numel for part in parts) == (key_and_value if extra_heads else 0)


@pytest.mark.parametrize(
    ("layout", "dense", "experts"),
    [
        pytest.param(Layout(gpus=4, dp_replicate=4, ep=2), 1, 1, id="without FSDP nothing is sharded"),
        pytest.param(Layout(gpus=4, dp_shard=4, ep=2), 4, 2, id="experts over those with the same ones"),
        pytest.param(Layout(gpus=8, dp_shard=2, cp=2, tp=2, ep=2), 4, 4, id="cp joins the shards"),
        pytest.param(Layout(gpus=2, cp=2), 1, 1, id="cp alone shards nothing"),
    ],
)
def test_fsdp_shards_over_the_ranks_that_hold_the_same(layout: Layout, dense: int, experts: int) -> None:
    assert (num_dense_shards(layout), num_expert_shards(layout)) == (dense, experts)


def test_a_tied_embedding_is_on_the_first_and_the_last_stage() -> None:
    layout = Layout(gpus=4, pp=4)
    tied = replace(MODEL, tied_embeddings=True)

    names = [[part.weight.name for part in stage_shards(tied, layout=layout, pp_rank=rank)] for rank in range(4)]

    assert ["embedding.weight" in stage for stage in names] == [True, False, False, True]
    assert not any("head.weight" in stage for stage in names)


def test_a_vocabulary_is_filled_up_to_a_multiple_of_tp() -> None:
    parts = stage_shards(replace(MODEL, vocab_size=65), layout=Layout(gpus=4, tp=4), pp_rank=0)

    assert {part.weight.name: part.shape for part in parts}["head.weight"] == (17, 32)


def test_the_last_shards_may_have_less_or_nothing() -> None:
    parts = stage_shards(replace(MODEL, vocab_size=5), layout=Layout(gpus=4, dp_shard=4), pp_rank=0)

    head = {part.weight.name: part for part in parts}["head.weight"]
    assert [head.own_numel(shard) // 32 for shard in range(4)] == [2, 2, 1, 0]
    assert head.padded_numel == 2 * 32
