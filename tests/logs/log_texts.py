"""Lines as the frameworks' own code writes them; tests/trainers runs that code."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pytest_nemoperf.logs.context import LogContext
from pytest_nemoperf.logs.convert import LogReading
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.reading import read_log

START = datetime(2026, 1, 31, 23, 59, 50, tzinfo=UTC)
SEQ_LEN = 128
BATCH = 16
TOKENS = SEQ_LEN * BATCH
GPUS = 2
BY_HAND = LogFormat(
    kind=LogKind.TEXT, patterns=(r"step (?P<step>\S+): loss (?P<loss>\S+), took (?P<step_time_sec>\S+) s$",)
)


def context(**changes: Any) -> LogContext:
    values: dict[str, Any] = {
        "num_gpus": GPUS,
        "tokens_per_step": TOKENS,
        "seq_len": SEQ_LEN,
        "has_exact_tokens": True,
        "warmup_steps": 2,
    }
    return LogContext(**{**values, **changes})


def read(text: str | bytes, *, tmp_path: Path, log_format: str | LogFormat = BY_HAND, **changes: Any) -> LogReading:
    """Return the reading of a file with that content."""
    path = tmp_path / "run.log"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_log([path], log_format=log_format, context=context(**changes))


def by_hand(steps: Iterable[int], *, seconds: float = 0.5) -> str:
    return "".join(f"step {step}: loss {9 - step / 8:.4f}, took {seconds} s\n" for step in steps)


def clock(step: int, *, seconds: float) -> datetime:
    return START + timedelta(seconds=step * seconds)


def megatron_line(step: int, *, seconds: float = 1.25, fields: Mapping[str, str | None] | None = None) -> str:
    """Return Megatron-LM's line of an iteration; ``fields`` replaces some by their labels, or leaves them out."""
    values: dict[str, str | None] = {
        "consumed samples": f"{step * BATCH:12d}",
        "elapsed time per iteration (ms)": f"{seconds * 1000:.1f}",
        "throughput per GPU (TFLOP/s/GPU)": "101.3",
        "learning rate": "1.000000E-04",
        "global batch size": f"{BATCH:5d}",
        "lm loss": f"{9 - step / 8:.6E}",
        "loss scale": "1.0",
        "grad norm": "1.500",
        "number of skipped iterations": "  0",
        "number of nan iterations": "  0",
        **(fields or {}),
    }
    text = f" [{clock(step, seconds=seconds):%Y-%m-%d %H:%M:%S.%f}] iteration {step:8d}/{100:8d} |"
    for label, value in values.items():
        if value is not None:
            text += f" {label}: {value} |"
    return text + "\n"


def megatron_memory(step: int, *, rank: int = 0, peak: float = 5120.0) -> str:
    return (
        f"[Rank {rank}] (after {step} iterations) memory (MB) | allocated: 3072.00 | max allocated: {peak:.2f} | "
        "reserved: 6144.00 | max reserved: 7168.00\n"
    )


def bridge_memory(step: int) -> str:
    return (
        f"[Rank 0] (after {step} iterations) memory (GB) | mem-allocated-gigabytes: 3.2212 | "
        "mem-max-allocated-gigabytes: 5.3687 | mem-alloc-retires: 0\n"
    )


def titan_line(step: int, *, tps: float = 1024, tflops: float = 0.02, is_coloured: bool = True) -> str:
    seconds = TOKENS / tps / GPUS
    colours = (
        "\x1b[31m",
        "\x1b[32m",
        "\x1b[38;2;180;60;0m",
        "\x1b[38;2;54;234;195m",
        "\x1b[34m",
        "\x1b[36m",
        "\x1b[35m",
    )
    red, green, orange, turquoise, blue, cyan, magenta = colours if is_coloured else ("",) * 7
    reset = "\x1b[39m" if is_coloured else ""
    moment = clock(step, seconds=seconds)
    return (
        f"[titan] {moment:%Y-%m-%d %H:%M:%S},{moment.microsecond // 1000:03d} - root - INFO - "
        f"{red}step: {step:2}  {green}loss: {9 - step / 8:8.5f}  {orange}grad_norm: {1.5:7.4f}  "
        f"{turquoise}memory: {5.5:5.2f}GiB({68.75:.2f}%)  {blue}tps: {round(tps):,}  "
        f"{cyan}tflops: {tflops:,.2f}  {magenta}mfu: 0.01%{reset}\n"
    )


def automodel_line(step: int, *, seconds: float = 1.25, **changes: Any) -> str:
    moment = clock(step, seconds=seconds)
    values = {
        "step": step,
        "epoch": 0,
        "timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "loss": 9 - step / 8,
        "grad_norm": 1.5,
        "lr": 2e-4,
        "mem": 5.5,
        "tps": TOKENS / seconds,
        "tps_per_gpu": TOKENS / seconds / GPUS,
        "mfu": None,
        "num_tokens_per_step": TOKENS,
        "num_label_tokens": TOKENS - 8,
        **changes,
    }
    return json.dumps(values) + "\n"


def automodel_console_line(step: int, *, seconds: float = 1.25) -> str:
    tps = TOKENS / seconds
    return (
        f"{clock(step, seconds=seconds):%Y-%m-%d %H:%M:%S} | INFO | root | step {step} | epoch 0 | "
        f"loss {9 - step / 8:.4f} | grad_norm 1.5000 | lr 2.00e-04 | mem 5.50 GiB | "
        f"tps {tps:.2f}({tps / GPUS:.2f}/gpu) | num_label_tokens {TOKENS - 8}\n"
    )
