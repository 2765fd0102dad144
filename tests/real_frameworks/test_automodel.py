"""NeMo Automodel, the real package, beside the native engine: the same losses and gradient norms from a plan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.frameworks.configs.automodel import BENCHMARK
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import RunOutput
from tests.builders import ROUND_MODEL, make_plan
from tests.real_frameworks.on_cpu import AutomodelOnCPU
from tests.real_frameworks.runs import interpreter, native_output, run_plan

pytestmark = [pytest.mark.frameworks, pytest.mark.ranks]

FRAMEWORK = AutomodelOnCPU()
RELATIVE = 1e-5
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # threads that wait for each other are slow where other programs run


def plan_of(layout: Layout, **changes: Any) -> Plan:
    values: dict[str, Any] = {"model": ROUND_MODEL, "steps": 4, "timeout_sec": 300.0, "env": ONE_THREAD, **changes}
    return make_plan(framework=FRAMEWORK.name, python=interpreter("automodel"), layouts={"cpu": layout}, **values)


def run_both(plan: Plan, *, folder: Path) -> tuple[RunOutput, RunOutput]:
    """Return what Automodel and the native engine tell of a plan."""
    assert FRAMEWORK.unsupported(plan) is None
    theirs = run_plan(plan, framework=FRAMEWORK, run_dir=folder / "automodel")
    return theirs, native_output(replace(plan, framework_options={}), run_dir=folder / "native")


@pytest.mark.parametrize(
    ("layout", "changes"),
    [
        pytest.param(Layout(gpus=1), {}, id="one process"),
        pytest.param(
            Layout(gpus=2, dp_shard=2),
            {"model": "qwen2.5-7b-twin", "recompute": "full"},
            id="fsdp2, qwen2, recomputation",
        ),
        pytest.param(
            Layout(gpus=2, dp_replicate=2),
            {"model": "qwen3-8b-twin", "recompute": "selective"},
            id="ddp2, qwen3, selective recomputation",
        ),
        pytest.param(
            Layout(gpus=4, dp_replicate=2, dp_shard=2),
            {"model": "llama3.2-1b-twin"},
            id="hsdp2x2, tied, scaled positions",
        ),
        pytest.param(Layout(gpus=2, tp=2), {}, id="tp2"),
        pytest.param(Layout(gpus=2, tp=2, sequence_parallel=False), {}, id="tp2 without sequence parallelism"),
        pytest.param(Layout(gpus=4, tp=2, dp_shard=2), {}, id="fsdp2 tp2"),
        pytest.param(Layout(gpus=2, pp=2), {}, id="pp2"),
        pytest.param(Layout(gpus=2, pp=2, vp=2), {}, id="pp2 vp2"),
        pytest.param(Layout(gpus=2, pp=2, vp=2, pp_schedule="zero_bubble"), {}, id="pp2 vp2, zero bubble"),
        pytest.param(Layout(gpus=4, dp_shard=2, pp=2), {}, id="fsdp2 pp2"),
        pytest.param(Layout(gpus=2, dp_shard=2, ep=2), {"model": "qwen3-30b-a3b-twin"}, id="ep2"),
    ],
)
def test_losses_and_gradient_norms_equal_the_native_engines(
    layout: Layout, changes: dict[str, Any], tmp_path: Path
) -> None:
    plan = plan_of(layout, **changes)

    theirs, ours = run_both(plan, folder=tmp_path)

    assert len(theirs.records) == plan.total_steps
    for record, native in zip(theirs.records, ours.records, strict=True):
        assert record.step == native.step
        assert record.tokens == native.tokens == plan.tokens_per_step
        assert record.loss == pytest.approx(native.loss, rel=RELATIVE)
        assert record.grad_norm == pytest.approx(native.grad_norm, rel=RELATIVE)
    assert theirs.environment["nemo-automodel"] == FRAMEWORK.requirement.tested[-1]
    files = [path for path in (tmp_path / "automodel").rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) < 2**20  # no weights are written


def test_another_seed_trains_another_model(tmp_path: Path) -> None:
    plan = plan_of(Layout(gpus=1))

    theirs = run_plan(plan, framework=FRAMEWORK, run_dir=tmp_path / "automodel")
    ours = native_output(replace(plan, seed=plan.seed + 1), run_dir=tmp_path / "native")

    first, native = theirs.records[0], ours.records[0]
    assert first.loss != pytest.approx(native.loss, rel=RELATIVE)
    assert first.grad_norm != pytest.approx(native.grad_norm, rel=RELATIVE)


def test_the_benchmark_recipe_runs_a_plan_and_leaves_its_summary(tmp_path: Path) -> None:
    plan = plan_of(Layout(gpus=2, dp_shard=2), framework_options={"recipe": BENCHMARK})

    theirs, ours = run_both(plan, folder=tmp_path)

    summary = json.loads((tmp_path / "automodel" / "benchmark.json").read_text())
    assert summary["total_steps"] == len(theirs.records) == plan.total_steps
    assert summary["warmup_steps"] == plan.warmup_steps
    measured = [record.step_time_sec for record in theirs.records[plan.warmup_steps :]]
    assert summary["avg_iter_time_seconds"] <= max(measured)
    assert theirs.records[0].loss == pytest.approx(ours.records[0].loss, abs=1e-4)  # it prints four digits
    assert theirs.records[-1].grad_norm is None  # it neither clips nor logs
