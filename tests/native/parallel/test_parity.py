"""Parity of single axes with one process: loss and gradient norm, step by step; products are in test_products."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.recipes.recipe import Precision
from tests.native.engine import MODEL, REL_TOL, Engine, accumulating_plan, by_layout, largest_difference, plan_of

DDP = Layout(gpus=2, dp_replicate=2)
FSDP = Layout(gpus=2, dp_shard=2)
TP = Layout(gpus=2, tp=2)
A2A = Layout(gpus=2, cp=2, cp_comm="a2a")
LAYOUTS = [DDP, FSDP, TP, replace(TP, sequence_parallel=False), Layout(gpus=2, cp=2), A2A]
SABOTAGE = [
    pytest.param(TP, "without_norm_reduction", id="tp2-norms-not-reduced"),
    pytest.param(DDP, "without_gradient_sync", id="ddp2-not-synchronised"),
    pytest.param(FSDP, "with_everyones_first_share", id="fsdp2-same-data"),
]


def test_each_axis_computes_what_one_process_computes(engine: Engine) -> None:
    assert engine.mismatches(by_layout(map(accumulating_plan, LAYOUTS))) == {}


def test_of_plans_on_the_same_ranks_those_that_differ_are_named(engine: Engine) -> None:
    plans = by_layout(map(accumulating_plan, (TP, FSDP, A2A)))

    assert list(engine.mismatches(plans, sabotage="with_everyones_first_share")) == [FSDP.label]


def test_one_micro_batch_a_step_is_synchronised_as_well(engine: Engine) -> None:
    plans = by_layout(plan_of(layout, micro_batch_size=8 // layout.dp) for layout in (DDP, FSDP, A2A))

    assert {plan.grad_accum_steps for plan in plans.values()} == {1}
    assert engine.mismatches(plans) == {}


def test_a_tied_head_is_one_table_in_every_layout(engine: Engine) -> None:
    model = replace(MODEL, tied_embeddings=True)
    plans = by_layout(accumulating_plan(layout, model=model) for layout in (FSDP, TP, A2A))

    assert engine.mismatches(plans) == {}


def test_gradient_accumulation_computes_what_one_pass_computes(engine: Engine) -> None:
    plan = plan_of(Layout(gpus=1))

    assert plan.grad_accum_steps == 8
    assert engine.difference(plan) <= REL_TOL


@pytest.mark.parametrize(("layout", "sabotage"), SABOTAGE)
def test_what_is_left_out_is_noticed(engine: Engine, layout: Layout, sabotage: str) -> None:
    assert engine.difference(accumulating_plan(layout), sabotage=sabotage) > REL_TOL


def test_bf16_stays_near_fp32(engine: Engine) -> None:
    plans = by_layout(accumulating_plan(layout, precision="bf16") for layout in (Layout(gpus=1), FSDP, TP, A2A))

    # bf16 keeps eight significant bits, 0.4%; a loss is a mean over 256 tokens.
    for name, records in engine.run_together(plans).items():
        reference = engine.reference(replace(plans[name], precision=Precision.FP32))
        assert 0 < largest_difference(records, reference=reference) < 0.02, name
