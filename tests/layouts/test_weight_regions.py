from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.layouts.shards import stage_shards
from pytest_nemoperf.layouts.weight_regions import (
    IndexRange,
    ShardRegion,
    _whole_region,
    generation_holders,
    regions_of_rank,
    training_holders,
)
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import MLA, MoE
from pytest_nemoperf.models.weights import ShardSpec, model_weights, num_kv_copies

DENSE = ModelConfig(
    name="dense",
    hidden_size=12,
    num_layers=4,
    num_heads=8,
    num_kv_heads=4,
    head_dim=6,
    ffn_hidden_size=20,
    vocab_size=35,
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
)
MODELS = {
    "dense": DENSE,
    "tied": replace(DENSE, tied_embeddings=True, num_layers=5),
    "copied heads": replace(DENSE, num_kv_heads=2, attention_sinks=True),
    "mixture": replace(DENSE, moe=MoE(num_experts=4, topk=2, ffn_hidden_size=8, shared_ffn_hidden_size=12)),
    "latent attention, few experts": replace(
        DENSE,
        num_kv_heads=8,
        mla=MLA(q_lora_rank=6, kv_lora_rank=5, qk_nope_head_dim=3, qk_rope_head_dim=2, v_head_dim=3),
        moe=MoE(num_experts=2, topk=1, ffn_hidden_size=12, num_dense_layers=1),
        mtp_num_layers=1,
    ),
}
DEGREES = st.sampled_from([1, 2])


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Any layout that fits the models, with ranks that generate or without."""
    tp, pp, cp, dp_replicate = draw(st.sampled_from([1, 2, 4])), draw(DEGREES), draw(DEGREES), draw(DEGREES)
    dp_shard = draw(st.sampled_from([1, 2, 3, 4]))
    shared = (dp_shard if dp_shard > 1 else dp_replicate) * cp * tp
    ep, etp = draw(DEGREES), draw(st.sampled_from([1, 2, 4]))
    ep, etp = (ep, etp) if shared % (ep * etp) == 0 else (1, 1)
    gpus = tp * pp * cp * dp_shard * dp_replicate
    gtp, gpp, gdp = draw(st.sampled_from([1, 2, 4])), draw(DEGREES), draw(st.sampled_from([1, 2, 3]))
    generation = GenerationLayout(gpus=gtp * gpp * gdp, tp=gtp, pp=gpp, is_colocated=False)
    if draw(st.booleans()) and gpus % (gtp * gpp) == 0:
        generation = GenerationLayout(gpus=gpus, tp=gtp, pp=gpp)
    return Layout(
        gpus=gpus,
        tp=tp,
        pp=pp,
        vp=draw(DEGREES) if pp > 1 else 1,
        cp=cp,
        ep=ep,
        etp=etp,
        dp_replicate=dp_replicate,
        dp_shard=dp_shard,
        generation=generation,
    )


def have_common_elements(one: ShardRegion, other: ShardRegion) -> bool:
    return all(
        any(a.start < b.start + b.length and b.start < a.start + a.length for a in along_one for b in along_other)
        for along_one, along_other in zip(one.intervals, other.intervals, strict=True)
    )


@given(model=st.sampled_from(list(MODELS.values())), layout=layouts())
def test_the_ranks_that_train_hold_each_element_equally_often(model: ModelConfig, layout: Layout) -> None:
    holders = training_holders(model, layout=layout)

    assert set(holders) == {weight.name for weight in model_weights(model)}
    for weight in model_weights(model):
        regions = [region for region in holders[weight.name] if region.numel]
        assert sum(region.numel for region in regions) == weight.numel
        assert not any(have_common_elements(*pair) for pair in combinations(regions, 2))
        num_copies = num_kv_copies(model, tp=layout.tp)
        counts = {len(holders[weight.name][region]) for region in regions}
        is_copied = ".qkv." in weight.name and num_copies > 1
        assert len(counts) == (2 if is_copied else 1)
        assert not is_copied or max(counts) == num_copies * min(counts)


@given(model=st.sampled_from(list(MODELS.values())), layout=layouts())
def test_regions_are_the_parts_that_plans_count(model: ModelConfig, layout: Layout) -> None:
    holders = training_holders(model, layout=layout)

    num_places = layout.gpus // layout.pp
    for stage in range(layout.pp):
        parts = stage_shards(model, layout=layout, pp_rank=stage)
        for rank in range(stage * num_places, (stage + 1) * num_places):
            held = regions_of_rank(rank, holders=holders)
            assert set(held) == {part.weight.name for part in parts}
            for part in parts:
                sizes = {part.own_numel(shard) for shard in range(part.num_shards)}
                assert math.prod(held[part.weight.name].shape) in sizes


@given(model=st.sampled_from(list(MODELS.values())), layout=layouts())
def test_each_replica_that_generates_holds_each_element(model: ModelConfig, layout: Layout) -> None:
    generation = layout.generation
    assert generation is not None

    holders = generation_holders(model, layout=layout)

    first = 0 if generation.is_colocated else layout.gpus
    weights = {weight.name: weight for weight in model_weights(model) if not weight.name.startswith("mtp.")}
    assert set(holders) == set(weights)
    for name, regions in holders.items():
        assert sum(region.numel for region in regions) == weights[name].numel
        for ranks in (ranks for region, ranks in regions.items() if region.numel):
            size = generation.tp * generation.pp
            per_replica = Counter((rank - first) // size for rank in ranks)
            assert set(per_replica) == set(range(generation.dp))
            assert len(set(per_replica.values())) == 1


def rows(region: ShardRegion, *, dim: int = 0) -> list[int]:
    """Return the rows of the whole weight in the order of the rank's tensor."""
    along = sorted(region.intervals[dim], key=lambda interval: interval.local)
    return [interval.start + index for interval in along for index in range(interval.length)]


