"""Steps of reinforcement learning: GRPO on-policy and one step off, DAPO and PPO on a CPU; GRPO on GPUs."""

from dataclasses import replace

import pytest

from pytest_nemoperf import RL, GenerationLayout, Layout, Recipe, find_algorithm

# A policy that knows nothing yet answers nearly all prompts wrong: two rounds show what dynamic sampling costs.
DAPO = replace(find_algorithm("dapo"), max_rounds=2)
HOPPER_AND_LATER = ("h100", "h200", "b200", "b300", "gb200", "gb300")
OFF_POLICY = replace(find_algorithm("grpo"), importance_cap=2.0)

TOGETHER = Layout(gpus=2, dp_shard=2)
APART = Layout(gpus=1, generation=GenerationLayout(gpus=1, is_colocated=False))


def check_llama_tiny(perf, *, layout, **rl):
    sizes = {"num_prompts_per_step": 8, "num_generations_per_prompt": 4, "prompt_len": 32, "max_response_len": 32}
    perf.check(
        Recipe(
            model="llama-tiny",
            layouts={"cpu": layout},
            seq_len=64,
            global_batch_size=16,
            micro_batch_size=8,
            precision="fp32",
            steps=8,
            rl=RL(**(sizes | rl)),
        )
    )


@pytest.mark.perf
@pytest.mark.parametrize("algorithm", ["grpo", pytest.param(DAPO, id="dapo"), "ppo"])
def test_llama_tiny_on_policy(perf, algorithm):
    check_llama_tiny(perf, layout=TOGETHER, algorithm=algorithm)


@pytest.mark.perf
def test_llama_tiny_one_step_off(perf):
    check_llama_tiny(perf, layout=APART, algorithm=OFF_POLICY, max_staleness=1)


@pytest.mark.perf
@pytest.mark.parametrize("generator", ["native", "vllm"])
def test_grpo_llama3_2_1b_on_one_gpu(perf, generator):
    perf.check(
        Recipe(
            model="llama3.2-1b",
            layouts=dict.fromkeys(HOPPER_AND_LATER, Layout(gpus=1)),
            seq_len=512,
            global_batch_size=32,
            micro_batch_size=8,
            steps=4,
            warmup_steps=2,
            rl=RL(
                num_prompts_per_step=8,
                num_generations_per_prompt=8,
                prompt_len=128,
                max_response_len=384,
                generator=generator,
            ),
        )
    )


PAGE_LAYOUTS = [
    pytest.param(Layout(gpus=16, pp=2, dp_shard=8), id="pp2"),  # the row of Megatron
    pytest.param(Layout(gpus=16, dp_shard=16), id="fsdp16"),  # the row of PyTorch
]
"""Layouts of LLAMA3.1_8B on DGX-H100 on NeMo RL's performance page for v0.4."""


@pytest.mark.perf
@pytest.mark.parametrize("layout", PAGE_LAYOUTS)
def test_grpo_llama3_1_8b_on_sixteen_gpus(perf, layout):
    """Workload of the page: G-GBS 2048, T-GBS 512, 1056 generated tokens on average, 4096 at most."""
    perf.check(
        Recipe(
            model="llama3.1-8b",
            layouts=dict.fromkeys(HOPPER_AND_LATER, layout),
            seq_len=4096,
            global_batch_size=512,
            steps=4,
            warmup_steps=2,
            recompute="full",
            rl=RL(
                num_prompts_per_step=64,
                num_generations_per_prompt=32,
                prompt_len=128,
                max_response_len=1056,
                is_packed=True,
            ),
        )
    )
