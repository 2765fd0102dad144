"""Pre-training steps of dense models and mixtures of experts under the layouts people train with."""

import pytest

from pytest_nemoperf import Layout, Recipe

CPU_LAYOUTS = [
    pytest.param(Layout(gpus=1), id="single"),
    pytest.param(Layout(gpus=2, dp_shard=2), id="fsdp2"),
    pytest.param(Layout(gpus=2, tp=2), id="tp2"),
    pytest.param(Layout(gpus=2, pp=2), id="pp2"),
    pytest.param(Layout(gpus=4, dp_shard=2, tp=2), id="fsdp2tp2"),
]


@pytest.mark.perf
@pytest.mark.parametrize("layout", CPU_LAYOUTS)
def test_llama_tiny(perf, layout):
    perf.check(
        Recipe(
            model="llama-tiny",
            layouts={"cpu": layout},
            seq_len=128,
            global_batch_size=8,
            micro_batch_size=4,
            precision="fp32",
            steps=20,
            warmup_steps=5,
        )
    )


@pytest.mark.perf
def test_qwen3_mixture_in_small(perf):
    perf.check(
        Recipe(
            model="qwen3-30b-a3b-twin",
            layouts={"cpu": Layout(gpus=2, dp_shard=2, ep=2)},
            seq_len=128,
            global_batch_size=16,
            micro_batch_size=8,
            precision="fp32",
            is_router_balanced=True,
            steps=20,
            warmup_steps=5,
        )
    )


@pytest.mark.perf
def test_llama3_2_1b_on_one_gpu(perf):
    one_gpu = Layout(gpus=1)
    perf.check(
        Recipe(
            model="llama3.2-1b",
            layouts=dict.fromkeys(("a100", "h100", "h200", "b200", "b300", "gb200", "gb300"), one_gpu),
            seq_len=4096,
            global_batch_size=8,
            micro_batch_size=2,
            steps=20,
            warmup_steps=5,
        )
    )


@pytest.mark.perf
@pytest.mark.parametrize("tp", [1, 2])
def test_llama3_8b_on_eight_gpus(perf, tp):
    eight_gpus = Layout(gpus=8, dp_shard=8 // tp, tp=tp)
    perf.check(
        Recipe(
            model="llama3-8b",
            layouts=dict.fromkeys(("h100", "h200", "b200", "b300", "gb200", "gb300"), eight_gpus),
            seq_len=8192,
            global_batch_size=128,
            recompute="full",
            steps=10,
        )
    )


@pytest.mark.perf
def test_qwen3_30b_a3b_on_eight_gpus(perf):
    eight_gpus = Layout(gpus=8, dp_shard=8, ep=8)
    perf.check(
        Recipe(
            model="qwen3-30b-a3b",
            layouts=dict.fromkeys(("h200", "b200", "b300", "gb200", "gb300"), eight_gpus),
            seq_len=4096,
            global_batch_size=256,
            recompute="full",
            is_router_balanced=True,
            steps=10,
        )
    )
