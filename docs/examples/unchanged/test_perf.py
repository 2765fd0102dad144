"""Scripts that know nothing of this plugin: python ../tiny_model.py tiny && pytest -m perf --system=cpu."""

import pytest

from pytest_nemoperf import RL, Layout, Recipe

TINY = {"model": "tiny/config.json", "model_name": "tiny", "layouts": {"cpu": Layout(gpus=1)}, "precision": "fp32"}
GRPO = RL(
    num_prompts_per_step=8,
    num_generations_per_prompt=4,
    prompt_len=16,
    max_response_len=64,
    response_lengths="sampled",
)
# Flags that transformers' own parser adds to each of these scripts.
TRAINER = ("--output_dir={run_dir}/output", "--max_steps={total_steps}", "--logging_steps=1", "--use_cpu")
TRL = (*TRAINER, "--model_name_or_path=tiny", "--bf16=false", "--gradient_checkpointing=false")
TRL_GRPO = ("python", "trl_grpo.py", *TRL, "--per_device_train_batch_size=32", "--num_generations=4")
TRL_GRPO = (*TRL_GRPO, "--max_completion_length=64")


@pytest.mark.perf
def test_trainer(perf):
    recipe = Recipe(
        **TINY,
        seq_len=128,
        global_batch_size=8,
        framework="command",
        command=("python", "hf_trainer.py", *TRAINER, "--model=tiny", "--report_to=tensorboard"),
        log_format="trainer",
    )
    perf.check(recipe)


@pytest.mark.perf
def test_sft(perf):
    recipe = Recipe(
        **TINY,
        variant="sft",
        seq_len=128,
        global_batch_size=8,
        has_varying_lengths=True,
        framework="command",
        command=("python", "trl_sft.py", *TRL, "--report_to=tensorboard"),
        log_format="trl",
    )
    perf.check(recipe)


@pytest.mark.perf
def test_grpo(perf):
    recipe = Recipe(
        **TINY,
        seq_len=80,
        global_batch_size=32,
        micro_batch_size=32,
        rl=GRPO,
        framework="command",
        command=(*TRL_GRPO, "--report_to=tensorboard"),
        log_format="trl",
    )
    perf.check(recipe)


@pytest.mark.perf
def test_grpo_by_its_console(perf):
    recipe = Recipe(
        **TINY,
        variant="console",
        seq_len=80,
        global_batch_size=32,
        micro_batch_size=32,
        rl=GRPO,
        framework="command",
        command=TRL_GRPO,
        log_format="trl_console",
    )
    perf.check(recipe)


@pytest.mark.perf
def test_lightning(perf):
    recipe = Recipe(
        **TINY,
        variant="lightning",
        seq_len=128,
        global_batch_size=8,
        framework="command",
        command=(
            "python",
            "lightning_fit.py",
            "--model=tiny",
            "--max-steps={total_steps}",
            "--output-dir={run_dir}/tb",
        ),
        log_format="lightning",
        log_file="{run_dir}/tb",
    )
    perf.check(recipe)


@pytest.mark.perf
def test_lightning_by_csv(perf):
    recipe = Recipe(
        **TINY,
        variant="lightning-csv",
        seq_len=128,
        global_batch_size=8,
        framework="command",
        command=(
            "python",
            "lightning_fit.py",
            "--csv",
            "--model=tiny",
            "--max-steps={total_steps}",
            "--output-dir={run_dir}/csv",
        ),
        log_format="lightning_csv",
        log_file="{run_dir}/csv/metrics.csv",
    )
    perf.check(recipe)
