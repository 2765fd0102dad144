"""Parity of products of axes with one process; sabotage of each axis is noticed.

Every pair of axes for a dense model and for a mixture of experts, and products of three on eight ranks; single axes,
and the variants of pipelines and recomputation, are in the other modules.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.recipes.recipe import Plan
from tests.native.engine import MODEL, REL_TOL, Engine, plan_of
from tests.native.families import PARTS

AXES = ("dp_replicate", "dp_shard", "cp", "tp", "pp")
DENSE = {"model": replace(MODEL, num_layers=4)}
MIXTURE = {"model": PARTS["mla-moe-mtp"]}
PAIRS = list(combinations(AXES, 2))
TRIPLES = list(combinations(AXES, 3))


def layout_of(axes: tuple[str, ...], **more: Any) -> Layout:
    """Return a layout with degree 2 on each axis."""
    degrees: dict[str, Any] = dict.fromkeys(axes, 2)
    return Layout(gpus=2 ** len(axes), **degrees, **more)


def plan_with(layout: Layout, **changes: Any) -> Plan:
    """Return a plan of two micro-batches a step: enough for accumulation, and ranks here share few cores."""
    return plan_of(layout, micro_batch_size=8 // (2 * layout.dp), **changes)


def ids(layouts: list[Layout]) -> list[Any]:
    """Return the layouts by name; those of many ranks take long."""
    return [
        pytest.param(layout, id=layout.label, marks=[pytest.mark.slow] if layout.gpus >= 8 else [])
        for layout in layouts
    ]


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


@pytest.mark.parametrize("layout", ids(DENSE_LAYOUTS))
def test_a_product_of_axes_computes_what_one_process_computes(engine: Engine, layout: Layout) -> None:
    assert engine.difference(plan_with(layout, **DENSE)) <= REL_TOL


@pytest.mark.parametrize("layout", ids(MIXTURE_LAYOUTS))
def test_a_product_with_experts_computes_what_one_process_computes(engine: Engine, layout: Layout) -> None:
    assert engine.difference(plan_with(layout, **MIXTURE)) <= REL_TOL


@pytest.mark.slow
@pytest.mark.parametrize("layout", ids([layout_of(axes) for axes in combinations(AXES, 4)]))
def test_products_of_four_axes_on_sixteen_ranks(engine: Engine, layout: Layout) -> None:
    assert engine.difference(plan_with(layout, **DENSE)) <= REL_TOL


@pytest.mark.slow
@pytest.mark.parametrize("expert_axes", [{"ep": 2}, {"etp": 2}, {"ep": 2, "etp": 2}], ids="".join)
@pytest.mark.parametrize("axes", TRIPLES, ids="-".join)
def test_products_of_three_axes_with_experts(
    engine: Engine, axes: tuple[str, ...], expert_axes: dict[str, int]
) -> None:
    # Where a replica of FSDP has too few ranks for both expert axes, the layout can't be.
    layout = layout_of(axes, **(expert_axes if set(axes) != {"dp_replicate", "dp_shard", "pp"} else {"ep": 2}))

    assert engine.difference(plan_with(layout, **MIXTURE)) <= REL_TOL


@pytest.mark.slow
@pytest.mark.parametrize("axes", list(combinations(AXES, 4)), ids="-".join)
def test_products_of_four_axes_with_experts_on_sixteen_ranks(engine: Engine, axes: tuple[str, ...]) -> None:
    assert engine.difference(plan_with(layout_of(axes, ep=2), **MIXTURE)) <= REL_TOL


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "layout", ids([layout_of(("cp", "tp")), layout_of(("cp",), cp_comm="a2a"), layout_of(("dp_shard", "pp"))])
)
def test_every_kind_of_part_is_cut_right(engine: Engine, layout: Layout, part: str) -> None:
    assert engine.difference(plan_with(layout, model=PARTS[part])) <= REL_TOL


def test_a_vocabulary_that_tp_does_not_divide_is_padded(engine: Engine) -> None:
    plan = plan_with(Layout(gpus=4, tp=4), model=replace(MODEL, vocab_size=129, num_kv_heads=4))

    assert engine.difference(plan) <= REL_TOL


def test_experts_that_shards_do_not_divide_are_cut_inside(engine: Engine) -> None:
    plan = plan_of(Layout(gpus=8, dp_shard=8), model=PARTS["moe-scaled-inputs-chunks"])

    assert plan.model.num_experts == 4
    assert engine.difference(plan) <= REL_TOL


def test_a_balanced_router_goes_whole_rounds_in_every_layout(engine: Engine) -> None:
    plan = plan_with(layout_of(("dp_shard", "tp"), ep=2), model=PARTS["moe"], is_router_balanced=True)

    assert engine.difference(plan) <= REL_TOL


@pytest.mark.parametrize(
    ("layout", "options", "sabotage"),
    [
        pytest.param(layout_of(("cp",)), DENSE, "with_sequences_out_of_order", id="cp"),
        pytest.param(layout_of(("cp",), cp_comm="a2a"), DENSE, "with_sequences_out_of_order", id="a2a"),
        pytest.param(layout_of(("tp",)), DENSE, "with_everyones_first_part", id="tp"),
        pytest.param(layout_of(("dp_replicate", "dp_shard")), DENSE, "without_replicas", id="hsdp"),
        pytest.param(layout_of(("pp",), vp=2), DENSE, "with_layers_in_the_wrong_order", id="vp"),
        pytest.param(layout_of(("pp",), pp_schedule="zero_bubble"), DENSE, "without_weight_passes", id="zero-bubble"),
        pytest.param(layout_of(("dp_shard",), ep=2), MIXTURE, "with_rows_for_other_experts", id="ep"),
        pytest.param(layout_of(("dp_replicate",), ep=2), MIXTURE, "with_experts_unscaled", id="ep-gradients"),
        pytest.param(layout_of(("dp_shard",), etp=2), MIXTURE, "with_everyones_first_part", id="etp"),
        pytest.param(
            layout_of(("tp",)), {"model": PARTS["qk-norm"]}, "without_norm_reduction", id="norms-inside-attention"
        ),
    ],
)
def test_an_axis_gone_wrong_is_noticed(engine: Engine, layout: Layout, options: dict[str, Any], sabotage: str) -> None:
    assert engine.difference(plan_with(layout, **options), sabotage=sabotage) > REL_TOL
