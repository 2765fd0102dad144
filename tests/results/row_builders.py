"""Rows of tables for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_nemoperf.baselines.files import baseline_path, write_baseline
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.measure.measurement import workload_of
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.metrics import TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.results.cases import CaseResult, SessionResults
from pytest_nemoperf.results.row import Release, Row, RowKind, RowOrigin
from pytest_nemoperf.verdict.comparison import VerdictKind
from tests.builders import make_baseline, make_measurement, make_provenance, make_run, make_runs
from tests.report.builders import make_report

CASE = "pretrain-llama3-8b-1n8g-torch-bf16-fsdp8-seq8192-gbs128-mbs1"


def make_origin(**changes: Any) -> RowOrigin:
    values: dict[str, Any] = {
        "kind": RowKind.MEASURED,
        "date": "2026-11-01T10:00:00Z",
        "commit": "0123456789ab",
        "device": "8x NVIDIA H100 80GB HBM3",
        "versions": {"torch": "2.8.0", "python": "3.12.1"},
    }
    return RowOrigin(**{**values, **changes})


def make_row(rates: Sequence[float] = (12000.0, 12010.0, 11990.0), **changes: Any) -> Row:
    """Return a measured row of llama3-8b on eight H100s with a run of each rate."""
    values: dict[str, Any] = {
        "case": CASE,
        "system": "h100",
        "workload": "pretrain",
        "framework": "torch",
        "model": "llama3-8b",
        "precision": "BF16",
        "gpus": 8,
        "global_batch_size": 128,
        "micro_batch_size": 1,
        "seq_len": 8192,
        "fsdp": 1,
        "dp": 8,
        "tp": 1,
        "pp": 1,
        "cp": 1,
        "ep": 1,
        "grad_accum_steps": 16,
        "values": {TOKENS_PER_SEC_PER_GPU.name: tuple(rates)},
        "origin": make_origin(),
        "sessions": ("2026-11-01T10:00:00Z",) * len(rates),
    }
    return Row(**{**values, **changes})


def make_release(name: str, *rows: Row, **changes: Any) -> Release:
    return Release(**{"name": name, "date": "2026-11-02", "rows": rows, **changes})


def store_plan(root: Path, plan: Plan, *rates: float, session: str = "2026-11-01T10:00:00Z", **changes: Any) -> Path:
    """Store a baseline of a plan with a run of each rate; return its file. Changes are of its provenance."""
    runs = tuple(replace(run, session=session) for run in make_runs(rates))
    baseline = make_baseline(
        case=plan.case,
        system=plan.system,
        workload=workload_of(plan),
        runs=runs,
        provenance=make_provenance(**{"date": session, **changes}),
    )
    write_baseline(root, baseline=baseline)
    return baseline_path(root, system=plan.system, case=plan.case)


def make_case(plan: Plan, *rates: float, kind: VerdictKind = VerdictKind.NO_BASELINE) -> CaseResult:
    """Return a judged case of a plan with a run of each rate."""
    runs = tuple(map(make_run, rates))
    result = make_report(make_measurement(case=plan.case, runs=runs, workload=workload_of(plan))).result
    return replace(
        result,
        plan=plan,
        verdict=replace(result.verdict, kind=kind, case=plan.case, comparisons=()),
    )


def write_results(path: Path, *cases: CaseResult, **changes: Any) -> Path:
    """Write the results file of a session on the CPU."""
    results = SessionResults(
        system="cpu", system_title="CPU", machine={}, provenance=make_provenance(), cases=cases, **changes
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(results), encoding="utf-8")
    return path
