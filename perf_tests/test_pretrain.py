"""Pre-training steps under the layouts people train with: small ones on a CPU, and a nightly suite on GPUs.

The cases on one GPU fit into 80 GB and take about ten minutes together, each with one launch. Larger models are cut in
layers, which keeps the shapes of their kernels. docs/plans.md has the memory and time of each case.
"""

from dataclasses import replace

import pytest

from pytest_nemoperf import Layout, Recipe, find_model

HOPPER_AND_LATER = ("h100", "h200", "b200", "b300", "gb200", "gb300")
ONE_GPU = Layout(gpus=1)

CPU_LAYOUTS = [
    pytest.param(Layout(gpus=1), id="single"),
    pytest.param(Layout(gpus=2, dp_shard=2), id="fsdp2"),
    pytest.param(Layout(gpus=2, tp=2), id="tp2"),
    pytest.param(Layout(gpus=2, pp=2), id="pp2"),
    pytest.param(Layout(gpus=4, dp_shard=2, tp=2), id="fsdp2tp2"),
]


def check_on_one_gpu(perf, *, systems=HOPPER_AND_LATER, **recipe):
    """Judge a case of the nightly suite: few steps, for starting takes longer than they do."""
    values = {"seq_len": 4096, "micro_batch_size": 1, "steps": 10, "warmup_steps": 3}
    perf.check(Recipe(layouts=dict.fromkeys(systems, ONE_GPU), **(values | recipe)))


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
    perf.check(
        Recipe(
            model="llama3.2-1b",
            layouts=dict.fromkeys(("a100", *HOPPER_AND_LATER), ONE_GPU),
            seq_len=4096,
            global_batch_size=8,
            micro_batch_size=2,
            steps=20,
            warmup_steps=5,
        )
    )


@pytest.mark.perf
def test_llama3_2_1b_compiled_on_one_gpu(perf):
    systems = ("a100", *HOPPER_AND_LATER)
    check_on_one_gpu(
        perf, systems=systems, model="llama3.2-1b", global_batch_size=8, micro_batch_size=2, is_compiled=True
    )


@pytest.mark.perf
@pytest.mark.parametrize("is_compiled", [pytest.param(False, id="eager"), pytest.param(True, id="compiled")])
def test_llama3_2_3b_on_one_gpu(perf, is_compiled):
    systems = ("a100", *HOPPER_AND_LATER)
    check_on_one_gpu(perf, systems=systems, model="llama3.2-3b", global_batch_size=4, is_compiled=is_compiled)


@pytest.mark.perf
def test_llama3_2_1b_in_fp8_on_one_gpu(perf):
    check_on_one_gpu(perf, model="llama3.2-1b", global_batch_size=8, micro_batch_size=2, precision="fp8_cs")


@pytest.mark.perf
def test_llama3_2_1b_at_32k_on_one_gpu(perf):
    check_on_one_gpu(perf, model="llama3.2-1b", seq_len=32768, global_batch_size=2, recompute="full", steps=6)


@pytest.mark.perf
def test_gemma3_1b_on_one_gpu(perf):
    check_on_one_gpu(perf, model="gemma3-1b", global_batch_size=4)


@pytest.mark.perf
def test_qwen3_30b_a3b_4_layers_on_one_gpu(perf):
    check_on_one_gpu(
        perf,
        model="qwen3-30b-a3b",
        num_layers=4,
        global_batch_size=8,
        micro_batch_size=2,
        is_router_balanced=True,
    )


@pytest.mark.perf
def test_gpt_oss_20b_2_layers_on_one_gpu(perf):
    check_on_one_gpu(perf, model="gpt-oss-20b", num_layers=2, global_batch_size=4, is_router_balanced=True)


@pytest.mark.perf
def test_moonlight_mtp_3_layers_on_one_gpu(perf):
    """DeepSeek-V3's architecture with 64 experts of 1408 instead of 256 of 2048, of which not even one layer fits."""
    moonlight = replace(find_model("moonlight-16b-a3b"), name="moonlight-16b-a3b-mtp", mtp_num_layers=1)
    check_on_one_gpu(perf, model=moonlight, num_layers=3, global_batch_size=4, is_router_balanced=True)


@pytest.mark.perf
def test_nemotron_h_4b_12_layers_on_one_gpu(perf):
    check_on_one_gpu(perf, model="nemotron-h-4b", num_layers=12, global_batch_size=4, framework="megatron_bridge")


@pytest.mark.perf
@pytest.mark.parametrize("tp", [1, 2])
def test_llama3_8b_on_eight_gpus(perf, tp):
    eight_gpus = Layout(gpus=8, dp_shard=8 // tp, tp=tp)
    perf.check(
        Recipe(
            model="llama3-8b",
            layouts=dict.fromkeys(HOPPER_AND_LATER, eight_gpus),
            seq_len=8192,
            global_batch_size=128,
            recompute="full",
            steps=10,
        )
    )


@pytest.mark.perf
def test_llama3_2_1b_at_128k_on_eight_gpus(perf):
    eight_gpus = Layout(gpus=8, cp=8, cp_comm="a2a")
    perf.check(
        Recipe(
            model="llama3.2-1b",
            layouts=dict.fromkeys(HOPPER_AND_LATER, eight_gpus),
            seq_len=131072,
            global_batch_size=2,
            recompute="full",
            steps=6,
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
