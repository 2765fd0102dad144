"""Perf test of nanoGPT's train.py as it is: put this file beside it, and run pytest -m perf there."""

import pytest

from pytest_nemoperf import Layout, LogFormat, ModelConfig, Recipe

SMALL_GPT = ModelConfig(
    name="nanogpt-small",
    hidden_size=128,
    num_layers=4,
    num_heads=4,
    num_kv_heads=4,
    head_dim=32,
    ffn_hidden_size=512,
    vocab_size=65,
    activation="gelu",
    norm="layernorm",
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    max_positions=128,
    tied_embeddings=True,
)


@pytest.mark.perf
def test_nanogpt(perf):
    perf.check(
        Recipe(
            model=SMALL_GPT,
            layouts={"cpu": Layout(gpus=1)},
            seq_len=128,
            global_batch_size=12,
            micro_batch_size=12,
            precision="fp32",
            framework="command",
            command=(
                "python",
                "train.py",
                "--device=cpu",
                "--dtype=float32",
                "--compile=False",
                "--dataset=characters",
                "--n_layer=4",
                "--n_head=4",
                "--n_embd=128",
                "--bias=True",
                "--block_size=128",
                "--batch_size=12",
                "--gradient_accumulation_steps=1",
                "--eval_iters=1",
                "--max_iters=12",  # it counts from 0, and this one is trained too
            ),
            log_format=LogFormat(
                kind="text",
                patterns=(r"iter (?P<step>\d+): loss (?P<loss>\S+), time (?P<step_time_ms>\S+)ms",),
            ),
        )
    )
