"""Tensor parallel ranks with copies of key-value heads: parity with one process, and equal copies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.weights import model_weights
from pytest_nemoperf.native.model.attention import Attention
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.native.parallel.mesh import RankMesh
from pytest_nemoperf.native.parallel.sharding import shard_weights
from pytest_nemoperf.pricing.kv_copies import kv_copies
from pytest_nemoperf.recipes.recipe import Plan
from tests.native.engine import MODEL, REL_TOL, STEPS, Engine, plan_of
from tests.native.families import PARTS
from tests.native.kv_probe import read_digests

ONE_HEAD = replace(MODEL, num_kv_heads=1)
# Shards of FSDP end among the queries, and there are norms and biases of heads.
GATED = replace(ONE_HEAD, attention_gate=True, qk_norm="rms", qkv_bias=True)
SINKS = replace(PARTS["moe-sinks-biases"], num_kv_heads=1)
AHEAD = replace(ONE_HEAD, mtp_num_layers=1)
TP4 = Layout(gpus=4, tp=4)
LAYOUTS = [
    pytest.param(MODEL, TP4, id="tp4"),
    pytest.param(GATED, Layout(gpus=4, dp_shard=2, tp=2), id="fsdp2tp2"),
    pytest.param(ONE_HEAD, Layout(gpus=4, tp=2, cp=2), id="tp2cp2"),
    pytest.param(AHEAD, Layout(gpus=4, tp=2, pp=2), id="tp2pp2"),
    pytest.param(ONE_HEAD, Layout(gpus=4, tp=2, cp=2, cp_comm="a2a"), id="tp2cp2a2a"),
]
MORE_LAYOUTS = [
    pytest.param(replace(MODEL, num_heads=8), Layout(gpus=8, tp=8), id="tp8"),
    pytest.param(GATED, TP4, id="tp4-one-head"),
    pytest.param(MODEL, Layout(gpus=4, tp=4, sequence_parallel=False), id="tp4nosp"),
    pytest.param(MODEL, Layout(gpus=4, cp=4, cp_comm="a2a"), id="cp4a2a"),
    pytest.param(GATED, Layout(gpus=6, dp_shard=3, tp=2), id="fsdp3tp2"),
    pytest.param(GATED, Layout(gpus=8, dp_replicate=2, tp=4), id="ddp2tp4"),
    pytest.param(GATED, Layout(gpus=8, dp_replicate=2, dp_shard=2, tp=2), id="hsdp2x2tp2"),
    pytest.param(GATED, Layout(gpus=8, dp_shard=2, cp=2, tp=2), id="fsdp2tp2cp2"),
    pytest.param(AHEAD, Layout(gpus=8, tp=2, pp=2, dp_shard=2, pp_schedule="zero_bubble"), id="fsdp2tp2pp2zb"),
    pytest.param(replace(MODEL, num_layers=4), Layout(gpus=8, tp=4, pp=2, vp=2), id="tp4pp2vp2"),
    pytest.param(MODEL, Layout(gpus=8, tp=4, cp=2), id="tp4cp2"),
    pytest.param(replace(MODEL, num_heads=8), Layout(gpus=8, tp=4, cp=2, cp_comm="a2a"), id="tp4cp2a2a"),
    pytest.param(SINKS, Layout(gpus=4, dp_shard=2, tp=2, ep=2), id="moe-fsdp2tp2ep2"),
    pytest.param(SINKS, Layout(gpus=4, tp=2, cp=2, etp=2, cp_comm="a2a"), id="moe-tp2cp2etp2a2a"),
]


def plan_with(model: ModelConfig, layout: Layout, **changes: Any) -> Plan:
    """Return a plan of two micro-batches a step, or as many as its schedule needs."""
    return plan_of(layout, model=model, global_batch_size=2 * layout.dp * layout.pp, **changes)


@pytest.mark.parametrize(("model", "layout"), LAYOUTS)
def test_ranks_with_copies_compute_what_one_process_computes(
    engine: Engine, model: ModelConfig, layout: Layout
) -> None:
    assert engine.difference(plan_with(model, layout)) <= REL_TOL


@pytest.mark.slow
@pytest.mark.parametrize(("model", "layout"), MORE_LAYOUTS)
def test_products_of_axes_with_copies_compute_it_as_well(engine: Engine, model: ModelConfig, layout: Layout) -> None:
    assert engine.difference(plan_with(model, layout)) <= REL_TOL


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"recompute": "full"}, {"recompute": "selective"}, {"is_compiled": True}], ids=str)
def test_what_is_computed_again_or_compiled_has_copies_as_well(engine: Engine, options: dict[str, Any]) -> None:
    assert engine.difference(plan_with(MODEL, TP4, **options)) <= REL_TOL


@pytest.mark.parametrize(
    "sabotage",
    [
        "without_sum_of_copied_gradients",
        pytest.param("with_copies_counted_each", marks=pytest.mark.slow),
        pytest.param("with_heads_of_others", marks=pytest.mark.slow),
    ],
)
def test_copies_gone_wrong_are_noticed(engine: Engine, sabotage: str) -> None:
    assert engine.difference(plan_with(MODEL, TP4), sabotage=sabotage) > REL_TOL


@pytest.mark.slow
def test_traded_heads_gone_wrong_are_noticed(engine: Engine) -> None:
    plan = plan_with(MODEL, Layout(gpus=4, cp=4, cp_comm="a2a"))

    assert engine.difference(plan, sabotage="with_copies_in_turn") > REL_TOL


def test_copies_stay_equal_to_the_bit(engine: Engine) -> None:
    plan = plan_with(replace(GATED, num_kv_heads=2), TP4)

    run_dir = engine.launch(plan, entrypoint="tests.native.kv_probe:main")

    first, copy_of_first, second, copy_of_second = read_digests(run_dir, num_ranks=4)
    assert (first, second) == (copy_of_first, copy_of_second)
    assert len({*first, *second}) == 2 * STEPS


def test_products_of_copies_are_what_plans_count() -> None:
    plan = plan_with(replace(MODEL, num_heads=8), Layout(gpus=8, tp=8))
    copies = kv_copies(plan)
    assert copies is not None

    whole = forward_flops(plan.model, tp=1)
    cut_and_copied = 8 * forward_flops(plan.model, tp=8)

    assert copies.num_copies == 4
    assert 3 * (cut_and_copied - whole) * plan.tokens_per_step == copies.flops_per_step


class Place:
    """A group as shares see it."""

    def __init__(self, size: int) -> None:
        self._size = size

    def size(self) -> int:
        return self._size

    def rank(self) -> int:
        return 0


def forward_flops(config: ModelConfig, *, tp: int) -> int:
    """Return the FLOPs of one token's queries, keys and values on the first rank, as torch counts them."""
    with torch.device("meta"):
        model = Decoder(config, seq_len=1, dtype=torch.float32)
    mesh = RankMesh(tp=Place(tp))  # type: ignore[arg-type]  # of a group, size and rank are all that is asked
    shard_weights(model, weights={weight.name: weight for weight in model_weights(config)}, mesh=mesh)
    with FlopCounterMode(display=False) as counted:
        for module in model.modules():
            if isinstance(module, Attention):
                module.qkv(torch.empty(1, config.hidden_size, device="meta"))
    return int(counted.get_total_flops())
