"""Supervised fine-tuning with TRL: python trl_sft.py --model_name_or_path FOLDER ..."""

import random

from datasets import Dataset
from trl import ModelConfig, SFTConfig, SFTTrainer, TrlParser

NUM_TEXTS = 256
MAX_LEN = 128


def texts(seed: int) -> Dataset:
    source = random.Random(seed)
    rows = []
    for _ in range(NUM_TEXTS):
        rows.append(" ".join(f"w{source.randrange(500)}" for _ in range(source.randint(MAX_LEN // 2, MAX_LEN - 1))))
    return Dataset.from_dict({"text": rows})


def main(arguments: SFTConfig, model: ModelConfig) -> None:
    trainer = SFTTrainer(model=model.model_name_or_path, args=arguments, train_dataset=texts(arguments.seed))
    trainer.train()


if __name__ == "__main__":
    main(*TrlParser((SFTConfig, ModelConfig)).parse_args_and_config())
