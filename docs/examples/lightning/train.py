"""Pre-training with Lightning: python train.py --model FOLDER --output-dir FOLDER --max-steps N"""

import argparse

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset
from transformers import AutoModelForCausalLM

from pytest_nemoperf.integrations import LightningSteps


class LanguageModel(lightning.LightningModule):
    def __init__(self, folder: str) -> None:
        super().__init__()
        self.model = AutoModelForCausalLM.from_pretrained(folder).train()

    def training_step(self, batch: list[torch.Tensor], batch_index: int) -> torch.Tensor:
        loss: torch.Tensor = self.model(input_ids=batch[0], labels=batch[0]).loss
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--max-steps", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=128)
    given = parser.parse_args()
    tokens = torch.randint(500, (4096, given.seq_len), generator=torch.Generator().manual_seed(0))
    trainer = lightning.Trainer(
        max_steps=given.max_steps,
        default_root_dir=given.output_dir,
        logger=False,
        enable_checkpointing=False,
        accelerator="auto",
        callbacks=[LightningSteps()],
    )
    trainer.fit(LanguageModel(given.model), DataLoader(TensorDataset(tokens), batch_size=given.batch_size))


if __name__ == "__main__":
    main()
