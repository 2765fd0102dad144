"""Run directories as a session leaves them, for tests that judge them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_nemoperf.json_codec import to_json, to_json_line
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import RunResult
from pytest_nemoperf.runs.replay import CaseRecord, write_case
from pytest_nemoperf.verdict.comparison import VerdictKind
from tests.builders import MACHINE, make_policy, make_provenance, make_records


def store_run(run_dir: Path, *, plan: Plan, step_time_sec: float = 0.1, **changes: Any) -> None:
    """Write the files of a run of the native engine."""
    run_dir.mkdir(parents=True)
    (run_dir / "plan.json").write_text(to_json(plan))
    records = make_records(plan, step_time_sec=step_time_sec, **{"rank_times_sec": (), **changes})
    (run_dir / "steps.jsonl").write_text("".join(map(to_json_line, records)))
    result = RunResult(num_ranks=plan.layout.total_gpus, num_steps=plan.total_steps, device_name="cpu")
    (run_dir / "result.json").write_text(to_json(result))


def make_record(plan: Plan, **changes: Any) -> CaseRecord:
    values: dict[str, Any] = {
        "case": plan.case,
        "system": plan.system,
        "machine": MACHINE,
        "provenance": make_provenance(),
        "terms": make_policy(),
        "fail_on": (VerdictKind.INVALID, VerdictKind.REGRESSED),
        "runs": ("run-1",),
    }
    return CaseRecord(**{**values, **changes})


def store_case(
    case_dir: Path,
    *,
    plan: Plan,
    machine: Mapping[str, str | int] = MACHINE,
    times: Sequence[float] = (0.1,),
    **changes: Any,
) -> None:
    """Write one run per step time, and the case's record."""
    names = [f"run-{number}" for number in range(1, len(times) + 1)]
    for name, time in zip(names, times, strict=True):
        store_run(case_dir / name, plan=plan, step_time_sec=time)
    write_case(case_dir, record=make_record(plan, **{"machine": machine, "runs": tuple(names), **changes}))
