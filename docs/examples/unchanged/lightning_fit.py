"""Pre-training with Lightning: python lightning_fit.py --model FOLDER --output-dir FOLDER --max-steps N"""

import argparse

import lightning
import torch
from lightning.pytorch.callbacks import ThroughputMonitor
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset
from transformers import AutoModelForCausalLM


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
    parser.add_argument("--csv", action="store_true", help="log to metrics.csv, with a ThroughputMonitor")
    given = parser.parse_args()
    tokens = torch.randint(500, (4096, given.seq_len), generator=torch.Generator().manual_seed(0))
    monitor = ThroughputMonitor(batch_size_fn=lambda batch: len(batch[0]))
    logger_class = CSVLogger if given.csv else TensorBoardLogger
    trainer = lightning.Trainer(
        max_steps=given.max_steps,
        log_every_n_steps=1,
        logger=logger_class(given.output_dir, name="", version=""),
        callbacks=[monitor] if given.csv else [],
        enable_checkpointing=False,
        accelerator="auto",
    )
    trainer.fit(LanguageModel(given.model), DataLoader(TensorDataset(tokens), batch_size=given.batch_size))


if __name__ == "__main__":
    main()
