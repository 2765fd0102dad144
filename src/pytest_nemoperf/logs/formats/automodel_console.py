"""Console of NeMo Automodel: tokens per second of a step, but not its tokens; training.jsonl has both."""

from __future__ import annotations

from typing import Final

from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.preset import Preset

PRESET: Final = Preset(
    log_format=LogFormat(
        kind=LogKind.TEXT,
        patterns=(
            r"(?<!\S)step (?P<step>\d+) \| epoch \d+ \| loss (?P<loss>\S+) \| (?:[^|]*\| )*?"
            r"grad_norm (?P<grad_norm>\S+) \| lr \S+ \| mem (?P<peak_memory_gib>\S+) GiB \| "
            r"tps (?P<tokens_per_sec>[^\s(|]+)\([^\s)]+/gpu\)",
        ),
    ),
    how="let the recipe run as it is: it logs every step; tokens are the plan's, so sequences must be full",
)
