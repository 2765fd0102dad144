"""Judged cases and sessions for reports."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pytest_nemoperf.baselines.baseline import Anchor, Baseline
from pytest_nemoperf.measure.measurement import Measurement, Run, workload_of
from pytest_nemoperf.results.cases import CaseReport, CaseResult, NotRun, SessionResults
from pytest_nemoperf.results.framework_figures import FigureRange, FrameworkComparison, FrameworkFigures, LossBeside
from pytest_nemoperf.verdict.comparison import FAILING_BY_DEFAULT
from pytest_nemoperf.verdict.judge import judge
from tests.builders import (
    MACHINE,
    make_baseline,
    make_measurement,
    make_plan,
    make_policy,
    make_provenance,
    make_rl,
    make_rl_plan,
    make_rl_records,
    make_run,
    measure_records,
)

LONG_CASE = "pretrain-a-model-with-a-really-long-name-16n128g-megatron-bf16-hsdp4x8tp4pp2vp5-variant"
NODEID = "perf_tests/test_pretrain.py::test_llama_tiny[fsdp2tp2]"
POLICY = make_policy(tolerance_pct=10.0)
PHASES = {"data": 0.001, "forward": 0.03, "backward": 0.05, "optimizer": 0.014, "other": 0.005}


def make_call_run(seconds: float) -> Run:
    """Return the run of a pytest-benchmark test."""
    return Run(metrics={"time_per_call_sec": seconds}, num_steps=50, step_time_mad_pct=0.8)


def make_phased_run(*, other_sec: float = 0.005, step_time_sec: float = 0.1) -> Run:
    """Return a run with all phases; the time of ``other`` is given."""
    run = make_run(100.0 / step_time_sec)
    return replace(run, phases={**PHASES, "other": other_sec}, rank_spread_pct=2.5)


def make_report(
    measurement: Measurement | None = None,
    *,
    baseline: Baseline | None = None,
    has_plan: bool = True,
    plan_changes: dict[str, Any] | None = None,
    **changes: Any,
) -> CaseReport:
    """Return the report of a measurement, judged as in a session; changes are of its result."""
    measurement = measurement or make_measurement()
    num_runs = max(1, len(measurement.runs))
    policy = replace(POLICY, max_runs=num_runs, min_runs=min(2, num_runs))
    verdict = judge(measurement, baseline=baseline, machine=MACHINE, policy=policy)
    plan = changes.get("plan")
    if plan is None and has_plan:
        plan = replace(make_plan(), case=measurement.case, **(plan_changes or {}))
        measurement = replace(measurement, workload=workload_of(plan))
    elif plan is None:
        measurement = replace(measurement, workload={"workload": "loop"})
    values: dict[str, Any] = {
        "nodeid": NODEID,
        "measurement": measurement,
        "verdict": verdict,
        "plan": plan,
        "baseline_path": f"baselines/cpu/{measurement.case}.json" if baseline else "",
        "is_failure": verdict.kind in FAILING_BY_DEFAULT,
        "run_dir": f".nemoperf/runs/20261122-170000/{measurement.case}",
    }
    return CaseReport(
        result=CaseResult(**{**values, **changes}),
        baseline=baseline,
        rerun_command=f"pytest -m perf --system=cpu '{NODEID}'",
        accept_command=f"pytest -m perf --system=cpu --update-baselines --perf-accept-regression "
        f"'--perf-reason=why it is fine' '{NODEID}'",
        environment=make_provenance().environment(),
    )


def make_passed(case: str = "pretrain-test", **changes: Any) -> CaseReport:
    """Return the report of a case that is as fast as its baseline."""
    return make_report(make_measurement(case=case), baseline=make_baseline(case=case), **changes)


def make_regressed(case: str = "pretrain-test", *, inject_pct: float = 0.0) -> CaseReport:
    """Return the report of a case whose step lost 20 ms of 100 ms in the phase ``other``."""
    slow = tuple(make_phased_run(other_sec=0.025, step_time_sec=0.12) for _ in range(3))
    fast = tuple(make_phased_run() for _ in range(3))
    measurement = make_measurement(case=case, runs=slow, inject_pct=inject_pct)
    return make_report(measurement, baseline=make_baseline(case=case, runs=fast))


def make_decayed(case: str = "pretrain-test") -> CaseReport:
    """Return the report of a case that lost 5% against the newest baseline and 24% against the anchor."""
    old, newest, now = (tuple(make_run(rate) for _ in range(5)) for rate in (1000.0, 800.0, 760.0))
    anchor = Anchor(name="1.4", runs=old, provenance=make_provenance())
    baseline = make_baseline(case=case, runs=newest, anchor=anchor)
    return make_report(make_measurement(case=case, runs=now), baseline=baseline)


def make_rl_report(
    *, baseline_changes: dict[str, Any] | None = None, rl: dict[str, Any] | None = None, **changes: Any
) -> CaseReport:
    """Return the report of a case of reinforcement learning.

    Args:
        baseline_changes: Of the baseline's records, see make_rl_records; None for no baseline.
        rl: Changes of make_rl's defaults.
        changes: Of this session's records.
    """
    plan = make_rl_plan(rl=make_rl(**(rl or {})))
    measurement = measure_records(plan, outputs=[make_rl_records(plan, **changes)] * 3)
    baseline = None
    if baseline_changes is not None:
        then = measure_records(plan, outputs=[make_rl_records(plan, **baseline_changes)] * 3)
        baseline = make_baseline(case=plan.case, workload=then.workload, runs=then.runs)
    return make_report(measurement, baseline=baseline, plan=plan)


def make_invalid(case: str = "pretrain-invalid") -> CaseReport:
    """Return the report of a case that must not be believed."""
    problem = "run 1: loss is not finite at step 4 (9 of 13 steps)"
    return make_report(make_measurement(case=case, problems=(problem,)), baseline=make_baseline(case=case))


def make_call(case: str = "bench-matmul", *, seconds: float = 123e-6) -> CaseReport:
    """Return the report of a pytest-benchmark test."""
    runs = (make_call_run(seconds),)
    measurement = make_measurement(case=case, runs=runs, flops_per_token=None, flops_convention=None)
    return make_report(
        measurement, baseline=make_baseline(case=case, runs=(make_call_run(120e-6),)), has_plan=False, run_dir=""
    )


def make_figures(framework: str, *, ratio: float, **changes: Any) -> FrameworkFigures:
    """Return a framework's figures of three launches, so many times 1,000 tokens/sec/GPU."""
    rate = 1000.0 * ratio
    values: dict[str, Any] = {
        "framework": framework,
        "case": f"pretrain-llama-tiny-1n2g-{framework}-fp32-fsdp2-seq64-gbs4-mbs1",
        "nodeid": f"test_x.py::test_tiny[{framework}]",
        "num_runs": 3,
        "metrics": {
            "tokens_per_sec_per_gpu": FigureRange(low=rate - 100.0, figure=rate, high=rate + 200.0),
            "tflops_per_sec_per_gpu": FigureRange(low=ratio, figure=ratio, high=ratio),
            "peak_memory_gib": FigureRange(low=1.0, figure=1.0, high=1.0),
        },
        "ratio": ratio,
        "spread_pct": 100.0 * 300.0 / rate,
    }
    return FrameworkFigures(**{**values, **changes})


def make_comparison() -> FrameworkComparison:
    """Return a recipe that two frameworks ran and a third one could not."""
    loss = LossBeside(step=7, loss=6.500078, reference=6.5, change_pct=0.0012)
    return FrameworkComparison(
        recipe="pretrain-llama-tiny-1n2g-fp32-fsdp2-seq64-gbs4-mbs1",
        reference="torch",
        rows=(
            make_figures("torch", ratio=1.0),
            make_figures("megatron", ratio=1.5, loss=loss),
            FrameworkFigures(
                framework="automodel", case="x", nodeid="test_x.py::test_tiny", problem="Automodel has no CPU path"
            ),
        ),
        notes=("megatron beside torch: the ranges of their launches overlap, so these do not tell the faster one",),
    )


def make_results(*reports: CaseReport, inject_pct: float = 0.0, not_run: tuple[NotRun, ...] = ()) -> SessionResults:
    """Return the session of some reports."""
    return SessionResults(
        system="cpu",
        system_title="CPU",
        machine=MACHINE,
        provenance=make_provenance(),
        cases=tuple(report.result for report in reports),
        not_run=not_run,
        inject_pct=inject_pct,
        duration_sec=83.2,
    )
