"""Perf test of train.py: python ../tiny_model.py tiny && pytest -m perf --system=cpu."""

import pytest

from pytest_nemoperf import Layout, Recipe


@pytest.mark.perf
def test_trainer(perf):
    perf.check(
        Recipe(
            model="tiny/config.json",
            model_name="tiny",
            layouts={"cpu": Layout(gpus=1)},
            seq_len=128,
            global_batch_size=8,
            micro_batch_size=8,
            precision="fp32",
            framework="command",
            command=(
                "python",
                "train.py",
                "--model=tiny",
                "--output_dir=output",
                "--per_device_train_batch_size=8",
                "--num_train_epochs=1",
                "--use_cpu",
                "--report_to=none",
            ),
        )
    )
