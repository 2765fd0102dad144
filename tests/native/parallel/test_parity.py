"""Parity of single axes with one process: loss and gradient norm, step by step; products are in test_products."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.recipes.recipe import Precision
from tests.native.engine import MODEL, REL_TOL, Engine, accumulating_plan, largest_difference, plan_of

DDP = pytest.param(Layout(gpus=2, dp_replicate=2), id="ddp2")
FSDP = pytest.param(Layout(gpus=2, dp_shard=2), id="fsdp2")
TP = pytest.param(Layout(gpus=2, tp=2), id="tp2")
A2A = pytest.param(Layout(gpus=2, cp=2, cp_comm="a2a"), id="cp2a2a")
LAYOUTS = [
    DDP,
    FSDP,
    TP,
    pytest.param(Layout(gpus=2, tp=2, sequence_parallel=False), id="tp2nosp"),
    pytest.param(Layout(gpus=2, cp=2), id="cp2"),
    A2A,
]
SABOTAGE = [
    pytest.param(Layout(gpus=2, tp=2), "without_norm_reduction", id="tp2-norms-not-reduced"),
    pytest.param(Layout(gpus=2, dp_replicate=2), "without_gradient_sync", id="ddp2-not-synchronised"),
    pytest.param(Layout(gpus=2, dp_shard=2), "with_everyones_first_share", id="fsdp2-same-data"),
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_computes_what_one_process_computes(engine: Engine, layout: Layout) -> None:
    assert engine.difference(accumulating_plan(layout)) <= REL_TOL


@pytest.mark.parametrize("layout", [DDP, FSDP, A2A])
def test_one_micro_batch_a_step_is_synchronised_as_well(engine: Engine, layout: Layout) -> None:
    plan = plan_of(layout, micro_batch_size=8 // layout.dp)

    assert plan.grad_accum_steps == 1
    assert engine.difference(plan) <= REL_TOL


@pytest.mark.parametrize("layout", [FSDP, TP, A2A])
def test_a_tied_head_is_one_table_in_every_layout(engine: Engine, layout: Layout) -> None:
    plan = accumulating_plan(layout, model=replace(MODEL, tied_embeddings=True))

    assert engine.difference(plan) <= REL_TOL


def test_gradient_accumulation_computes_what_one_pass_computes(engine: Engine) -> None:
    plan = plan_of(Layout(gpus=1))

    assert plan.grad_accum_steps == 8
    assert engine.difference(plan) <= REL_TOL


@pytest.mark.parametrize(("layout", "sabotage"), SABOTAGE)
def test_what_is_left_out_is_noticed(engine: Engine, layout: Layout, sabotage: str) -> None:
    assert engine.difference(accumulating_plan(layout), sabotage=sabotage) > REL_TOL


@pytest.mark.parametrize("layout", [pytest.param(Layout(gpus=1), id="single"), FSDP, TP, A2A])
def test_bf16_stays_near_fp32(engine: Engine, layout: Layout) -> None:
    plan = accumulating_plan(layout, precision="bf16")

    # bf16 keeps eight significant bits, 0.4%; a loss is a mean over 256 tokens.
    reference = engine.reference(replace(plan, precision=Precision.FP32))
    difference = largest_difference(engine.run(plan), reference=reference)
    assert 0 < difference < 0.02
