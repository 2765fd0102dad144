"""metrics.csv of Lightning's CSVLogger, with the seconds that its ThroughputMonitor adds."""

from __future__ import annotations

from typing import Final

from pytest_nemoperf.logs.formats import lightning
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.preset import Preset

PRESET: Final = Preset(
    log_format=LogFormat(kind=LogKind.CSV, fields={"step": "step", **lightning.FIELDS}),
    file="lightning_logs/version_*/metrics.csv",
    how="let the Trainer have log_every_n_steps=1, a CSVLogger and a ThroughputMonitor",
    convert=lightning.convert,
)
