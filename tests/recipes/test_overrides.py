from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.recipes.overrides import change_recipe, changes_text, complete_layout, parse_changes
from pytest_nemoperf.recipes.recipe import Precision, Recompute
from pytest_nemoperf.recipes.systems import find_system
from tests.builders import make_recipe

CPU = find_system("cpu")
FSDP8 = Layout(gpus=8, dp_shard=8)
DDP8 = Layout(gpus=8, dp_replicate=8)
ZERO8 = Layout(gpus=8, dp_replicate=8, shard_optimizer=True)
HSDP2X4 = Layout(gpus=8, dp_replicate=2, dp_shard=4)


@pytest.mark.parametrize(
    ("base", "degrees", "expected"),
    [
        pytest.param(None, {"gpus": 8}, FSDP8, id="all ranks shard"),
        pytest.param(None, {"gpus": 16, "tp": 2, "pp": 2, "cp": 2}, Layout(gpus=16, tp=2, pp=2, cp=2, dp_shard=2)),
        pytest.param(None, {"gpus": 8, "dp_shard": 1}, DDP8, id="no shards"),
        pytest.param(None, {"gpus": 8, "dp_shard": 4}, HSDP2X4, id="shards given"),
        pytest.param(None, {"gpus": 8, "dp_replicate": 2}, HSDP2X4, id="replicas given"),
        pytest.param(FSDP8, {"tp": 2}, Layout(gpus=8, dp_shard=4, tp=2), id="shards make room"),
        pytest.param(DDP8, {"tp": 2}, Layout(gpus=8, dp_replicate=4, tp=2), id="replicas make room"),
        pytest.param(HSDP2X4, {"pp": 2}, Layout(gpus=8, dp_replicate=2, dp_shard=2, pp=2), id="hsdp: shards make room"),
        pytest.param(FSDP8, {"gpus": 16}, Layout(gpus=16, dp_shard=16), id="more ranks"),
        pytest.param(Layout(gpus=4, tp=4), {"tp": 2}, Layout(gpus=4, tp=2, dp_shard=2), id="what becomes free shards"),
        pytest.param(DDP8, {"sequence_parallel": False}, Layout(gpus=8, dp_replicate=8, sequence_parallel=False)),
        pytest.param(HSDP2X4, {}, HSDP2X4, id="nothing"),
        pytest.param(None, {"gpus": 8, "shard_optimizer": True}, ZERO8, id="whole weights, shared states"),
        pytest.param(FSDP8, {"dp_shard": 1, "shard_optimizer": True}, ZERO8, id="shared states instead of FSDP"),
        pytest.param(ZERO8, {"tp": 2}, Layout(gpus=8, tp=2, dp_replicate=4, shard_optimizer=True), id="still shared"),
        pytest.param(ZERO8, {"tp": 8}, Layout(gpus=8, tp=8), id="nothing left to share"),
        pytest.param(ZERO8, {"dp_shard": 8}, FSDP8, id="FSDP shards the states too"),
        pytest.param(
            Layout(gpus=4, dp_shard=4, generation=GenerationLayout(gpus=4, tp=2)),
            {"gpus": 2, "tp": 2},
            Layout(gpus=2, tp=2, generation=GenerationLayout(gpus=2, tp=2)),
            id="ranks that take turns follow",
        ),
        pytest.param(
            Layout(gpus=4, dp_shard=4, generation=GenerationLayout(gpus=4, tp=2, is_colocated=False)),
            {"gpus": 2},
            Layout(gpus=2, dp_shard=2, generation=GenerationLayout(gpus=4, tp=2, is_colocated=False)),
            id="ranks of their own stay",
        ),
    ],
)
def test_one_data_parallel_axis_takes_the_ranks_that_are_left(
    base: Layout | None, degrees: dict[str, Any], expected: Layout
) -> None:
    assert complete_layout(degrees, base=base) == expected


