"""Console of torchtitan: a line a logged step, from the ranks in LOG_RANK."""

from __future__ import annotations

from typing import Final

from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.preset import Preset

PRESET: Final = Preset(
    log_format=LogFormat(
        kind=LogKind.TEXT,
        patterns=(
            r"\bstep:\s*(?P<step>\d+)\s+loss:\s*(?P<loss>\S+)\s+grad_norm:\s*(?P<grad_norm>\S+)\s+"
            r"memory:\s*(?P<peak_memory_gib>[^\sG]+)GiB\([^)]*\)\s+tps:\s*(?P<tokens_per_sec_per_gpu>\S+)\s+"
            r"tflops:\s*(?P<tflops_per_sec_per_gpu>\S+)\s+mfu:\s*\S",
        ),
        comma="thousands",
    ),
    flops_convention="torchtitan",
    how="pass --metrics.log_freq 1, and let only one rank log (LOG_RANK=0; with pipelines the rank of the last stage)",
)
