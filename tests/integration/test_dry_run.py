"""--perf-dry-run: cases are collected, resolved, checked and priced; nothing runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_nemoperf.launchers.local import LocalLauncher
from tests.integration.conftest import CASE, Project, usage_error
from tests.schema_check import schema_faults

LAUNCH = LocalLauncher.launch
GPU_TESTS = """
import pytest
from pytest_nemoperf import Layout, Recipe

def recipe(**changes):
    values = {"model": "llama3-8b", "layouts": {"h100": Layout(gpus=1024, dp_shard=128, tp=8)}, "seq_len": 8192,
              "global_batch_size": 1024}
    return Recipe(**{**values, **changes})

@pytest.mark.perf
def test_large(perf):
    perf.check(recipe())

@pytest.mark.perf
def test_cpu_only(perf):
    perf.check(recipe(layouts={"cpu": Layout(gpus=1)}))

@pytest.mark.perf
def test_loop(perf):
    with perf.measure("mine", tokens_per_step=8) as steps:
        raise AssertionError("the loop must not run")

@pytest.mark.perf
def test_benchmark(perf, benchmark):
    raise AssertionError("the benchmark must not run")
"""
BENCHMARK_STUB = """
import pytest

@pytest.fixture
def benchmark():
    raise AssertionError("the benchmark must not be set up")
"""


@pytest.fixture(autouse=True)
def no_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(*args: object, **kwargs: object) -> None:
        raise AssertionError("a dry run launched something")

    monkeypatch.setattr(LocalLauncher, "launch", launch)


def dry_run_of(project: Project) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((project.latest / "dry_run.json").read_text())
    assert schema_faults(data, name="dry_run") == []
    assert data["terms"]["tolerances"]["tokens_per_sec_per_gpu"] > 0
    return data


def run_on_h100(project: Project, *args: str, tests: str = GPU_TESTS) -> pytest.RunResult:
    project.pytester.makepyfile(test_speed=tests)
    project.pytester.makeconftest(BENCHMARK_STUB)
    return project.pytester.runpytest_inprocess("-m", "perf", "--system=h100", "--perf-dry-run", *args)


def test_the_case_is_priced_and_nothing_is_launched(project: Project) -> None:
    result = project.run("--perf-dry-run")

    result.assert_outcomes(skipped=1)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "perf: dry run: cases are priced, nothing is launched",
            "dry run on cpu (CPU): nothing was launched",
            "case *fits * memory *FLOPs *bubble * step",
            "* [?] * MiB *",
            "written: .nemoperf/latest/dry_run.json",
        ]
    )
    (case,) = dry_run_of(project)["cases"]
    assert case["nodeid"] == "test_speed.py::test_speed"
    assert case["price"]["plan"]["case"] == CASE
    assert not (project.latest / "results.json").exists()
    assert not (project.root / ".nemoperf" / "runs").exists()


def test_gpus_that_are_not_here_are_priced_and_tests_without_a_price_say_why(project: Project) -> None:
    result = run_on_h100(project)

    result.assert_outcomes(skipped=4)
    assert result.ret == pytest.ExitCode.OK
    dry_run = dry_run_of(project)
    (case,) = dry_run["cases"]
    assert case["price"]["plan"]["layout"]["gpus"] == 1024
    assert case["price"]["is_fitting"] is True
    assert {each["nodeid"]: each["reason"] for each in dry_run["not_priced"]} == {
        "test_speed.py::test_cpu_only": "llama3-8b has no layout for system h100; it has layouts for cpu",
        "test_speed.py::test_loop": "a loop of the test process has no recipe to price",
        "test_speed.py::test_benchmark": "a benchmark test has no recipe to price",
    }


def test_a_broken_plan_fails_the_dry_run(project: Project) -> None:
    broken = GPU_TESTS.replace("    perf.check(recipe())\n", "    perf.check(recipe(global_batch_size=100))\n")

    result = run_on_h100(project, "-k", "large", tests=broken)

    result.assert_outcomes(failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*global_batch_size=100 is not a multiple of*"])


def test_changes_are_priced_before_they_are_tried(project: Project) -> None:
    result = run_on_h100(project, "--perf-set=tp=4,pp=2", "-k", "large")

    result.stdout.fnmatch_lines(["cases are changed by --perf-set tp=4,pp=2", "* yes *%*"])
    assert dry_run_of(project)["changes"] == "tp=4,pp=2"


def test_the_expected_step_time_comes_from_the_stored_baseline(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(LocalLauncher, "launch", LAUNCH)
        project.run("--update-baselines").assert_outcomes(passed=1)

    result = project.run("--perf-dry-run")

    result.stdout.fnmatch_lines(["* 100 ms"])
    (case,) = dry_run_of(project)["cases"]
    assert case["price"]["expected"]["step_time_sec"] == pytest.approx(0.1)


def test_a_precision_that_can_not_run_here_is_priced_with_the_reason(project: Project) -> None:
    tests = GPU_TESTS.replace("perf.check(recipe())", 'perf.check(recipe(precision="mxfp8"))')

    result = run_on_h100(project, "-k", "large", tests=tests)

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["priced, but not runnable here:", "*needs compute capability 10.0*"])


@pytest.mark.parametrize("other", ["--update-baselines", "--perf-inject=20%"])
def test_options_of_real_runs_are_refused(project: Project, other: str) -> None:
    result = project.run("--perf-dry-run", other)

    assert f"--perf-dry-run with {other.partition('=')[0]}: nothing is launched" in usage_error(result)


def test_without_perf_tests_there_is_nothing_to_price(project: Project) -> None:
    result = project.pytester.runpytest_inprocess("--perf-dry-run")

    assert "--perf-dry-run needs perf tests to apply to: add -m perf" in usage_error(result)


def test_every_case_of_the_suite_is_asked_for_with_its_tolerances(project: Project) -> None:
    more = """
@pytest.mark.perf(tolerance=4)
def test_two(perf):
    perf.check(recipe(variant="a", tolerances={"peak_memory_gib": 7}))
    perf.check(recipe(variant="b"))

@pytest.mark.perf
def test_three(perf):
    assert perf.check(recipe(variant="c")).kind == "PASSED"
"""
    result = run_on_h100(project, tests=GPU_TESTS + more)

    result.assert_outcomes(skipped=6)
    dry_run = dry_run_of(project)
    case = "pretrain-llama3-8b-128n8g-torch-bf16-fsdp128tp8-seq8192-gbs1024-mbs1"
    assert {asked["case"]: asked["tolerances"]["peak_memory_gib"] for asked in dry_run["asked"]} == {
        case: 3,
        "loop-mine": 3,
        "bench-test_speed.test_benchmark": 3,
        f"{case}-a": 7,
        f"{case}-b": 4,
        f"{case}-c": 3,
    }
    assert dry_run["systems"] == ["cpu", "h100"]
    assert dry_run["gaps"] == []
