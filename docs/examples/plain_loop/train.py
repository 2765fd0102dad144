"""Pre-training in a plain loop: python train.py --model FOLDER."""

import argparse

import torch
from torch.utils.data import DataLoader, TensorDataset
from transformers import AutoModelForCausalLM

from pytest_nemoperf.integrations import StepWriter


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--num-epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=128)
    given = parser.parse_args()
    tokens = torch.randint(500, (4096, given.seq_len), generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(tokens), batch_size=given.batch_size, shuffle=True)
    model = AutoModelForCausalLM.from_pretrained(given.model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    steps = StepWriter()
    for _ in range(given.num_epochs):
        for (batch,) in steps.over(loader):
            loss = model(input_ids=batch, labels=batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            steps.record(loss=loss)


if __name__ == "__main__":
    main()
