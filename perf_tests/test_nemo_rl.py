"""Steps of GRPO in NeMo RL: the two rows of its performance page's draft, with both training backends.

Recomputation, which the page does not print, is that of NeMo RL's recipe and of its base file. The draft's figures are
notes of the cases and nothing is judged by them: its two rates imply different prompts of one dataset.
"""

from dataclasses import replace

import pytest

from pytest_nemoperf import RL, Layout, Recipe, find_algorithm

GPUS = 16
PROMPTS = 64
GENERATIONS = 32
GENERATED_TOKENS = 1056

# As examples/configs/grpo_math_1B.yaml has it.
GRPO = replace(find_algorithm("grpo"), kl_coef=0.01, loss_mean="token", is_leave_one_out=True)


def draft_note(*, rate, step_time_sec):
    """Return the draft's figures of a row, and the prompt that follows from them."""
    samples = PROMPTS * GENERATIONS
    tokens = rate * GPUS * step_time_sec / samples
    return (
        f"DRAFT figures of NeMo RL v0.4's page, never judged: {rate} tokens/s/GPU, {step_time_sec} s a step; "
        f"{rate}*{GPUS}*{step_time_sec}/{samples} = {tokens:.0f} tokens a sample, less {GENERATED_TOKENS} generated = "
        f"{tokens - GENERATED_TOKENS:.0f} of its prompt"
    )


@pytest.mark.perf
@pytest.mark.parametrize(
    ("backend", "layout", "recompute", "note"),
    [
        pytest.param(
            "megatron",
            Layout(gpus=GPUS, pp=2, dp_replicate=8, shard_optimizer=True),
            "full",
            draft_note(rate=1496, step_time_sec=99),
            id="megatron",
        ),
        pytest.param(
            "dtensor", Layout(gpus=GPUS, dp_shard=16), "none", draft_note(rate=1482, step_time_sec=114.9), id="dtensor"
        ),
    ],
)
def test_llama3_1_8b_on_policy(perf, backend, layout, recompute, note):
    perf.check(
        Recipe(
            model="llama3.1-8b",
            layouts={"h100": layout},
            seq_len=4096,
            global_batch_size=512,
            framework="nemo_rl",
            framework_options={"backend": backend},
            recompute=recompute,
            steps=5,
            warmup_steps=2,
            rl=RL(
                num_prompts_per_step=PROMPTS,
                num_generations_per_prompt=GENERATIONS,
                prompt_len=4096,
                max_response_len=4096,
                response_lengths="sampled",
                algorithm=GRPO,
                generator="vllm",
                is_packed=True,
                learning_rate=3e-7,
                dataset="OpenMathInstruct-2",
            ),
            notes=[note],
        )
    )
