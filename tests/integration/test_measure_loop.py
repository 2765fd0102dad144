from __future__ import annotations

import json

import pytest

from pytest_nemoperf.records.health import MAX_FOREIGN_SHARE
from pytest_nemoperf.runs.passes import MIN_PASS_SEC
from tests.integration.conftest import Project, has_text

LOOP = """
import time
import pytest

@pytest.mark.perf
def test_loop(perf):
    with perf.measure("sleeper", tokens_per_step=100, steps=6, warmup_steps=2, flops_per_token=1e6,
                      flops_convention="full-attention") as steps:
        for step in steps:
            time.sleep(0.01)
            step.record(loss={loss})
"""


def test_a_loop_of_ones_own_is_a_case(project: Project) -> None:
    project.pytester.makepyfile(test_speed=LOOP.format(loss="1.0"))

    result = project.run("--update-baselines")

    result.assert_outcomes(passed=1)
    stored = json.loads((project.root / "baselines" / "cpu" / "loop-sleeper.json").read_text())
    (run,) = stored["runs"]
    assert 0 < run["metrics"]["tokens_per_sec_per_gpu"] < 100 / 0.01
    assert run["metrics"]["tflops_per_sec_per_gpu"] > 0


def test_a_loop_whose_loss_is_not_finite_is_invalid(project: Project) -> None:
    project.pytester.makepyfile(test_speed=LOOP.format(loss="float('nan')"))

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*INVALID*loss is not finite*"])


def test_an_error_in_the_loop_is_the_tests_own(project: Project) -> None:
    project.pytester.makepyfile(test_speed=LOOP.format(loss="1 / 0"))

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ZeroDivisionError*"])


def test_a_loop_measured_once_a_session_gathers_its_baseline_from_session_to_session(project: Project) -> None:
    project.pytester.makeini("[pytest]\nperf_runs = 3\n")
    project.pytester.makepyfile(test_speed=LOOP.format(loss="1.0"))

    for _ in range(4):
        project.run("--perf-tolerance=99")  # whatever else the machine does

    (path,) = (project.root / ".nemoperf" / "baselines").rglob("loop-sleeper.json")
    assert len(json.loads(path.read_text())["runs"]) == 3


TRACED = """
import sys, threading
import pytest

@pytest.mark.perf
def test_loop(perf):
    sys.settrace(lambda *_: None)
    try:
        with perf.measure("traced", tokens_per_step=100) as steps:
            for step in steps:
                sum(range(1000))
    finally:
        sys.settrace(None)
"""


@pytest.mark.parametrize("option", [(), ("--update-baselines",)], ids=["judging", "recording"])
def test_a_loop_under_a_tracer_is_invalid_and_never_stored(project: Project, option: tuple[str, ...]) -> None:
    project.pytester.makepyfile(test_speed=TRACED)

    result = project.run_apart(*option)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["INVALID*test_speed (sys.settrace) was active *run without it*"])
    assert not list(project.root.rglob("loop-traced.json"))


def test_a_busy_neighbour_makes_a_loop_invalid_and_names_it(
    project: Project, busy_neighbour: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_nemoperf.records.health.MAX_FOREIGN_SHARE", MAX_FOREIGN_SHARE)  # as users have them
    monkeypatch.setattr("pytest_nemoperf.plugin.fixture.MIN_PASS_SEC", MIN_PASS_SEC)
    project.pytester.makepyfile(test_speed=LOOP.format(loss="1.0").replace("time.sleep(0.01)", "sum(range(200_000))"))

    result = project.run("--update-baselines")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*pass 1 of loop-sleeper is dropped *: other processes took *"])
    assert has_text(result, f"yes (process {busy_neighbour})")
    assert not list(project.root.rglob("loop-sleeper.json"))


LOOP_OF = """
import pathlib
import time
import pytest

@pytest.mark.perf
def test_loop(perf):
    with perf.measure("sleeper", tokens_per_step=100, steps=4, warmup_steps=2, workload={workload}) as steps:
        for step in steps:
            pathlib.Path("began").touch()
            time.sleep({seconds})
"""

BY_HAND = """
import pytest
from pytest_nemoperf.measure.measurement import Measurement, Run

@pytest.mark.perf
def test_mine(perf):
    run = Run(metrics={{"tokens_per_sec_per_gpu": {rate}}}, num_steps=10, step_time_mad_pct=1.0)
    perf.compare(Measurement(case="mine", system="cpu", workload={workload}, runs=(run, run)))
"""


def test_a_loop_whose_workload_holds_a_tuple_compares_with_its_baseline(project: Project) -> None:
    workload = '{"shape": (32, 128), "of": {"kernels": ("a", "b")}}'
    project.pytester.makepyfile(test_speed=LOOP_OF.format(workload=workload, seconds=0.002))
    project.run("--update-baselines")
    project.pytester.makepyfile(test_speed=LOOP_OF.format(workload=workload, seconds=0.02))

    result = project.run("--perf-fail-on=not_comparable,no_baseline,regressed,inconclusive")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*tokens/sec/GPU is *% below the baseline*"])


def test_a_measurement_made_by_hand_compares_with_its_baseline(project: Project) -> None:
    project.pytester.makepyfile(test_speed=BY_HAND.format(workload='{"shape": (32, 128)}', rate=100))
    project.run("--update-baselines")

    result = project.run("--perf-fail-on=not_comparable,no_baseline")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*PASSED*mine*"])


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        pytest.param('{"data": pathlib.Path("x")}', r"*RecipeError: workload?'data'?=PosixPath('x')*", id="a path"),
        pytest.param('{"tokens_per_step": 5}', r"*RecipeError: workload?'tokens_per_step'?=5: the plugin*", id="own"),
    ],
)
def test_a_workload_that_can_not_be_stored_is_refused_before_the_loop(
    project: Project, workload: str, message: str
) -> None:
    project.pytester.makepyfile(test_speed=LOOP_OF.format(workload=workload, seconds=0.002))

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([message])
    assert not (project.root / "began").exists()


def test_a_measurement_made_by_hand_of_a_workload_that_can_not_be_stored_is_refused(project: Project) -> None:
    project.pytester.makepyfile(test_speed=BY_HAND.format(workload='{"lr": float("nan")}', rate=100))

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*RecipeError: workload?'lr'?=nan must be finite*"])
