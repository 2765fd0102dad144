"""Perf sessions of a stage: pytest on chosen tests, one launch a case, and its results."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from gpu_check.programs.program import ROOT, Context

RESULTS_FILE = "results.json"
BASELINES = "baselines"
_REPORT_SEC = 12.0  # an interrupted session ends its ranks and writes its results; the runner waits a little longer
_MAX_RECORD_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One pytest session.

    Attributes:
        exit_status: Its exit status.
        cases: Judged cases, as results.json has them.
        not_run: Tests that measured nothing, with the reason.
    """

    exit_status: int
    cases: tuple[dict[str, Any], ...]
    not_run: tuple[dict[str, str], ...]


def plugin_options() -> list[str]:
    """Return the options that load the plugin where its package is on the path but not installed."""
    if any(entry.name == "nemoperf" for entry in entry_points(group="pytest11")):
        return []
    return ["-p", "pytest_nemoperf.plugin.entry"]


def run_session(
    context: Context, name: str, *, tests: Sequence[str], options: Sequence[str] = (), baselines: str = BASELINES
) -> Session:
    """Run a perf session and return its results; after Ctrl-C once they are written.

    Args:
        context: Stage that it belongs to.
        name: Name of its folder within the stage's.
        tests: Node ids.
        options: Further options.
        baselines: Folder of the baselines that count and are stored, within the check's.
    """
    output = context.folder / name
    shutil.rmtree(output, ignore_errors=True)
    (context.check_folder / baselines).mkdir(exist_ok=True)  # a session refuses a folder that is not there
    command = [sys.executable, "-m", "pytest", *plugin_options(), "-p", "no:cacheprovider", "-q", "-rs", "-m", "perf"]
    command += [f"--system={context.system}", "--perf-runs=1", "--perf-max-runs=1", "--perf-confirm=never"]
    command += [f"--perf-baselines={context.check_folder / baselines}", f"--perf-output={output}", *options, *tests]
    start = time.monotonic()
    runner = os.getppid()
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        status = process.wait()
    except KeyboardInterrupt:
        if os.getppid() != runner:  # it died; else its signal was for the session too, and another would cut its report
            process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_REPORT_SEC)
        _keep_records(output)
        raise
    print(f"session {name}: exit status {status} after {time.monotonic() - start:.0f} s", flush=True)
    _keep_records(output)
    return read_session(output, exit_status=status)


def read_session(output: Path, *, exit_status: int = 0) -> Session:
    """Return a session by the results in its folder; without cases if it left none."""
    path = output / RESULTS_FILE
    if not path.exists():
        return Session(exit_status=exit_status, cases=(), not_run=())
    results = json.loads(path.read_text(encoding="utf-8"))
    return Session(exit_status=exit_status, cases=tuple(results["cases"]), not_run=tuple(results["not_run"]))


def metric(case: dict[str, Any], name: str) -> float | None:
    """Return the median of a metric over a case's runs; None if they don't have it."""
    values = sorted(run["metrics"][name] for run in case["measurement"]["runs"] if name in run["metrics"])
    return values[len(values) // 2] if values else None


def verdict(case: dict[str, Any]) -> str:
    """Return the kind of a case's verdict."""
    return str(case["verdict"]["kind"])


def short_name(nodeid: str) -> str:
    """Return a test's name without file and prefix."""
    return nodeid.rpartition("::")[2].removeprefix("test_")


def figure(value: float | None, *, digits: int = 0) -> str:
    """Return a figure for a table; n/a for none."""
    return "n/a" if value is None else f"{value:,.{digits}f}"


def _keep_records(output: Path) -> None:
    """Copy plans, steps, results and logs of a session's runs into its folder; traces and caches stay behind."""
    for case in read_session(output).cases:
        run_dir = ROOT / case["run_dir"]
        if not case["run_dir"]:
            continue
        for path in run_dir.rglob("*"):
            is_record = path.suffix in {".json", ".jsonl", ".log"} and path.is_file()
            if is_record and path.stat().st_size <= _MAX_RECORD_BYTES:
                target = output / "runs" / path.relative_to(run_dir.parent)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
