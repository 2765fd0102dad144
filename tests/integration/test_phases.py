"""Phases of reinforcement learning, judged: a program writes the records: no torch, no noise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.integration.conftest import Project, has_text, usage_error

STEPS_SCRIPT = """
import json, os, pathlib
plan = json.loads(pathlib.Path(os.environ["NEMOPERF_PLAN"]).read_text())
told = json.loads(pathlib.Path(__file__).with_name("told.json").read_text())
seconds = sum(told["phases"].values())
rl = plan["rl"]
samples = rl["num_prompts_per_step"] * rl["num_generations_per_prompt"]
stats = {"num_samples": samples, "num_prompt_tokens": samples * rl["prompt_len"],
         "num_response_tokens": samples * rl["max_response_len"], "num_truncated": 0,
         "generation_time_sec": told["generating"], "batch_fill_pct": 100.0, "imbalance_pct": 0.0,
         "staleness_steps": 0, "num_rounds": 1, "reward_mean": 0.1, "reward_std": 0.3,
         "token_mult_prob_error": 1.0, "max_logprob_error": 0.01,
         "refit_bytes": 2**20, "refit_time_sec": told["phases"]["refit"]}
with open(os.environ["NEMOPERF_STEPS"], "w") as file:
    for step in range(plan["warmup_steps"] + plan["steps"]):
        record = {"step": step, "step_time_sec": seconds, "tokens": plan["tokens_per_step"],
                  "phases": told["phases"], "rollout": stats, "loss": 0.001 * step}
        file.write(json.dumps(record) + "\\n")
"""

PERF_TEST = """
import pathlib, sys
import pytest
from pytest_nemoperf import RL, Layout, Recipe

RECIPE = Recipe(
    model="llama-tiny", layouts={{"cpu": Layout(gpus=2, dp_shard=2)}}, seq_len=64, global_batch_size=4,
    precision="fp32", framework="command", command=(sys.executable, str(pathlib.Path(__file__).with_name("rl.py"))),
    rl=RL(num_prompts_per_step=4, num_generations_per_prompt=2, prompt_len=16, max_response_len=24),
    tolerances={tolerances},
)

@pytest.mark.perf{marker}
def test_rl(perf):
    perf.check(RECIPE)
