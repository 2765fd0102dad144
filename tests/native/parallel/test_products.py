"""Parity of products of axes with one process; sabotage of each axis is noticed.

Every pair of axes for a dense model and for a mixture of experts, and products of three and four on eight and sixteen
ranks. Single axes, and the variants of pipelines and recomputation, are in the other modules.

The tables have a run, and ranks, for each row, and are slow. The rows that are not contained in others also run
together on the same ranks, which takes a second each: each pair of axes once, each variant of an axis once, each axis
with experts cut by ep and by etp, and each kind of part cut in each way.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.recipes.recipe import Plan
from tests.native.engine import MODEL, REL_TOL, Engine, accumulating_plan, by_layout, plan_of
from tests.native.families import PARTS

AXES = ("dp_replicate", "dp_shard", "cp", "tp", "pp")
PAIRS = list(combinations(AXES, 2))
TRIPLES = list(combinations(AXES, 3))


def layout_of(axes: tuple[str, ...], **more: Any) -> Layout:
    """Return a layout with degree 2 on each axis."""
    degrees: dict[str, Any] = dict.fromkeys(axes, 2)
    return Layout(gpus=2 ** len(axes), **degrees, **more)


def label(layout: Layout) -> str:
    return layout.label


def dense_plan(layout: Layout) -> Plan:
    """Return a plan of two blocks, or of two a stage, or of one a chunk of a stage."""
    return accumulating_plan(layout, model=replace(MODEL, num_layers=2 * layout.pp))


def mixture_plan(layout: Layout) -> Plan:
    """Return a plan of a dense block, one with experts, one more on a second stage, and one that predicts ahead."""
    model = replace(PARTS["mla-moe-mtp"], num_layers=1 + layout.pp, mtp_num_layers=1)
    return accumulating_plan(layout, model=model)


DENSE_LAYOUTS = [
    *[layout_of(axes) for axes in (*PAIRS, *TRIPLES)],
    *[layout_of(axes, vp=2) for axes in PAIRS if "pp" in axes],
    *[layout_of(axes, pp_schedule="zero_bubble") for axes in PAIRS if "pp" in axes],
    *[layout_of(axes, cp_comm="a2a") for axes in PAIRS if "cp" in axes and "tp" not in axes],
    *[layout_of(axes, sequence_parallel=False) for axes in PAIRS if "tp" in axes],
    layout_of(("cp", "tp", "pp"), vp=2, pp_schedule="zero_bubble"),
    layout_of(("dp_shard", "tp", "pp"), vp=2),
]
MIXTURE_LAYOUTS = [
    *[layout_of((axis,), **{expert_axis: 2}) for axis in AXES[:-1] for expert_axis in ("ep", "etp")],
    *[layout_of(axes, **{expert_axis: 2}) for axes in PAIRS for expert_axis in ("ep", "etp")],
    *[layout_of(axes, ep=2, etp=2) for axes in (("dp_shard", "tp"), ("dp_shard", "cp"), ("cp", "tp"))],
    layout_of(("dp_shard", "tp", "pp"), ep=4),
    layout_of(("cp", "tp", "pp"), ep=2, etp=2),
    layout_of(("dp_replicate", "dp_shard", "pp"), ep=2),
    Layout(gpus=4, dp_shard=4, ep=2),
    Layout(gpus=4, dp_replicate=4, ep=2),
]
PARTS_LAYOUTS = [layout_of(("cp", "tp")), layout_of(("cp",), cp_comm="a2a"), layout_of(("dp_shard", "pp"))]

DENSE_TOGETHER = [
    *[layout_of(axes) for axes in PAIRS],
    # Shards over two axes, in replicas: three axes in one mesh.
    layout_of(("dp_replicate", "dp_shard", "cp")),
    layout_of(("dp_shard", "pp"), vp=2),
    layout_of(("tp", "pp"), pp_schedule="zero_bubble"),
    layout_of(("dp_shard", "cp"), cp_comm="a2a"),
    # Messages between stages have another shape.
    layout_of(("tp", "pp"), sequence_parallel=False),
]
MIXTURE_TOGETHER = [
    *[layout for layout in MIXTURE_LAYOUTS if layout.gpus == 2],
    layout_of(("dp_shard", "pp"), ep=2),
    layout_of(("tp", "pp"), etp=2),
    layout_of(("dp_shard", "tp"), ep=2, etp=2),
    # Meshes of experts: replicas with one shard, several shards, and replicas without shards.
    layout_of(("dp_replicate", "dp_shard"), ep=2),
    Layout(gpus=4, dp_shard=4, ep=2),
    Layout(gpus=4, dp_replicate=4, ep=2),
]
# What they have is in another part as well, with more: tied tables, biases and layer norms in that with learned
# positions, norms of heads and partial rotation in that with gated heads, a squared ReLU in that with latent experts.
CONTAINED_PARTS = ("dense", "tied", "qkv-bias", "qk-norm", "squared-relu-partial-rotary", "moe")


def test_every_pair_of_axes_computes_what_one_process_computes(engine: Engine) -> None:
    assert engine.mismatches(by_layout(map(dense_plan, DENSE_TOGETHER))) == {}


def test_every_axis_with_experts_computes_what_one_process_computes(engine: Engine) -> None:
    assert engine.mismatches(by_layout(map(mixture_plan, MIXTURE_TOGETHER))) == {}


@pytest.mark.parametrize("layout", PARTS_LAYOUTS, ids=label)
def test_every_kind_of_part_is_cut_right(engine: Engine, layout: Layout) -> None:
    parts = [part for part in PARTS if part not in CONTAINED_PARTS]
    plans = {part: accumulating_plan(layout, model=PARTS[part]) for part in parts}

    assert engine.mismatches(plans) == {}


@pytest.mark.slow
@pytest.mark.parametrize("layout", DENSE_LAYOUTS, ids=label)
def test_a_product_of_axes_computes_what_one_process_computes(engine: Engine, layout: Layout) -> None:
    assert engine.difference(dense_plan(layout)) <= REL_TOL


@pytest.mark.slow
@pytest.mark.parametrize("layout", MIXTURE_LAYOUTS, ids=label)
def test_a_product_with_experts_computes_what_one_process_computes(engine: Engine, layout: Layout) -> None:
    assert engine.difference(mixture_plan(layout)) <= REL_TOL


@pytest.mark.slow
@pytest.mark.parametrize("layout", [layout_of(axes) for axes in combinations(AXES, 4)], ids=label)
def test_products_of_four_axes_on_sixteen_ranks(engine: Engine, layout: Layout) -> None:
    assert engine.difference(dense_plan(layout)) <= REL_TOL


@pytest.mark.slow
@pytest.mark.parametrize("expert_axes", [{"ep": 2}, {"etp": 2}, {"ep": 2, "etp": 2}], ids="".join)
@pytest.mark.parametrize("axes", TRIPLES, ids="-".join)
def test_products_of_three_axes_with_experts(
    engine: Engine, axes: tuple[str, ...], expert_axes: dict[str, int]
) -> None:
    # Where a replica of FSDP has too few ranks for both expert axes, the layout can't be.
    layout = layout_of(axes, **(expert_axes if set(axes) != {"dp_replicate", "dp_shard", "pp"} else {"ep": 2}))

    assert engine.difference(mixture_plan(layout)) <= REL_TOL


@pytest.mark.slow
@pytest.mark.parametrize("axes", list(combinations(AXES, 4)), ids="-".join)
def test_products_of_four_axes_with_experts_on_sixteen_ranks(engine: Engine, axes: tuple[str, ...]) -> None:
    assert engine.difference(mixture_plan(layout_of(axes, ep=2))) <= REL_TOL


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("layout", PARTS_LAYOUTS, ids=label)
def test_a_part_is_cut_right(engine: Engine, layout: Layout, part: str) -> None:
    assert engine.difference(accumulating_plan(layout, model=PARTS[part])) <= REL_TOL


@pytest.mark.parametrize("tp", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_vocabulary_that_tp_does_not_divide_is_padded(engine: Engine, tp: int) -> None:
    plan = accumulating_plan(Layout(gpus=tp, tp=tp), model=replace(MODEL, vocab_size=129, num_kv_heads=4))

    assert engine.difference(plan) <= REL_TOL


@pytest.mark.parametrize("num_experts", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_experts_that_shards_do_not_divide_are_cut_inside(engine: Engine, num_experts: int) -> None:
    layout = Layout(gpus=2 * num_experts, dp_shard=2 * num_experts)
    model = PARTS["moe-scaled-inputs-chunks"]
    assert model.moe is not None
    model = replace(model, num_layers=2, moe=replace(model.moe, num_experts=num_experts))

    assert model.num_experts < layout.dp_shard
    assert engine.difference(plan_of(layout, model=model)) <= REL_TOL


def test_a_balanced_router_goes_whole_rounds_in_every_layout(engine: Engine) -> None:
    plan = accumulating_plan(layout_of(("dp_shard", "tp"), ep=2), model=PARTS["moe"], is_router_balanced=True)

    assert engine.difference(plan) <= REL_TOL


@pytest.mark.parametrize(
    ("plan", "sabotage"),
    [
        pytest.param(dense_plan(layout_of(("cp",))), "with_sequences_out_of_order", id="cp"),
        pytest.param(dense_plan(layout_of(("cp",), cp_comm="a2a")), "with_sequences_out_of_order", id="a2a"),
        pytest.param(dense_plan(layout_of(("tp",))), "with_everyones_first_part", id="tp"),
        pytest.param(dense_plan(layout_of(("dp_replicate", "dp_shard"))), "without_replicas", id="hsdp"),
        pytest.param(dense_plan(layout_of(("pp",), vp=2)), "with_layers_in_the_wrong_order", id="vp"),
        pytest.param(
            dense_plan(layout_of(("pp",), pp_schedule="zero_bubble")), "without_weight_passes", id="zero-bubble"
        ),
        pytest.param(mixture_plan(layout_of(("dp_shard",), ep=2)), "with_rows_for_other_experts", id="ep"),
        pytest.param(mixture_plan(layout_of(("dp_replicate",), ep=2)), "with_experts_unscaled", id="ep-gradients"),
        pytest.param(mixture_plan(layout_of(("dp_shard",), etp=2)), "with_everyones_first_part", id="etp"),
        pytest.param(
            accumulating_plan(layout_of(("tp",)), model=PARTS["qk-norm"]),
            "without_norm_reduction",
            id="norms-inside-attention",
        ),
    ],
)
def test_an_axis_gone_wrong_is_noticed(engine: Engine, plan: Plan, sabotage: str) -> None:
    assert engine.difference(plan, sabotage=sabotage) > REL_TOL
