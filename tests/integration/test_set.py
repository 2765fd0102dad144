"""--perf-set: run the selected cases under another layout or batch."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Project, has_text, usage_error

CHANGED = "pretrain-llama-tiny-1n1g-command-fp32-single-seq64-gbs4-mbs2+set"
TWO_TESTS = """
import pathlib, sys
import pytest
from pytest_nemoperf import Layout, Recipe

@pytest.mark.perf(runs=2)
@pytest.mark.parametrize("layout", [Layout(gpus=2, tp=2), Layout(gpus=2, dp_shard=2)], ids=["tp2", "fsdp2"])
def test_speed(perf, layout):
    perf.check(Recipe(
        model="llama-tiny", layouts={"cpu": layout}, seq_len=64, global_batch_size=4, precision="fp32",
        framework="command", command=(sys.executable, str(pathlib.Path(__file__).with_name("steps.py"))),
    ))
"""
LOOP_TEST = """
import time
import pytest

@pytest.mark.perf
def test_loop(perf):
    with perf.measure("mine", tokens_per_step=8, steps=4, warmup_steps=2) as steps:
        for step in steps:
            time.sleep(0.01)
"""


def test_a_changed_case_has_an_id_and_a_baseline_of_its_own(project: Project) -> None:
    project.run("--update-baselines").assert_outcomes(passed=1)
    stored = project.baseline.read_bytes()

    first = project.run("--perf-set", "mbs=2")
    project.set_step_time(0.2)
    second = project.run("--perf-set", "mbs=2")

    first.assert_outcomes(passed=1)
    first.stdout.fnmatch_lines([f"NO BASELINE {CHANGED}:*"])
    second.assert_outcomes(failed=1)
    second.stdout.fnmatch_lines([f"REGRESSED {CHANGED}:*"])
    assert project.baseline.read_bytes() == stored
    assert list(project.baseline.parent.iterdir()) == [project.baseline]


def test_the_changed_values_reach_the_plan_of_one_launch(project: Project) -> None:
    project.pytester.makeini("[pytest]\nperf_runs = 3\n")

    project.run("--perf-set=mbs=2", "--perf-set=seq_len=128,gbs=8")

    plan = project.case()["plan"]
    assert (plan["micro_batch_size"], plan["seq_len"], plan["global_batch_size"]) == (2, 128, 8)
    assert len(project.case()["measurement"]["runs"]) == 1


def test_perf_runs_asks_for_more_launches(project: Project) -> None:
    project.run("--perf-set=mbs=2", "--perf-runs=2")

    assert len(project.case()["measurement"]["runs"]) == 2


def test_data_parallel_ranks_follow_and_equal_cases_run_once(project: Project) -> None:
    project.pytester.makepyfile(test_speed=TWO_TESTS)

    result = project.run("--perf-set", "tp=2,dp_shard=1")

    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "*under --perf-set this is the case",
            "*-tp2-*+set of",
            "*test_speed.py::test_speed?tp2?, which runs it already",
        ]
    )
    case = project.case()
    assert (case["plan"]["layout"]["tp"], case["plan"]["layout"]["gpus"]) == (2, 2)
    assert len(case["measurement"]["runs"]) == 1


def test_a_loop_has_no_recipe_to_change_and_runs_unchanged(project: Project) -> None:
    project.pytester.makepyfile(test_speed=LOOP_TEST)

    result = project.run("--perf-set", "mbs=2")  # its verdict may be any

    result.stdout.fnmatch_lines(["perf: loop-mine runs as ever: --perf-set changes recipes*"])
    assert project.case()["measurement"]["case"] == "loop-mine"


def test_the_header_and_the_command_to_rerun_name_the_changes(project: Project) -> None:
    project.run("--perf-set", "mbs=2")
    project.set_step_time(0.2)

    result = project.run("--perf-set", "mbs=2")

    result.stdout.fnmatch_lines(["perf: recipes are changed by --perf-set mbs=2*", "*--perf-set=mbs=2 *"])
    assert not has_text(result, "--perf-accept")


def test_degrees_that_do_not_share_out_the_ranks_fail_with_the_arithmetic(project: Project) -> None:
    result = project.run("--perf-set", "tp=2")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*gpus=1 is not a multiple of * (2[*]1[*]1[*]1=2), and*"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--perf-set=ttp=2"], "--perf-set: unknown key 'ttp'; did you mean"),
        (["--perf-set=tp"], "--perf-set: 'tp' is not KEY=VALUE; write e.g."),
        (["--perf-set=tp=x"], "--perf-set: tp=x must be a whole number >= 1"),
        (["--perf-set=precision=fp8"], "--perf-set: unknown precision 'fp8'; did you mean"),
        (["--perf-set=tp=2,tp=4"], "--perf-set: tp is given twice; give each key once"),
        (["--perf-set=compiled=1"], "--perf-set: compiled=1 must be true or false"),
        (["--perf-set=mbs=2", "--update-baselines"], "--perf-set with --update-baselines: a trial is never stored"),
    ],
)
def test_values_that_can_not_be_honoured_are_a_usage_error(project: Project, args: list[str], message: str) -> None:
    assert message in usage_error(project.run(*args))


def test_without_perf_tests_there_is_nothing_to_change(project: Project) -> None:
    result = project.pytester.runpytest_inprocess("--perf-set=tp=2")

    assert "--perf-set needs perf tests to apply to: add -m perf" in usage_error(result)


def test_a_trial_says_that_what_its_reasons_recommend_to_store_needs_another_session(project: Project) -> None:
    project.run("--perf-set=mbs=2", "--perf-tolerance=0.5")

    project.run("--perf-set=mbs=2", "--perf-tolerance=0.5")

    reasons = project.case()["verdict"]["reasons"]
    assert "--update-baselines" in " ".join(reasons[:-1])
    assert reasons[-1] == "--update-baselines is for a session without --perf-set, which stores no baseline"
    assert "unstored_by" not in str(project.case())
