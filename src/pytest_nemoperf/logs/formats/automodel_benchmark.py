"""Console of NeMo Automodel's benchmark recipe, which times each iteration by itself: seconds on the slowest rank."""

from __future__ import annotations

from typing import Final

from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.preset import Preset

PRESET: Final = Preset(
    log_format=LogFormat(
        kind=LogKind.TEXT,
        patterns=(
            # Divided by 1024**3, whatever the unit says (recipes/llm/benchmark.py).
            r"Iteration (?P<step>\d+) \| num_label_tokens=\d+ \| Max Memory Allocated: (?P<peak_memory_gib>\S+) GB \| "
            r"loss=(?P<loss>\S+)",
            r"Max iter time: (?P<step_time_sec>\S+) seconds",
        ),
    ),
    how="let BenchmarkingRecipeForNextTokenPrediction run on two GPUs or more; tokens are the plan's",
)