@pytest.mark.parametrize(
    ("base", "degrees", "message"),
    [
        (None, {"tp": 2}, r"a layout lacks 'gpus'"),
        (
            None,
            {"gpus": 8, "tp": 3},
            r"gpus=8 is not a multiple of tp\*pp\*cp\*dp_replicate \(3\*1\*1\*1=3\), and dp_shard takes the 8/3 = "
            r"2\.66667 ranks that are left; change gpus or a degree",
        ),
        (
            FSDP8,
            {"dp_shard": 3},
            r"gpus=8 is not a multiple of tp\*pp\*cp\*dp_shard \(1\*1\*1\*3=3\), and dp_replicate",
        ),
        (
            FSDP8,
            {"dp_shard": 2, "dp_replicate": 2},
            r"gpus=8 but dp_replicate\*dp_shard\*cp\*tp\*pp = 2\*2\*1\*1\*1 = 4",
        ),
        (ZERO8, {"tp": 8, "shard_optimizer": True}, r"dp_replicate=1 and cp=1 leave one of each"),
        (FSDP8, {"tp": 0}, r"tp=0 of a layout must be a whole number >= 1"),
    ],
)
def test_ranks_that_can_not_be_shared_out_are_refused(
    base: Layout | None, degrees: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        complete_layout(degrees, base=base)


@given(
    tp=st.sampled_from([1, 2, 4]),
    pp=st.sampled_from([1, 2, 3]),
    cp=st.sampled_from([1, 2]),
    dp_replicate=st.sampled_from([1, 2, 5]),
    left=st.integers(1, 64),
)
def test_the_product_of_a_derived_layout_is_its_ranks(tp: int, pp: int, cp: int, dp_replicate: int, left: int) -> None:
    gpus = tp * pp * cp * dp_replicate * left

    layout = complete_layout({"gpus": gpus, "tp": tp, "pp": pp, "cp": cp, "dp_replicate": dp_replicate})

    assert layout.dp_shard == left


def test_a_recipe_is_changed_for_its_system_alone() -> None:
    recipe = make_recipe(layouts={"cpu": FSDP8, "h100": FSDP8}, global_batch_size=16)
    texts = ["tp=2,mbs=2", "gbs=32,seq_len=128,precision=bf16,recompute=full,compiled=true,balanced=true"]

    changed = change_recipe(recipe, system=CPU, changes=parse_changes(texts, subject="--perf-set"))

    assert changed.layouts == {"cpu": Layout(gpus=8, dp_shard=4, tp=2), "h100": FSDP8}
    assert (changed.micro_batch_size, changed.global_batch_size, changed.seq_len) == (2, 32, 128)
    assert (changed.precision, changed.recompute) == (Precision.BF16, Recompute.FULL)
    assert changed.is_compiled
    assert changed.is_router_balanced


def test_what_is_set_is_no_longer_unstated() -> None:
    recipe = replace(make_recipe(), unstated=("recompute", "shard_optimizer"))

    changed = change_recipe(recipe, system=CPU, changes={"recompute": "full"})

    assert changed.unstated == ("shard_optimizer",)


def test_a_recipe_without_a_layout_for_the_system_stays_as_it_is() -> None:
    recipe = make_recipe(layouts={"h100": FSDP8})

    assert change_recipe(recipe, system=CPU, changes={"tp": 2}) is recipe


def test_changes_are_told_as_they_are_read() -> None:
    changes = parse_changes(["tp=2, sequence_parallel=false", "cp_comm=a2a"], subject="--perf-set")

    assert changes == {"tp": 2, "sequence_parallel": False, "cp_comm": "a2a"}
    assert changes_text(changes) == "tp=2,sequence_parallel=false,cp_comm=a2a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"--perf-set: '' is not KEY=VALUE; write e\.g\. tp=2,mbs=4"),
        ("tp=", r"--perf-set: 'tp=' is not KEY=VALUE"),
        ("model=x", r"--perf-set: unknown key 'model'"),
        ("mbs=-1", r"--perf-set: mbs=-1 must be a whole number >= 1"),
        ("mbs=" + "1" * 5000, r"--perf-set: mbs=1+ \.\.\. must be a whole number >= 1"),
        ("mbs=\u0664", r"--perf-set: mbs=.* must be a whole number >= 1"),
        ("tp=0", r"--perf-set: tp=0 must be a whole number >= 1"),
        ("precision=fp8", r"--perf-set: unknown precision 'fp8'; did you mean .*fp8_ds"),
        ("recompute=half", r"--perf-set: unknown recompute 'half'; known: full, none, selective"),
        ("cp_comm=p2p", r"--perf-set: unknown cp_comm 'p2p'; known: a2a, all_gather"),
        ("sequence_parallel=yes", r"--perf-set: sequence_parallel=yes must be true or false"),
    ],
)
def test_what_is_no_change_is_named(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_changes([text], subject="--perf-set")


def test_a_word_that_does_not_exist_is_named_by_the_recipe() -> None:
    with pytest.raises(RecipeError, match=r"unknown precision 'fp8_c'; did you mean .*fp8_cs"):
        change_recipe(make_recipe(), system=CPU, changes={"precision": "fp8_c"})
