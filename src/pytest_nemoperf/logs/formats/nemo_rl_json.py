"""NeMo RL's event files as one JSON file, as tests/json_dump_tb_logs.py in its repository writes it."""

from __future__ import annotations

from typing import Final

from pytest_nemoperf.logs.formats import nemo_rl
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.preset import Preset

PRESET: Final = Preset(
    log_format=LogFormat(kind=LogKind.JSON, fields=nemo_rl.FIELDS),
    file="{run_dir}/metrics.json",
    how="let the command end with json_dump_tb_logs.py FOLDER --output_path {run_dir}/metrics.json",
    convert=nemo_rl.convert,
    convert_steps=nemo_rl.convert_steps,
)
