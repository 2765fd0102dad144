"""Steps of reinforcement learning: GRPO on-policy and one step off, DAPO and PPO."""

from dataclasses import replace

import pytest

from pytest_nemoperf import RL, GenerationLayout, Layout, Recipe, find_algorithm

# A policy that knows nothing yet answers nearly all prompts wrong: two rounds show what dynamic sampling costs.
DAPO = replace(find_algorithm("dapo"), max_rounds=2)
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
