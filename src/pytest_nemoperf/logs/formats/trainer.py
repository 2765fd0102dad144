"""Event files of Hugging Face's Trainer and of the trainers built on it: the clock at which each step was logged."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.logs.log_format import WALL_TIME, LogFormat, LogKind
from pytest_nemoperf.logs.preset import Preset

FIELDS: Final = MappingProxyType(
    {
        "end_time_sec": WALL_TIME,
        "loss": "train/loss",
        "grad_norm": "train/grad_norm",
        "tokens_total": "train/num_tokens",  # TRL's own trainers
        "raw.num_input_tokens_seen": "train/num_input_tokens_seen",
    }
)
"""Tag by quantity."""
FILE: Final = "{run_dir}/tensorboard"
ENV: Final = MappingProxyType({"TENSORBOARD_LOGGING_DIR": FILE})
HOW: Final = (
    "pass --report_to tensorboard --logging_steps 1 (before transformers 5 also --logging_dir {run_dir}/tensorboard), "
    "with tensorboard installed for the command"
)


def convert(values: Mapping[str, float]) -> dict[str, float]:
    """Return a step's quantities: the tokens so far, by either name."""
    ours = dict(values)
    if "raw.num_input_tokens_seen" in values:
        ours.setdefault("tokens_total", values["raw.num_input_tokens_seen"])
    return ours


PRESET: Final = Preset(
    log_format=LogFormat(kind=LogKind.TENSORBOARD, fields=FIELDS), file=FILE, env=ENV, how=HOW, convert=convert
)
