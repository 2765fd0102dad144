"""Request to a pytest process of one side: measure the cases of one test and judge nothing.

The request lies in a folder that a variable names, and the answer is written to the same folder: a file for each case
that the test process measured, and the stage that the session reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pytest_nemoperf.baselines.atomic import write_atomically
from pytest_nemoperf.json_codec import read_data, to_json_line
from pytest_nemoperf.measure.measurement import Measurement

MEASURE_INTO_VARIABLE: Final = "NEMOPERF_MEASURE_INTO"
MEASURE_ONLY_PLUGIN: Final = "pytest_nemoperf.plugin.measure_only"
"""Module that pytest loads for the request; a version of this package without it ends with an error at once."""
STARTED: Final = "started"
NOT_IMPORTED: Final = "a file could not be collected"
FOUND: Final = "found"
_REQUEST: Final = "request.json"
_STAGE: Final = "stage"
_CASES: Final = "cases"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureRequest:
    """A test to run, and the options of the session that asks for it.

    Attributes:
        nodeid: The test, relative to the root directory.
        system: System name.
        inject_pct: Self-test delay of each step, percent.
        variables: Values in the asking session of variables that a launcher sets; a missing one was not set.
    """

    nodeid: str
    system: str
    inject_pct: float = 0.0
    variables: Mapping[str, str] = field(default_factory=dict)


def write_request(folder: Path, request: MeasureRequest) -> None:
    """Write a request; the folder is made."""
    write_atomically(folder / _REQUEST, text=to_json_line(request))


def read_request(folder: Path) -> MeasureRequest:
    """Return the request of a folder."""
    path = folder / _REQUEST
    return read_data(MeasureRequest, path)


def write_stage(folder: Path, stage: str) -> None:
    """Write the stage that the session has reached."""
    write_atomically(folder / _STAGE, text=stage)


def read_stage(folder: Path) -> str:
    """Return the stage that the session has reached; empty if it did not start."""
    path = folder / _STAGE
    return path.read_text(encoding="utf-8") if path.exists() else ""


def write_measurement(folder: Path, measurement: Measurement) -> None:
    """Write the measurement of a case; its test may still fail."""
    # A line: a loss may be NaN, which files for people don't hold.
    write_atomically(folder / _CASES / f"{measurement.case}.json", text=to_json_line(measurement))


def read_measurement(folder: Path, *, case: str) -> Measurement | None:
    """Return the measurement of a case, or None if the test has not measured it.

    Raises:
        RecordError: If it was written by a version of this package that measures something else.
    """
    path = folder / _CASES / f"{case}.json"
    if not path.exists():
        return None
    return read_data(Measurement, path)


def measured_cases(folder: Path) -> list[str]:
    """Return the cases that the test has measured."""
    return sorted(path.stem for path in (folder / _CASES).glob("*.json"))
