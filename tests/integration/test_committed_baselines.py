"""The baselines that are committed with the project."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_nemoperf.baselines.baseline import find_mismatches
from pytest_nemoperf.baselines.files import read_baseline
from pytest_nemoperf.measure.measurement import Measurement, workload_of
from pytest_nemoperf.recipes.case_kind import kind_of
from pytest_nemoperf.recipes.recipe import Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.verdict.judge import judge
from pytest_nemoperf.verdict.policy import system_policy

ROOT = Path(__file__).parents[2]
H100S = ROOT / "baselines" / "h100"
HOST_OF_8: Mapping[str, str | int] = {
    "device": "NVIDIA H100 80GB HBM3",
    "memory_gib": 80,
    "gpus": 8,
    "topology": "NV18",
}


class Asked:
    """Fixture ``perf`` that notes the recipe."""

    recipe: Recipe

    def check(self, recipe: Recipe) -> None:
        self.recipe = recipe


def test_the_h100s_case_of_one_gpu_is_that_of_its_test() -> None:
    asked = Asked()
    runpy.run_path(str(ROOT / "perf_tests" / "test_pretrain.py"))["test_llama3_2_1b_on_one_gpu"](asked)
    plan = resolve(asked.recipe, system=find_system("h100"))

    baseline = read_baseline(H100S / f"{plan.case}.json")

    assert find_mismatches(baseline, machine=HOST_OF_8, workload=workload_of(plan)) == []
    assert (baseline.flops_per_token, baseline.flops_convention) == (plan.flops_per_token, plan.flops_convention)


@pytest.mark.parametrize(
    ("slower", "kind"), [(1.0, VerdictKind.PASSED), (1.03, VerdictKind.PASSED), (1.15, VerdictKind.REGRESSED)]
)
def test_the_h100s_case_of_one_gpu_is_judged_in_a_host_of_eight(slower: float, kind: VerdictKind) -> None:
    (path,) = H100S.glob("pretrain-llama3.2-1b-*.json")
    baseline = read_baseline(path)
    runs = []
    for run in baseline.runs:
        metrics = dict(run.metrics)
        for name in ("tokens_per_sec_per_gpu", "tflops_per_sec_per_gpu", "mfu_pct"):
            metrics[name] /= slower
        metrics["step_time_sec"] *= slower
        runs.append(replace(run, metrics=metrics))
    measurement = Measurement(
        case=baseline.case,
        system=baseline.system,
        workload=baseline.workload,
        runs=tuple(runs),
        flops_per_token=baseline.flops_per_token,
        flops_convention=baseline.flops_convention,
    )
    policy = system_policy(find_system("h100"), kind=kind_of(baseline.workload))

    verdict = judge(measurement, baseline=baseline, machine=HOST_OF_8, policy=policy)

    assert verdict.kind is kind
