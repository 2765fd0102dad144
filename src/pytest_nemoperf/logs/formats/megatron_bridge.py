"""Console of Megatron-Bridge: Megatron-LM's line of an iteration, memory in GB of 10**9 bytes."""

from __future__ import annotations

from typing import Final

from pytest_nemoperf.logs.formats.megatron import ITERATION_LINE, convert_steps
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.preset import Preset

MEMORY_LINE: Final = (
    r"\(after (?P<step>\d+) iterations\) memory \(GB\)(?: \| [\w-]+: [^|\s]+)*? \| mem-max-allocated-gigabytes: "
    r"(?P<peak_memory_gb>[^|\s]+) \|"
)

PRESET: Final = Preset(
    log_format=LogFormat(kind=LogKind.TEXT, patterns=(ITERATION_LINE, MEMORY_LINE)),
    flops_convention="megatron-bridge",
    how=(
        "set logger.log_interval=1 (and logger.log_throughput=true for its TFLOP/s); the last rank writes these lines, "
        "so give its log where each rank has its own"
    ),
    convert_steps=convert_steps,
)
