"""The GPU cases of perf_tests/, by dry runs: what fits, what one launch of each takes, what a CPU makes of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_nemoperf.json_codec import read_data
from pytest_nemoperf.results.dry_run import DRY_RUN_FILE, DryRun

ROOT = Path(__file__).parents[2]
_TEN_MINUTES = 600


def dry_run(system: str, *, output: Path) -> DryRun:
    options = ["-q", "-p", "no:cacheprovider", "-m", "perf", f"--system={system}", f"--perf-output={output}"]
    argv = [sys.executable, "-m", "pytest", *options, "--perf-dry-run", "perf_tests"]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, timeout=300)
    return read_data(DryRun, output / DRY_RUN_FILE)


@pytest.mark.slow
def test_the_suite_fits_an_h100_and_one_launch_of_each_one_gpu_case_takes_less_than_ten_minutes(tmp_path: Path) -> None:
    results = dry_run("h100", output=tmp_path)

    assert {case.nodeid: case.price.is_fitting for case in results.cases if not case.price.is_fitting} == {}
    assert results.cost is not None
    (one_gpu,) = [launches for launches in results.cost.launches if launches.gpus == 1]
    assert one_gpu.num_cases >= 12
    assert one_gpu.high_sec < _TEN_MINUTES
    kinds = {case.price.estimated.basis for case in results.cases if case.price.estimated is not None}
    assert len(kinds) >= 5


@pytest.mark.slow
def test_a_cpu_runs_none_of_its_gpu_cases(tmp_path: Path) -> None:
    results = dry_run("cpu", output=tmp_path)

    assert {case.price.plan.layout.total_gpus for case in results.cases} <= {1, 2, 4}
    reasons = [each.reason for each in results.not_priced if "_gpu" in each.nodeid]
    assert reasons
    assert all("has no layout for system cpu; it has layouts for" in reason for reason in reasons)
