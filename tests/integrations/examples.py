"""Worked examples of docs/examples, run as a user runs them: a copy of the folder, a tiny model, and pytest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_nemoperf.frameworks.steps import read_step_records
from pytest_nemoperf.json_codec import from_json
from pytest_nemoperf.measure.expected_records import expected_of
from pytest_nemoperf.measure.validity import record_problems
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import PLAN_FILE, STEPS_FILE, StepRecord
from pytest_nemoperf.records.yardstick import YARDSTICK_OFF, YARDSTICK_VARIABLE

EXAMPLES: Final = Path(__file__).parents[2] / "docs" / "examples"
_OF_THESE_TESTS: Final = ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")
"""Variables of the job that runs these tests; the sessions inside have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleRun:
    """The last launch of an example's session.

    Attributes:
        plan: Plan of the run.
        records: Its records.
        case: The case in the session's results.json.
    """

    plan: Plan
    records: tuple[StepRecord, ...]
    case: dict[str, Any]

    @property
    def problems(self) -> list[str]:
        """Reasons not to judge it that lie in its records; the machine may be busy."""
        return record_problems(expected_of(self.plan), records=self.records)


def make_model(folder: Path) -> None:
    """Make the examples' model and tokenizer in a folder's ``tiny``."""
    command = [sys.executable, str(EXAMPLES / "tiny_model.py"), str(folder / "tiny")]
    subprocess.run(command, check=True, timeout=120, capture_output=True)


def run_example(
    name: str,
    *,
    beside: Path,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...] = (),
) -> ExampleRun:
    """Run the perf test of an example with one launch, whatever it says of the machine.

    Args:
        name: Folder of the example.
        beside: Folder whose content is put beside it: the model, or the script.
        pytester: Directory of the session.
        monkeypatch: Sets its environment.
        options: Further options of pytest.
    """
    root = pytester.path
    for folder in (EXAMPLES / name, beside):
        shutil.copytree(folder, root, dirs_exist_ok=True)
    pytester.makeini("[pytest]\nperf_runs = 1\nperf_fail_on = none\n")
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("TMPDIR", str(root))  # locks of its own, so that a real session is not in the way
    monkeypatch.setenv(YARDSTICK_VARIABLE, YARDSTICK_OFF)
    for variable in _OF_THESE_TESTS:
        monkeypatch.delenv(variable, raising=False)
    result = pytester.runpytest_subprocess("-m", "perf", "--system=cpu", "-p", "no:cacheprovider", *options)
    result.assert_outcomes(passed=1)
    runs = sorted((root / ".nemoperf" / "runs").glob("*/*/run-1*"))
    plan = from_json(Plan, (runs[-1] / PLAN_FILE).read_bytes(), subject=PLAN_FILE)
    (case,) = json.loads((root / ".nemoperf" / "latest" / "results.json").read_text())["cases"]
    records = read_step_records(runs[-1] / STEPS_FILE, total_steps=plan.total_steps)
    return ExampleRun(plan=plan, records=records, case=case)
