"""training.jsonl of NeMo Automodel: an object a step from rank 0, in the checkpoint directory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pytest_nemoperf.logs.context import LogContext
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.merge import LoggedStep
from pytest_nemoperf.logs.preset import Preset


def convert_steps(steps: Sequence[LoggedStep], context: LogContext) -> None:
    """Count the last token of each full sequence too: it is part of the work, and logged only if it has a label."""
    counted = context.tokens_per_step - context.tokens_per_step // context.seq_len
    for step in steps:
        rate = step.values.get("tokens_per_sec", 0.0)
        if context.has_exact_tokens and step.values.get("tokens") == counted > 0 and rate > 0:
            step.values["step_time_sec"] = counted / rate
            step.values["tokens"] = context.tokens_per_step


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
    convert_steps=convert_steps,
    file="checkpoints/training.jsonl",
    how=(
        "it is in checkpoint.checkpoint_dir, by default checkpoints: name it in log_file if it is elsewhere, e.g. "
        "--checkpoint.checkpoint_dir={run_dir} in command and log_file='{run_dir}/training.jsonl'"
    ),
)
