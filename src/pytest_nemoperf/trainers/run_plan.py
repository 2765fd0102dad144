"""Plan of the run that a program of another trainer belongs to."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_nemoperf.errors import LaunchError
from pytest_nemoperf.json_codec import read_data
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import PLAN_FILE


def run_directory() -> Path:
    """Return the directory of the run.

    Raises:
        LaunchError: If NEMOPERF_RUN_DIR is not set.
    """
    if "NEMOPERF_RUN_DIR" not in os.environ:
        raise LaunchError("NEMOPERF_RUN_DIR is not set; this program runs a plan of pytest-nemoperf, in its directory")
    return Path(os.environ["NEMOPERF_RUN_DIR"])


def run_plan() -> Plan:
    """Return the plan of the run.

    Raises:
        LaunchError: If NEMOPERF_RUN_DIR is not set.
        RecordError: If the plan can't be read.
    """
    path = run_directory() / PLAN_FILE
    return read_data(Plan, path)
