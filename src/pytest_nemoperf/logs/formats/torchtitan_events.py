"""Event files of torchtitan: the numbers of its console in full, and its own time of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pytest_nemoperf.logs.log_format import WALL_TIME, LogFormat, LogKind
from pytest_nemoperf.logs.preset import Preset


def convert(values: Mapping[str, float]) -> dict[str, float]:
    """Return a step's quantities: of all its batches, the time to load them is a share of the step's."""
    ours = dict(values)
    if "raw.data_pct" in values and "step_time_sec" in values:
        ours["phase.data_sec"] = values["step_time_sec"] * values["raw.data_pct"] / 100
    return ours


PRESET: Final = Preset(
    log_format=LogFormat(
        kind=LogKind.TENSORBOARD,
        fields={
            "step_time_sec": "time_metrics/end_to_end(s)",
            "end_time_sec": WALL_TIME,  # another clock, which the times are checked against
            "tokens_per_sec_per_gpu": "throughput(tps)",
            "loss": "loss_metrics/global_avg_loss",
            "grad_norm": "grad_norm",
            "peak_memory_gib": "memory/max_active(GiB)",
            "raw.data_pct": "time_metrics/data_loading(%)",
        },
    ),
    file="{run_dir}/torchtitan",
    how="pass --metrics.log_freq 1 --metrics.enable_tensorboard --dump_folder {run_dir}/torchtitan",
    convert=convert,
)
