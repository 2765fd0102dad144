"""Logs as jobs leave them: the console of Megatron-LM, and step records."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

GLOBAL_BATCH_SIZE = 128
RECIPE: Mapping[str, Any] = {
    "model": "llama3-8b",
    "layouts": {"h100": {"gpus": 8, "dp_shard": 4, "tp": 2}},
    "seq_len": 8192,
    "global_batch_size": GLOBAL_BATCH_SIZE,
    "framework": "megatron",
    "log_format": "megatron",
}
CASE = "pretrain-llama3-8b-1n8g-megatron-bf16-fsdp4tp2-seq8192-gbs128-mbs1"
STEP_MS = 15_000.0


def write_recipe(path: Path, **changes: Any) -> Path:
    """Write a recipe as JSON; a key of None is left out."""
    values = {key: value for key, value in {**RECIPE, **changes}.items() if value is not None}
    path.write_text(json.dumps(values))
    return path


def write_megatron_log(
    path: Path,
    *,
    step_ms: float = STEP_MS,
    num_steps: int = 20,
    first_step: int = 1,
    interval: int = 1,
    day: int = 16,
    batch: int = GLOBAL_BATCH_SIZE,
    first_loss: float = 11.0,
) -> Path:
    """Write the console of a job that began at 8 o'clock on a day of November 2026; steps differ by about 0.3%."""
    random_of_job = random.Random(path.name)  # noqa: S311 (times of steps)
    now = datetime(2026, 11, day, 8)
    lines = ["[before the start of training step]"]
    times = []
    for step in range(first_step, first_step + num_steps):
        times.append(step_ms * (1.0 + 0.003 * random_of_job.gauss(0.0, 1.0)))
        now += timedelta(milliseconds=times[-1])
        if step % interval:
            continue
        fields = [
            f" [{now:%Y-%m-%d %H:%M:%S.%f}] iteration {step:8d}/{1000:8d}",
            f"consumed samples: {step * batch:12d}",
            f"elapsed time per iteration (ms): {sum(times) / len(times):.1f}",
            "learning rate: 3.000000E-04",
            f"global batch size: {batch:5d}",
            f"lm loss: {first_loss - 0.01 * step:.6E}",
            "loss scale: 1.0",
            "grad norm: 1.250",
            "number of skipped iterations:   0",
            "number of nan iterations:   0 |",
        ]
        lines.append(" | ".join(fields))
        times = []
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, ""]))
    return path


def write_step_records(path: Path, *, tokens: int, step_time_sec: float = 0.1, num_steps: int = 20) -> Path:
    """Write step records as a training loop does; steps differ by about 0.3%."""
    random_of_job = random.Random(path.name)  # noqa: S311 (times of steps)
    lines = []
    for step in range(num_steps):
        seconds = step_time_sec * (1.0 + 0.003 * random_of_job.gauss(0.0, 1.0))
        lines.append(json.dumps({"step": step, "step_time_sec": seconds, "tokens": tokens, "loss": 6.5}))
    path.write_text("\n".join([*lines, ""]))
    return path
