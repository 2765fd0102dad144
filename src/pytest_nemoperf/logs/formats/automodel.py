"""training.jsonl of NeMo Automodel: an object a step from rank 0, in the checkpoint directory."""

from __future__ import annotations

from typing import Final

from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.preset import Preset

PRESET: Final = Preset(
    log_format=LogFormat(
        kind=LogKind.JSONL,
        fields={
            "step": "step",
            "tokens": "num_tokens_per_step",
            "tokens_per_sec": "tps",
            "end_time_sec": "timestamp",
            "loss": "loss",
            "grad_norm": "grad_norm",
            "peak_memory_gib": "mem",
        },
    ),
    file="checkpoints/training.jsonl",
    how=(
        "it is in checkpoint.checkpoint_dir, by default checkpoints: name it in log_file if it is elsewhere, e.g. "
        "--checkpoint.checkpoint_dir={run_dir} in command and log_file='{run_dir}/training.jsonl'"
    ),
)
