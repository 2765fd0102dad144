"""Parity of pipelines with one process, for each schedule and with every other axis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.native.parallel.pipeline import build_chunks
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import PRETRAIN_PHASES
from tests.native.engine import MODEL, REL_TOL, Engine, accumulating_plan, plan_of
from tests.native.families import PARTS
from tests.native.tiny import tiny_plan

FOUR_LAYERS = {"model": replace(MODEL, num_layers=4)}
FIVE_LAYERS = {"model": replace(MODEL, num_layers=5)}
TIED = {"model": replace(MODEL, tied_embeddings=True)}
TIED_FOUR_LAYERS = {"model": replace(MODEL, num_layers=4, tied_embeddings=True)}
PREDICTING_AHEAD = {"model": PARTS["mla-moe-mtp"]}
ZERO_BUBBLE: Any = {"pp_schedule": "zero_bubble"}


def pipelined_plan(layout: Layout, **changes: Any) -> Plan:
    """Return a plan with more micro-batches than stages, so that both passes alternate on every stage."""
    return accumulating_plan(layout, num_micro_batches=2 * layout.pp, **changes)


def test_a_pipeline_computes_what_one_process_computes(engine: Engine) -> None:
    pp2 = Layout(gpus=2, pp=2)
    vp2 = replace(pp2, vp=2)
    zb2 = replace(pp2, **ZERO_BUBBLE)
    plans = {
        "pp2": pipelined_plan(pp2),
        "pp2vp2": pipelined_plan(vp2, **FOUR_LAYERS),
        "zb2": pipelined_plan(zb2),
        "zb2vp2": pipelined_plan(replace(zb2, vp=2), **FOUR_LAYERS),
        "uneven": pipelined_plan(vp2, **FIVE_LAYERS),
        "tied pp2": pipelined_plan(pp2, **TIED),
        "tied pp4": pipelined_plan(Layout(gpus=4, pp=4), **TIED_FOUR_LAYERS),
        "tied zb2": pipelined_plan(zb2, **TIED),
        "tied pp2tp2": pipelined_plan(Layout(gpus=4, pp=2, tp=2), **TIED),
        "mtp zb2fsdp2": pipelined_plan(Layout(gpus=4, pp=2, dp_shard=2, **ZERO_BUBBLE), **PREDICTING_AHEAD),
        "as many micro-batches as stages": accumulating_plan(pp2),
        "an odd number of micro-batches": plan_of(pp2, global_batch_size=5),
        "an odd number, interleaved": plan_of(vp2, global_batch_size=3, **FOUR_LAYERS),
        "an odd number, zero bubble": plan_of(zb2, global_batch_size=3),
    }

    assert engine.mismatches(plans) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "changes"),
    [
        pytest.param(Layout(gpus=4, pp=4), FOUR_LAYERS, id="pp4"),
        pytest.param(Layout(gpus=4, pp=2, dp_replicate=2), {}, id="pp2ddp2"),
        pytest.param(Layout(gpus=4, pp=2, dp_shard=2), {}, id="pp2fsdp2"),
        pytest.param(Layout(gpus=4, pp=2, vp=2, dp_shard=2), FOUR_LAYERS, id="pp2vp2fsdp2"),
        pytest.param(Layout(gpus=4, pp=2, dp_shard=2, **ZERO_BUBBLE), {}, id="zb2fsdp2"),
        pytest.param(Layout(gpus=4, pp=2, tp=2), {}, id="pp2tp2"),
        pytest.param(Layout(gpus=4, pp=2, tp=2, sequence_parallel=False), {}, id="pp2tp2nosp"),
        pytest.param(Layout(gpus=4, pp=2, tp=2, **ZERO_BUBBLE), {}, id="zb2tp2"),
        pytest.param(Layout(gpus=4, pp=2, dp_shard=2), TIED, id="tied pp2fsdp2"),
        pytest.param(Layout(gpus=2, pp=2), PREDICTING_AHEAD, id="mtp pp2"),
        pytest.param(Layout(gpus=2, pp=2, **ZERO_BUBBLE), PREDICTING_AHEAD, id="mtp zb2"),
    ],
)
def test_more_micro_batches_in_products_of_axes_compute_it_as_well(
    engine: Engine, layout: Layout, changes: dict[str, Any]
) -> None:
    # With two micro-batches most of these are in test_products; the others have part of what a test above has.
    assert engine.difference(plan_of(layout, **changes)) <= REL_TOL


@pytest.mark.parametrize(
    ("layout", "changes", "sabotage"),
    [
        pytest.param(Layout(gpus=2, pp=2), TIED, "without_sum_of_tied_gradients", id="tied"),
        pytest.param(Layout(gpus=2, pp=2), {}, "without_last_micro_batch", id="micro-batch"),
        pytest.param(Layout(gpus=2, pp=2), {}, "with_layers_in_the_wrong_order", id="order"),
    ],
)
def test_what_a_pipeline_leaves_out_is_noticed(
    engine: Engine, layout: Layout, changes: dict[str, Any], sabotage: str
) -> None:
    assert engine.difference(pipelined_plan(layout, **changes), sabotage=sabotage) > REL_TOL


def test_a_zero_bubble_pipeline_adds_gradients_in_fp32_as_others_do(engine: Engine) -> None:
    plan = plan_of(Layout(gpus=4, pp=2, dp_shard=2), precision="bf16")
    zero_bubble = replace(plan, layout=replace(plan.layout, **ZERO_BUBBLE))

    records = engine.run_together({"whole": plan, "halves": zero_bubble})

    whole = [(step.loss, step.grad_norm) for step in records["whole"]]
    assert [(step.loss, step.grad_norm) for step in records["halves"]] == whole


@pytest.mark.parametrize("schedule", ["1f1b", "zero_bubble"])
def test_buffers_of_messages_live_no_longer_than_the_messages(engine: Engine, schedule: Any) -> None:
    plan = pipelined_plan(Layout(gpus=2, pp=2, vp=2, pp_schedule=schedule), **FOUR_LAYERS)

    engine.run(plan, sabotage="looking_at_message_buffers")
    with pytest.raises(AssertionError, match="still alive"):
        engine.run(plan, sabotage="keeping_message_buffers")


def test_a_step_of_a_pipeline_has_its_wait_as_a_phase(engine: Engine) -> None:
    (*_, record) = engine.run(pipelined_plan(Layout(gpus=2, pp=2)))

    assert tuple(record.phases) == PRETRAIN_PHASES
    assert min(record.phases[phase] for phase in ("forward", "backward", "pipeline_wait")) > 0


def test_without_a_pipeline_a_rank_has_the_whole_model() -> None:
    (whole,) = build_chunks(tiny_plan(), group=None, dtype=torch.float32)

    assert list(whole.blocks) == ["0", "1"]
    assert whole.embedding is not None
    assert whole.head is not None
