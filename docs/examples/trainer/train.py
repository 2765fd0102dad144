"""Pre-training with Hugging Face's Trainer: python train.py --model FOLDER --output_dir FOLDER ..."""

from dataclasses import dataclass

import torch
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, HfArgumentParser, Trainer, TrainingArguments

from pytest_nemoperf.integrations import TrainerSteps


@dataclass
class Workload:
    model: str
    seq_len: int = 128


class Sequences(Dataset):
    """Random tokens, the same for each index in every run."""

    def __init__(self, *, seq_len: int, vocab_size: int, num_sequences: int = 4096) -> None:
        self.tokens = torch.randint(vocab_size, (num_sequences, seq_len), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


def main(arguments: TrainingArguments, workload: Workload) -> None:
    model = AutoModelForCausalLM.from_pretrained(workload.model)
    sequences = Sequences(seq_len=workload.seq_len, vocab_size=model.config.vocab_size)
    trainer = Trainer(model=model, args=arguments, train_dataset=sequences)
    trainer.add_callback(TrainerSteps())
    trainer.train()


if __name__ == "__main__":
    main(*HfArgumentParser((TrainingArguments, Workload)).parse_args_into_dataclasses())
