"""Perf test of train.py: python ../tiny_model.py tiny && pytest -m perf --system=cpu."""

import pytest

from pytest_nemoperf import RL, Layout, Recipe


@pytest.mark.perf
def test_grpo(perf):
    perf.check(
        Recipe(
            model="tiny/config.json",
            model_name="tiny",
            layouts={"cpu": Layout(gpus=1)},
            seq_len=80,
            global_batch_size=32,
            micro_batch_size=32,
            precision="fp32",
            rl=RL(
                algorithm="grpo",
                num_prompts_per_step=8,
                num_generations_per_prompt=4,
                prompt_len=16,
                max_response_len=64,
                response_lengths="sampled",
            ),
            framework="command",
            command=(
                "python",
                "train.py",
                "--model_name_or_path=tiny",
                "--output_dir=output",
                "--per_device_train_batch_size=32",
                "--num_generations=4",
                "--max_completion_length=64",
                "--max_steps=1000",
                "--use_cpu",
                "--bf16=false",
                "--report_to=none",
            ),
        )
    )
