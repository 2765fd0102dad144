"""Metrics that a recipe asks for: refused in words before a launch, or measured, stored and shown."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Project

NATIVE = """
import pytest
from pytest_nemoperf import Layout, ModelConfig, Recipe

MODEL = ModelConfig(name="speck", hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=16,
                    ffn_hidden_size=64, vocab_size=64)

@pytest.mark.perf
def test_speck(perf):
    perf.check(Recipe(model=MODEL, layouts={{"cpu": Layout(gpus=1)}}, seq_len=16, global_batch_size=2, steps=4,
                      precision="fp32", warmup_steps=2, extra_metrics={extra}))
"""
ALL = (
    "time_to_first_step_sec",
    "compile_time_sec",
    "checkpoint_save_sec",
    "checkpoint_async_save_sec",
    "checkpoint_load_sec",
)


def ask_for(project: Project, *names: str) -> None:
    project.edit("test_speed.py", {'precision="fp32",': f'precision="fp32", extra_metrics={names},'})


def test_a_checkpoint_without_a_folder_is_refused_before_anything_is_launched(project: Project) -> None:
    project.pytester.makepyfile(test_speed=NATIVE.format(extra=("checkpoint_save_sec",)))

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*extra_metrics=checkpoint_save_sec*no folder*--perf-checkpoint-dir=DIR*"])
    assert not list(project.root.glob(".nemoperf/runs/*/*/run-*"))


def test_a_folder_of_the_ini_file_is_looked_up_in_the_root_directory(project: Project) -> None:
    project.pytester.makepyfile(test_speed=NATIVE.format(extra=("checkpoint_save_sec",)))
    project.edit("tox.ini", {"perf_runs = 1\n": "perf_runs = 1\nperf_checkpoint_dir = disk\n"})

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*there is no folder {project.root}/disk for its checkpoint*"])


def test_a_framework_that_times_no_checkpoints_is_skipped_with_words(project: Project) -> None:
    ask_for(project, "checkpoint_load_sec")

    result = project.run("--perf-checkpoint-dir=.", "-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*framework command does not time checkpoints*framework='torch'*"])


def test_a_first_step_that_a_command_tells_at_its_end_is_not_known(project: Project) -> None:
    ask_for(project, "time_to_first_step_sec")

    result = project.run("--perf-fail-on=none")

    result.assert_outcomes(passed=1)
    (run,) = project.case()["measurement"]["runs"]
    assert "time_to_first_step_sec" not in run["metrics"]
    result.stdout.fnmatch_lines(["*time to first step n/a: no step was seen to end while the run went on*"])


@pytest.mark.ranks
def test_ranks_measure_what_is_asked_for_and_leave_no_checkpoint(project: Project) -> None:
    project.pytester.makepyfile(test_speed=NATIVE.format(extra=ALL))
    (project.root / "disk").mkdir()

    result = project.run("--perf-checkpoint-dir=disk", "--perf-fail-on=none")

    result.assert_outcomes(passed=1)
    (run,) = project.case()["measurement"]["runs"]
    assert {*ALL} - run["metrics"].keys() == {"compile_time_sec"}  # nothing is compiled
    assert run["metrics"]["checkpoint_gib"] > 0
    assert not list((project.root / "disk").iterdir())
    result.stdout.fnmatch_lines(["energy, start-up and checkpoints", "*compile time n/a: the recipe has is_compiled=*"])
