"""Targets of logs: each format of ours, event files, and formats of a user's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.reading import read_log
from tests.fuzz import mutate
from tests.fuzz.contracts import changed_json
from tests.fuzz.sources import changed_text
from tests.fuzz.target import Target, Use, command
from tests.logs.event_writer import write_events
from tests.logs.log_texts import (
    BY_HAND,
    automodel_console_line,
    automodel_line,
    bridge_memory,
    by_hand,
    context,
    megatron_line,
    megatron_memory,
    titan_line,
)

_COLUMNS: Final = {"step": "step", "step_time_sec": "time", "loss": "loss"}
_STEPS: Final = range(1, 9)
_BY_STEP: Final = {
    key: {str(step): 1.5 for step in _STEPS}
    for key in ("train/loss", "timing/train/total_step_time", "train/global_valid_toks", "train/grad_norm")
}


def _megatron_line(step: int) -> str:
    return megatron_line(step, fields={"throughput per GPU (TFLOP/s/GPU)": "37.0"})


_FORMATS: Final[Mapping[str, tuple[str | LogFormat, str]]] = MappingProxyType(
    {
        "log text": (BY_HAND, by_hand(_STEPS)),
        "log megatron": ("megatron", "".join(_megatron_line(step) + megatron_memory(step) for step in _STEPS)),
        "log megatron_bridge": (
            "megatron_bridge",
            "".join(_megatron_line(step) + bridge_memory(step) for step in _STEPS),
        ),
        "log torchtitan": ("torchtitan", "".join(titan_line(step, tflops=46.32) for step in _STEPS)),
        "log automodel": ("automodel", "".join(map(automodel_line, _STEPS))),
        "log automodel_console": ("automodel_console", "".join(map(automodel_console_line, _STEPS))),
        "log dict": (
            LogFormat(kind=LogKind.DICT, fields=_COLUMNS),
            "".join(f"{{'step': {step}, 'time': 1.25, 'loss': '8.5', 'x': nan}}\n" for step in _STEPS),
        ),
        "log trl_console": (
            "trl_console",
            "".join(
                f"{{'loss': 0.5, 'step_time': 1.5, 'num_tokens': {step * 2048}.0, 'epoch': 0.1}}\n" for step in _STEPS
            ),
        ),
        "log jsonl": (
            LogFormat(kind=LogKind.JSONL, fields={**_COLUMNS, "tokens": "a.tokens"}),
            "".join(json.dumps({"step": s, "time": 1.25, "loss": 8.5, "a": {"tokens": 2048}}) + "\n" for s in _STEPS),
        ),
        "log csv": (
            LogFormat(kind=LogKind.CSV, fields=_COLUMNS),
            "step,loss,time,epoch\n" + "".join(f"{step},8.5,1.25,0.0\n" for step in _STEPS),
        ),
        "log json": ("nemo_rl_json", json.dumps(_BY_STEP)),
    }
)


def _log(name: str, root: Path) -> Target:
    """A log in a format; its commands need a format with a name."""
    log_format, text = _FORMATS[name]
    path = root / "run.log"

    def read() -> object:
        return read_log([path], log_format=log_format, context=context(warmup_steps=0))

    def change(raw: bytes, random: Random) -> bytes:
        if name == "log json" and random.random() < 0.5:
            return changed_json(raw, random)
        return mutate.mutated_text(raw, random=random, hostile=mutate.LOG)

    uses: list[Use] = []
    if isinstance(log_format, str):
        recipe = {
            "model": "llama3-8b",
            "layouts": {"h100": {"gpus": 2, "dp_shard": 2}},
            "seq_len": 128,
            "global_batch_size": 16,
            "framework": "command",
            "command": ["python", "train.py"],
            "log_format": log_format,
        }
        (root / "recipe.json").write_text(json.dumps(recipe))
        judge = ("judge", "--recipe", root / "recipe.json", "--warmup", "2", "--log", path)
        uses = [command(*judge), command(*judge, "--json")]
    return Target(path=path, seeds=[text.encode()], mutate=change, read=read, uses=uses, period=100)


def _events(root: Path) -> Target:
    """An event file of TensorBoard."""
    steps = [(step, 1.0 + step, {"time": 1.25, "loss": 8.5}) for step in _STEPS]
    path = write_events(root / "events", steps)
    log_format = LogFormat(kind=LogKind.TENSORBOARD, fields={"step_time_sec": "time", "loss": "loss"})

    def read() -> object:
        return read_log([path], log_format=log_format, context=context(warmup_steps=0))

    return Target(path=path, seeds=[path.read_bytes()], mutate=changed_text(mutate.Hostile()), read=read)


LOGS: Final[Mapping[str, Callable[[Path], Target]]] = MappingProxyType(
    {**{name: partial(_log, name) for name in _FORMATS}, "log tensorboard": _events}
)
"""Targets of logs by name."""
