"""``nemoperf ceilings``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.baselines.baseline import Baseline
from pytest_nemoperf.baselines.files import write_baseline
from pytest_nemoperf.measure.measurement import Run
from tests.builders import MACHINE, make_baseline


def make_gemm(rate: float, *, case: str = "bench-gemm", **changes: Any) -> Baseline:
    run = Run(metrics={"time_per_call_sec": 0.1, "call_tflops_per_sec": rate}, num_steps=5, step_time_mad_pct=0.1)
    workload = {
        "workload": "benchmark",
        "test": "t.py::t",
        "kernel": "gemm",
        "dtype": "fp32",
        "shape": [8],
        "threads": 1,
    }
    return make_baseline(case=case, workload=workload, runs=(run,), **changes)


def make_training() -> Baseline:
    workload = {"workload": "pretrain", "precision": "fp32", "layout": {"gpus": 2, "dp_shard": 2},
                "global_batch_size": 4, "seq_len": 64}  # fmt: skip
    return make_baseline(workload=workload)


@pytest.fixture
def stored(nemoperf: Any) -> Path:
    """A project with a committed product, an older local one of the same case, and a training case."""
    committed = Path("baselines")
    write_baseline(committed, baseline=make_gemm(2.0))
    write_baseline(committed, baseline=make_training())
    write_baseline(Path(".nemoperf/baselines/0123"), baseline=make_gemm(9.0))
    write_baseline(Path(".nemoperf/baselines/4567"), baseline=make_gemm(5.0, machine={**MACHINE, "cpu": "Other CPU"}))
    return committed


@pytest.mark.usefixtures("stored")
def test_ceilings_are_listed_by_machine_with_stored_cases_beside_them(nemoperf: Any) -> None:
    code, out, _ = nemoperf("ceilings", "cpu")

    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "cores=2, cpu=Test CPU"
    assert "2 TFLOP/s" in lines[2]
    assert "9 TFLOP/s" not in out  # the committed one counts
    assert lines[6].split() == ["pretrain-test", "1", "n/a", "50%"]
    assert "5 TFLOP/s" in out[out.index("Other CPU") :]


@pytest.mark.usefixtures("stored")
def test_json_has_the_same(nemoperf: Any) -> None:
    code, out, _ = nemoperf("ceilings", "cpu", "--json")

    first, second = json.loads(out)
    assert code == 0
    assert first["ceilings"][0]["rate"] == 2.0
    assert first["cases"][0]["products_pct"] == 50.0
    assert second["machine"] == "cores=2, cpu=Other CPU"


def test_none_is_said_with_the_command_that_records_them(nemoperf: Any) -> None:
    code, out, error = nemoperf("ceilings", "h100")

    assert (code, out) == (0, "")
    assert error.startswith("no ceiling is stored of h100: pytest -m perf --system=h100 -k ")
    assert nemoperf("ceilings", "h100", "--json")[:2] == (0, "[]\n")


def test_an_unknown_system_is_an_error(nemoperf: Any) -> None:
    code, _, error = nemoperf("ceilings", "h1000")

    assert code == 2
    assert "unknown system 'h1000'; did you mean h100" in error
