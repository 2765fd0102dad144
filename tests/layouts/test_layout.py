from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout

DEGREES = ("tp", "pp", "cp", "dp_replicate", "dp_shard")
degrees = st.fixed_dictionaries({name: st.integers(1, 8) for name in DEGREES})


@given(degrees)
def test_world_size_is_the_product_of_the_degrees(chosen: dict[str, Any]) -> None:
    gpus = math.prod(chosen.values())

    layout = Layout(gpus=gpus, **chosen)

    assert layout.gpus == layout.dp * layout.cp * layout.tp * layout.pp


@given(degrees, st.integers(1, 10_000))
def test_any_other_world_size_is_refused(chosen: dict[str, Any], extra: int) -> None:
    with pytest.raises(RecipeError, match=r"every rank belongs to exactly one place of the product"):
        Layout(gpus=math.prod(chosen.values()) + extra, **chosen)


def test_the_error_about_the_world_size_shows_the_arithmetic() -> None:
    with pytest.raises(RecipeError, match=r"gpus=8 but dp_replicate\*dp_shard\*cp\*tp\*pp = 1\*2\*1\*2\*1 = 4"):
        Layout(gpus=8, dp_shard=2, tp=2)


@pytest.mark.parametrize("name", ["gpus", "tp", "pp", "vp", "cp", "ep", "etp", "dp_replicate", "dp_shard"])
@pytest.mark.parametrize("degree", [0, -1, 1.0, True, "2"], ids=repr)
def test_degrees_are_positive_whole_numbers(name: str, degree: object) -> None:
    with pytest.raises(RecipeError, match=rf"{name}={degree!r} of a layout must be a whole number >= 1"):
        Layout(**{"gpus": 1, name: degree})  # type: ignore[arg-type]  # wrong types are the point


def test_ep_must_divide_the_ranks_it_shares() -> None:
    with pytest.raises(RecipeError, match=r"ep=3 does not divide dp_shard\*cp\*tp \(4\*1\*1=4\)"):
        Layout(gpus=4, dp_shard=4, ep=3)


def test_replicas_that_ep_does_not_divide_are_named() -> None:
    with pytest.raises(RecipeError, match=r"ep=3 does not divide dp_replicate\*cp\*tp \(2\*1\*1=2\)"):
        Layout(gpus=2, dp_replicate=2, ep=3)


def test_experts_of_a_single_rank_are_not_cut() -> None:
    with pytest.raises(RecipeError, match=r"ep=2 does not divide .*=1\); use ep=1, or raise dp_shard"):
        Layout(gpus=1, ep=2)


def test_ep_and_etp_divide_the_shared_ranks_together() -> None:
    with pytest.raises(
        RecipeError, match=r"ep\*etp=4\*2=8 does not divide .*; choose ep\*etp among the divisors of 4, or"
    ):
        Layout(gpus=4, dp_shard=4, ep=4, etp=2)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"vp": 2}, r"vp=2 needs pp > 1, at pp=1 it does nothing; use vp=1 or raise pp"),
        ({"pp_schedule": "zero_bubble"}, r"pp_schedule=zero_bubble needs pp > 1, .*; use pp_schedule=1f1b or raise pp"),
        ({"shard_optimizer": True}, r"dp_replicate=1 and cp=1 leave one of each; use shard_optimizer=False or raise"),
        ({"cp_comm": "a2a"}, r"cp_comm=a2a needs cp > 1, .*; use cp_comm=all_gather or raise cp"),
    ],
    ids=str,
)
def test_settings_without_effect_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Layout(gpus=1, **setting)


def test_sharded_states_beside_fsdp_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"dp_shard=2, and FSDP shards the optimizer's states with the weights"):
        Layout(gpus=4, dp_replicate=2, dp_shard=2, shard_optimizer=True)


def test_unknown_words_are_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"unknown cp_comm 'p2p'; choose all_gather or a2a$"):
        Layout(gpus=2, cp=2, cp_comm="p2p")  # type: ignore[arg-type]  # a wrong word is the point


@pytest.mark.parametrize(
    ("layout", "label"),
    [
        (Layout(gpus=1), "single"),
        (Layout(gpus=2, dp_replicate=2), "ddp2"),
        (Layout(gpus=4, dp_replicate=2, tp=2, shard_optimizer=True), "zero1ddp2tp2"),
        (Layout(gpus=2, cp=2, shard_optimizer=True), "zero1cp2"),
        (Layout(gpus=4, dp_shard=4), "fsdp4"),
        (Layout(gpus=4, dp_replicate=2, dp_shard=2), "hsdp2x2"),
        (Layout(gpus=8, dp_shard=4, tp=2), "fsdp4tp2"),
        (Layout(gpus=2, tp=2, sequence_parallel=False), "tp2nosp"),
        (Layout(gpus=2, dp_shard=2, sequence_parallel=False), "fsdp2"),
        (Layout(gpus=16, tp=2, pp=4, vp=5, cp=2), "tp2pp4vp5cp2"),
        (Layout(gpus=8, dp_shard=8, ep=4, etp=2), "fsdp8ep4etp2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_label_names_what_is_parallel(layout: Layout, label: str) -> None:
    assert layout.label == label


@given(degrees, degrees)
def test_layouts_with_different_degrees_have_different_labels(one: dict[str, Any], other: dict[str, Any]) -> None:
    layouts = [Layout(gpus=math.prod(chosen.values()), **chosen) for chosen in (one, other)]

    assert (layouts[0].label == layouts[1].label) == (one == other)


def test_a_replica_is_laid_out_like_training_with_a_part_of_every_expert_on_each_rank() -> None:
    generation = GenerationLayout(gpus=12, tp=2, pp=3, is_colocated=False)

    assert generation.replica == Layout(gpus=6, tp=2, pp=3, etp=2)
