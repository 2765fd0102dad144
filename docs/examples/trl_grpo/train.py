"""GRPO with TRL: python train.py --model_name_or_path FOLDER --output_dir FOLDER --max_steps N ..."""

import random

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, ModelConfig, TrlParser

from pytest_nemoperf.integrations import TrainerSteps

NUM_PROMPTS = 256
PROMPT_LEN = 16


def prompts(seed: int) -> Dataset:
    source = random.Random(seed)
    rows = [" ".join(f"w{source.randrange(500)}" for _ in range(PROMPT_LEN)) for _ in range(NUM_PROMPTS)]
    return Dataset.from_dict({"prompt": rows})


def reward(completions: list[str], **kwargs: object) -> list[float]:
    return [float(len(set(completion.split()))) for completion in completions]


def main(arguments: GRPOConfig, model: ModelConfig) -> None:
    trainer = GRPOTrainer(
        model=model.model_name_or_path,
        args=arguments,
        reward_funcs=reward,
        train_dataset=prompts(arguments.seed),
    )
    trainer.add_callback(TrainerSteps())
    trainer.train()


if __name__ == "__main__":
    main(*TrlParser((GRPOConfig, ModelConfig)).parse_args_and_config())
