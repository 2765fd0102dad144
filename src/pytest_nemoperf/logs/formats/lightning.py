"""Event files of Lightning's TensorBoardLogger: the clock at which each step's loss was logged."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.logs.log_format import WALL_TIME, LogFormat, LogKind
from pytest_nemoperf.logs.preset import Preset

_LOSSES: Final = ("train_loss", "train_loss_step", "train/loss", "train/loss_step", "loss", "loss_step")
"""Names that modules give their loss; ``_step`` is Lightning's where it logs means over epochs as well."""

FIELDS: Final = MappingProxyType(
    {
        "raw.time": "train/time",  # ThroughputMonitor: seconds of training so far, the device synchronised
        "raw.batches": "train/batches",
        **{f"raw.{name}": name for name in _LOSSES},
    }
)
"""Tag or column by quantity."""


def convert(values: Mapping[str, float]) -> dict[str, float]:
    """Return a step's quantities: its loss by any name, and the better of two clocks."""
    ours = dict(values)
    for name in _LOSSES:
        if f"raw.{name}" in values:
            ours.setdefault("loss", values[f"raw.{name}"])
    if "raw.time" in values:
        ours["end_time_sec"] = values["raw.time"]
        ours.pop("start_time_sec", None)
        if values.get("raw.batches") == 1:
            ours["start_time_sec"] = 0.0
    return ours


PRESET: Final = Preset(
    log_format=LogFormat(kind=LogKind.TENSORBOARD, fields={"end_time_sec": WALL_TIME, **FIELDS}),
    file="lightning_logs",
    how=(
        "let the Trainer have log_every_n_steps=1 and a TensorBoardLogger, and name its folder in log_file; a loss by "
        f"another name than {', '.join(_LOSSES)} needs a LogFormat"
    ),
    convert=convert,
)
