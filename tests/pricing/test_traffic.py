"""Traffic against the formulas of its sources, worked out by hand on a model of round numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import MoE
from pytest_nemoperf.models.weights import num_parameters
from pytest_nemoperf.pricing.memory import shown_stages
from pytest_nemoperf.pricing.traffic import axis_traffic
from tests.builders import ROUND_MODEL as MODEL
from tests.builders import make_plan

MIXTURE = replace(MODEL, moe=MoE(num_experts=8, topk=2, ffn_hidden_size=32))
TOKENS = 32  # of a micro-batch of one sequence
WIDTH = 64
ELEMENT = 4  # fp32
MICRO_BATCHES = 8


def traffic_of(layout: Layout, *, model: ModelConfig = MODEL, **changes: Any) -> dict[str, int]:
    values = {"model": model, "layouts": {"cpu": layout}, "seq_len": TOKENS, **changes}
    plan = make_plan(global_batch_size=MICRO_BATCHES * layout.dp, **values)
    assert plan.grad_accum_steps == MICRO_BATCHES
    return {axis.axis: axis.bytes_per_step for axis in axis_traffic(plan, stages=shown_stages(layout))}


@pytest.mark.parametrize("sequence_parallel", [True, False])
def test_tensor_parallel_ranks_pass_the_residual_stream_eight_times_a_layer(sequence_parallel: bool) -> None:  # noqa: FBT001 (pytest passes it by name)
    moved = traffic_of(Layout(gpus=2, tp=2, sequence_parallel=sequence_parallel))

    assert moved == {"tp": MICRO_BATCHES * (8 * 4 + 2 + 2) * TOKENS * WIDTH * ELEMENT // 2}


@pytest.mark.parametrize(
    ("layout", "num_summed"),
    [
        pytest.param(Layout(gpus=4, tp=4), 4 * 32, id="keys and values of a head in four layers"),
        # Of a part's 16 + 2*16 rows the second shard has the last 24: half a key head, and the values.
        pytest.param(Layout(gpus=8, dp_shard=2, tp=4), 4 * 24, id="the shard with most of them"),
    ],
)
def test_copies_of_key_value_heads_sum_their_gradients_once_a_step(layout: Layout, num_summed: int) -> None:
    moved = traffic_of(layout)["tp"]

    stream = MICRO_BATCHES * (8 * 4 + 2 + 2) * TOKENS * WIDTH * ELEMENT * 3 // 4
    assert moved - stream == num_summed * WIDTH * 4  # twice (2-1)/2 of them, in fp32


def test_full_recomputation_repeats_the_forward_pass() -> None:
    moved = traffic_of(Layout(gpus=2, tp=2), recompute="full")

    assert moved == {"tp": MICRO_BATCHES * (12 * 4 + 2 + 2) * TOKENS * WIDTH * ELEMENT // 2}


@pytest.mark.parametrize(
    ("cp_comm", "width"),
    [
        pytest.param("all_gather", (2 - 1) * 2 * 2 * 16, id="keys and values to the other rank"),
        pytest.param("a2a", (64 + 64 + 2 * 2 * 16) / 2, id="half of queries, keys, values and output"),
    ],
)
def test_context_parallel_ranks_exchange_per_attention(cp_comm: str, width: float) -> None:
    moved = traffic_of(Layout(gpus=2, cp=2, cp_comm=cp_comm))  # type: ignore[arg-type]  # the table's words are known

    assert moved["cp"] == MICRO_BATCHES * 4 * 2 * (TOKENS / 2) * width * ELEMENT


@pytest.mark.parametrize(
    ("layout", "num_kv_heads", "width"),
    [
        pytest.param(Layout(gpus=8, cp=2, tp=4), 2, 2 * 16, id="a copy of a head each"),
        pytest.param(Layout(gpus=2, cp=2, cp_comm="a2a"), 1, (64 + 64 + 2 * 2 * 16) / 2, id="a head to both ranks"),
        pytest.param(Layout(gpus=4, cp=2, tp=2, cp_comm="a2a"), 2, (32 + 32 + 2 * 2 * 16) / 2, id="tp's heads as well"),
    ],
)
def test_context_parallel_ranks_exchange_copies_of_key_value_heads(
    layout: Layout, num_kv_heads: int, width: float
) -> None:
    moved = traffic_of(layout, model=replace(MODEL, num_kv_heads=num_kv_heads))

    assert moved["cp"] == MICRO_BATCHES * 4 * 2 * (TOKENS / 2) * width * ELEMENT


@pytest.mark.parametrize(
    ("cp_comm", "recompute", "width"),
    [
        pytest.param("all_gather", "selective", 3 * 64, id="keys and values once more"),
        pytest.param("all_gather", "full", 3 * 64, id="keys and values with the whole block"),
        pytest.param("a2a", "selective", (2 * 192 + 128) / 2, id="queries, keys and values once more"),
        pytest.param("a2a", "full", 3 * 192 / 2, id="everything once more"),
    ],
)
def test_recomputation_repeats_the_exchange_of_attention(cp_comm: Any, recompute: str, width: float) -> None:
    moved = traffic_of(Layout(gpus=2, cp=2, cp_comm=cp_comm), recompute=recompute)

    assert moved["cp"] == MICRO_BATCHES * 4 * (TOKENS / 2) * width * ELEMENT


def test_a_zero_bubble_schedule_recomputes_no_more_than_others() -> None:
    layout = Layout(gpus=4, pp=2, cp=2)
    halves = replace(layout, pp_schedule="zero_bubble")

    assert traffic_of(halves, recompute="selective") == traffic_of(layout, recompute="selective")


def test_pipeline_ranks_send_to_both_neighbours() -> None:
    message = TOKENS * WIDTH * ELEMENT

    assert traffic_of(Layout(gpus=4, pp=4)) == {"pp": MICRO_BATCHES * 2 * message}
    assert traffic_of(Layout(gpus=2, pp=2)) == {"pp": MICRO_BATCHES * message}
    assert traffic_of(Layout(gpus=2, pp=2, vp=2)) == {"pp": MICRO_BATCHES * 3 * message}


def test_replicas_reduce_their_gradients_once_a_step() -> None:
    assert traffic_of(Layout(gpus=4, dp_replicate=4)) == {"dp": 2 * 3 * num_parameters(MODEL) * 4 // 4}


@pytest.mark.parametrize(("precision", "element"), [("fp32", 4), ("bf16", 2)])
def test_ranks_that_share_out_the_optimizer_scatter_gradients_and_gather_weights(precision: str, element: int) -> None:
    layout = Layout(gpus=4, dp_replicate=4, shard_optimizer=True)

    moved = traffic_of(layout, framework="megatron", precision=precision)

    assert moved == {"dp": 3 * num_parameters(MODEL) * (4 + element) // 4}


@pytest.mark.parametrize(("precision", "element"), [("fp32", 4), ("bf16", 2)])
def test_shards_gather_weights_and_scatter_gradients_for_each_pass(precision: str, element: int) -> None:
    moved = traffic_of(Layout(gpus=4, dp_shard=4), precision=precision)

    root = 2 * 128 * WIDTH + WIDTH  # embedding, head and the last norm stay gathered from forward to backward
    gathered = (2 * num_parameters(MODEL) - root) * element
    assert moved == {"dp": 3 * MICRO_BATCHES * (gathered + num_parameters(MODEL) * 4) // 4}


def test_a_pipeline_gathers_its_weights_once_a_step() -> None:
    alone = traffic_of(Layout(gpus=4, dp_shard=4))["dp"]
    layout = Layout(gpus=8, dp_shard=4, pp=2)

    assert traffic_of(layout)["dp"] < alone / MICRO_BATCHES


@pytest.mark.parametrize(
    ("layout", "ranks", "etp"),
    [
        pytest.param(Layout(gpus=4, dp_shard=4, ep=4), 4, 1, id="ep4"),
        pytest.param(Layout(gpus=4, dp_shard=4, ep=2, etp=2), 4, 2, id="ep2etp2"),
    ],
)
def test_tokens_go_to_their_experts_and_back_forward_and_backward(layout: Layout, ranks: int, etp: int) -> None:
    moved = traffic_of(layout, model=MIXTURE)

    routed = TOKENS * 2 * etp * WIDTH * ELEMENT
    assert moved["ep"] == MICRO_BATCHES * 4 * 4 * routed * (ranks - 1) // ranks
    assert "expert_dp" not in moved


def test_full_recomputation_sends_tokens_to_their_experts_again() -> None:
    layout = Layout(gpus=4, dp_shard=4, ep=4)

    none = traffic_of(layout, model=MIXTURE, recompute="none")["ep"]

    assert traffic_of(layout, model=MIXTURE, recompute="selective")["ep"] == none
    assert traffic_of(layout, model=MIXTURE, recompute="full")["ep"] == none * 3 // 2


def test_an_axis_of_one_rank_moves_nothing() -> None:
    assert traffic_of(Layout(gpus=1)) == {}