@pytest.mark.parametrize(
    ("region", "expected", "length"),
    [
        pytest.param(_whole_region((8,)).split(ShardSpec(dim=0), degree=4, rank=1), [2, 3], 2, id="equal parts"),
        pytest.param(
            _whole_region((8,)).split(ShardSpec(dim=0, sections=(4, 2, 2)), degree=2, rank=1),
            [2, 3, 5, 7],
            4,
            id="a part of each fused matrix",
        ),
        pytest.param(
            _whole_region((8,)).split(ShardSpec(dim=0, sections=(4, 2, 2), max_parts=(None, 2, 2)), degree=4, rank=1),
            [1, 4, 6],
            3,
            id="a copy of a part of each but the first",
        ),
        pytest.param(
            _whole_region((5,)).split(ShardSpec(dim=0, is_padded=True), degree=2, rank=1), [3, 4], 3, id="filled up"
        ),
        pytest.param(
            _whole_region((5,)).split(ShardSpec(dim=0, is_padded=True), degree=4, rank=3),
            [],
            2,
            id="nothing but filling",
        ),
        pytest.param(_whole_region((5,)).shard(0, degree=4, rank=2), [4], 1, id="a last shard has less"),
        pytest.param(_whole_region((5,)).shard(0, degree=4, rank=3), [], 0, id="or nothing"),
        pytest.param(
            _whole_region((8,)).split(ShardSpec(dim=0, sections=(4, 4)), degree=2, rank=1).shard(0, degree=4, rank=2),
            [6],
            1,
            id="a shard of a part",
        ),
    ],
)
def test_a_part_has_the_rows_that_torch_would_cut(region: ShardRegion, expected: list[int], length: int) -> None:
    assert rows(region) == expected
    assert region.shape == (length,)


def test_filling_is_at_the_end_of_a_shard() -> None:
    part = _whole_region((5, 2)).split(ShardSpec(dim=0, is_padded=True), degree=2, rank=1)

    shard = part.shard(0, degree=2, rank=1)

    assert shard.shape == (1, 2)
    assert shard.intervals == ((), (IndexRange(start=0, local=0, length=2),))
    assert shard.numel == 0


def test_parts_must_be_equal() -> None:
    with pytest.raises(PlanError, match=r"a weight of \(6, 4\) can't be cut into 2 equal parts along 3 rows"):
        _whole_region((6, 4)).split(ShardSpec(dim=0, sections=(3, 3)), degree=2, rank=0)


def test_a_tied_embedding_is_on_both_ends_of_both_pipelines() -> None:
    layout = Layout(gpus=2, pp=2, generation=GenerationLayout(gpus=4, pp=4, is_colocated=False))

    trained = training_holders(MODELS["tied"], layout=layout)["embedding.weight"]
    generates = generation_holders(MODELS["tied"], layout=layout)["embedding.weight"]

    assert list(trained.values()) == [[0, 1]]
    assert list(generates.values()) == [[2, 5]]


def test_replicas_follow_each_other_and_stages_within_them() -> None:
    layout = Layout(gpus=1, generation=GenerationLayout(gpus=8, tp=2, pp=2, is_colocated=False))

    holders = generation_holders(DENSE, layout=layout)

    assert list(holders["embedding.weight"].values()) == [[1, 5], [2, 6]]
    assert list(holders["head.weight"].values()) == [[3, 7], [4, 8]]
    assert list(holders["norm.weight"].values()) == [[3, 4, 7, 8]]


def test_without_a_generation_layout_each_rank_generates_alone() -> None:
    holders = generation_holders(DENSE, layout=Layout(gpus=2, tp=2))

    assert all(list(regions.values()) == [[0, 1]] for regions in holders.values())
