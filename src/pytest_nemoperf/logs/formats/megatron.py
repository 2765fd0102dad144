"""Console of Megatron-LM: one line an iteration from the last rank, one of memory from others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from pytest_nemoperf.logs.context import LogContext
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.merge import LoggedStep
from pytest_nemoperf.logs.preset import Preset

_VALUE = r"\s*(?P<{}>[^|\s]+) \|"
_ANY = r"(?:[^|]*\|)*?"


def _field(label: str, quantity: str) -> str:
    """Return the regular expression of an optional field, without backtracking into it."""
    return rf"(?:{_ANY} {label}:{_VALUE.format(quantity)})?+"


ITERATION_LINE: Final = (
    rf"iteration\s+(?P<step>\d+)/\s*\d+ \|{_ANY} elapsed time per iteration \(ms\):{_VALUE.format('step_time_ms')}"
    + _field(r"throughput per GPU \(TFLOP/s/GPU\)", "tflops_per_sec_per_gpu")
    + rf"{_ANY} global batch size:{_VALUE.format('sequences')}"
    + _field("lm loss", "loss")
    + _field("grad norm", "grad_norm")
    + rf"{_ANY} number of skipped iterations:{_VALUE.format('skipped_updates')}"
    + rf" number of nan iterations:{_VALUE.format('raw__nan_iterations')}"
)
"""An iteration's line: it always ends with the numbers of skipped and NaN iterations."""

MEMORY_LINE: Final = (
    r"\(after (?P<step>\d+) iterations\) memory \(MB\)(?: \| [a-z ]+: [^|\s]+)*? \| max allocated: "
    r"(?P<peak_memory_mib>[^|\s]+) \|"
)


def convert_steps(steps: Sequence[LoggedStep], context: LogContext) -> None:  # noqa: ARG001 (a preset's signature)
    """Set losses that are not numbers, which Megatron leaves out of the line.

    Only skipped iterations count as NaN iterations; of others, the loss is missing where other lines have it. Where no
    line has it, the model gives its loss another name.
    """
    is_logged = any("loss" in step.values for step in steps)
    for step in steps:
        if "step_time_ms" not in step.values:
            continue
        if step.values.get("raw.nan_iterations", 0) > 0:
            step.values["loss"] = math.nan
        elif is_logged:
            step.values.setdefault("loss", math.nan)


HOW: Final = "pass --log-interval 1 (and --log-throughput, --log-memory-interval 1 for its TFLOP/s and peak memory)"

PRESET: Final = Preset(
    log_format=LogFormat(kind=LogKind.TEXT, patterns=(ITERATION_LINE, MEMORY_LINE)),
    flops_convention="megatron-lm",
    how=HOW,
    convert_steps=convert_steps,
)