"""

CASE = "grpo-llama-tiny-1n2g-command-fp32-fsdp2-gdp2-seq64-gbs4-mbs1-p4g2-in16out24"

IN_TURNS = {"generation": 0.05, "training": 0.045, "refit": 0.005}
OVERLAPPING = {"exposed_generation": 0.001, "training": 0.094, "refit": 0.005}


def _write(
    project: Project,
    phases: Mapping[str, float],
    *,
    generating: float = 0.05,
    tolerances: Mapping[str, float] | None = None,
    marker: str = "",
) -> None:
    (project.root / "test_speed.py").unlink(missing_ok=True)
    (project.root / "test_rl.py").write_text(PERF_TEST.format(tolerances=tolerances or {}, marker=marker))
    (project.root / "rl.py").write_text(STEPS_SCRIPT)
    (project.root / "told.json").write_text(json.dumps({"generating": generating, "phases": phases}))


def _store(project: Project, phases: Mapping[str, float], *, generating: float = 0.05) -> None:
    _write(project, phases, generating=generating)
    project.run("--update-baselines").assert_outcomes(passed=1)


def _reasons(project: Project) -> list[str]:
    """Return the reasons but those that every case of one session outside of git has."""
    told = []
    for reason in project.case()["verdict"]["reasons"]:
        if not reason.startswith(("the baseline is of one session", "not compared side by side")):
            told.append(reason)
    return told


def test_a_loss_of_generation_fails_once_and_names_it(project: Project) -> None:
    _store(project, IN_TURNS)
    _write(project, {**IN_TURNS, "generation": 0.1}, generating=0.1)

    result = project.run("--junitxml=report.xml")

    result.assert_outcomes(failed=1)
    assert has_text(result, f"REGRESSED {CASE} generation is the cause: 3,200 -> 1,600 tokens/sec/GPU of generation")
    result.stdout.fnmatch_lines(
        [
            "*tokens/sec/GPU *1,600 *1,067 * REGRESSED",
            "*generation *3,200 *1,600 * its cause",
            "*training *3,556 *3,556 * PASSED",
        ]
    )
    assert len(_reasons(project)) == 1
    report = (project.root / "report.xml").read_text()
    assert report.count("nemoperf_generation_tokens_per_sec_per_gpu_now") == 1
    assert 'name="nemoperf_generation_tokens_per_sec_per_gpu_verdict" value="REGRESSED"' in report
    assert 'name="nemoperf_reason" value="generation is the cause: 3,200 -&gt; 1,600 tokens/sec/GPU' in report


def test_a_loss_of_refit_passes_unless_a_tolerance_is_named(project: Project) -> None:
    _store(project, IN_TURNS)
    _write(project, {**IN_TURNS, "refit": 0.008})

    project.run().assert_outcomes(passed=1)
    project.run("--perf-tolerance=10").assert_outcomes(passed=1)
    result = project.run("--perf-tolerance=refit_time_sec=10")

    result.assert_outcomes(failed=1)
    assert has_text(result, "refit time is 60.0% above the baseline (8 ms against 5 ms; allows 10%,")
    assert len(_reasons(project)) == 1


@pytest.mark.parametrize(
    "told",
    [
        pytest.param({"tolerances": {"refit_time_sec": 10}}, id="recipe"),
        pytest.param({"marker": '(tolerances={"refit_time_sec": 10})'}, id="marker"),
    ],
)
def test_a_recipe_or_a_marker_may_name_it(project: Project, told: dict[str, Any]) -> None:
    _store(project, IN_TURNS)
    _write(project, {**IN_TURNS, "refit": 0.008}, **told)

    result = project.run()

    result.assert_outcomes(failed=1)
    assert has_text(result, "refit time is 60.0% above the baseline")


def test_the_ini_file_may_name_it_and_a_tolerance_for_all_leaves_it(project: Project) -> None:
    _store(project, IN_TURNS)
    ini = project.root / "tox.ini"
    ini.write_text(ini.read_text() + "\nperf_tolerance = refit_time_sec=10\n")
    _write(project, {**IN_TURNS, "refit": 0.008})

    result = project.run("--perf-tolerance=30")

    result.assert_outcomes(failed=1)
    assert has_text(result, "(8 ms against 5 ms; allows 10%,")


def test_an_unknown_phase_is_refused(project: Project) -> None:
    message = usage_error(project.run("--perf-tolerance=refit_sec=10"))

    assert "'refit_sec' is not a judged metric; did you mean refit_time_sec?" in message


def test_a_loss_that_overlap_hides_fails_once_and_names_its_phase(project: Project) -> None:
    _store(project, OVERLAPPING)
    _write(project, OVERLAPPING, generating=0.09)

    result = project.run()

    result.assert_outcomes(failed=1)
    (reason,) = _reasons(project)
    assert reason.startswith("generation is 44.4% below the baseline")
    assert reason.endswith("the whole step is PASSED: tokens/sec/GPU +0.0%")


def test_generation_that_training_waits_for_fails_once_and_names_it(project: Project) -> None:
    _store(project, OVERLAPPING, generating=0.09)
    _write(project, {**OVERLAPPING, "exposed_generation": 0.08}, generating=0.18)

    result = project.run("--perf-tolerance=exposed_generation_sec=50")

    result.assert_outcomes(failed=1)
    (reason,) = _reasons(project)
    assert reason.startswith(
        "generation is the cause: 1,778 -> 889 tokens/sec/GPU of generation (-50.0%); tokens/sec/GPU"
    )
    result.stdout.fnmatch_lines(["*exposed generation *1 ms *80 ms * its effect"])


def test_stored_runs_are_judged_by_their_phases_too(project: Project) -> None:
    _store(project, OVERLAPPING)
    _write(project, OVERLAPPING, generating=0.09)
    project.run().assert_outcomes(failed=1)
    (judged,) = _reasons(project)
    session = max((project.root / ".nemoperf" / "runs").iterdir())

    result = project.run(f"--perf-replay={session}")

    result.assert_outcomes(failed=1)
    assert _reasons(project) == [judged]
