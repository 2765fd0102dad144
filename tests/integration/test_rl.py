"""Reinforcement learning from recipe to report; a program writes the records: no torch, no noise."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.conftest import Project, has_text

STEPS_SCRIPT = """
import json, os, pathlib
plan = json.loads(pathlib.Path(os.environ["NEMOPERF_PLAN"]).read_text())
told = json.loads(pathlib.Path(__file__).with_name("told.json").read_text())
seconds, length = told["seconds"], told["length"]
rl = plan["rl"]
samples = rl["num_prompts_per_step"] * rl["num_generations_per_prompt"]
stats = {"num_samples": samples, "num_prompt_tokens": samples * rl["prompt_len"],
         "num_response_tokens": samples * length, "num_truncated": 0, "generation_time_sec": seconds / 2,
         "batch_fill_pct": 100.0, "imbalance_pct": 0.0, "staleness_steps": 0, "num_rounds": 1, "reward_mean": 0.1,
         "reward_std": 0.3, "token_mult_prob_error": told["error"], "max_logprob_error": 0.01}
with open(os.environ["NEMOPERF_STEPS"], "w") as file:
    for step in range(plan["warmup_steps"] + plan["steps"]):
        record = {"step": step, "step_time_sec": seconds, "tokens": samples * (rl["prompt_len"] + length),
                  "phases": {"generation": seconds / 2, "training": seconds / 2}, "rollout": stats,
                  "loss": 0.001 * step}
        file.write(json.dumps(record) + "\\n")
"""

PERF_TEST = """
import pathlib, sys
import pytest
from pytest_nemoperf import RL, Layout, Recipe

RECIPE = Recipe(
    model="llama-tiny", layouts={{"cpu": Layout(gpus=2, dp_shard=2)}}, seq_len=64, global_batch_size=4,
    precision="fp32", framework="command", command=(sys.executable, str(pathlib.Path(__file__).with_name("rl.py"))),
    rl=RL(num_prompts_per_step=4, num_generations_per_prompt=2, prompt_len=16, max_response_len=24,
          response_lengths="{lengths}"),
)

@pytest.mark.perf
def test_rl(perf):
    perf.check(RECIPE)
"""

CASE = "grpo-llama-tiny-1n2g-command-fp32-fsdp2-gdp2-seq64-gbs4-mbs1-p4g2-in16out24"


def _write(project: Project, *, lengths: str = "fixed", **told: Any) -> None:
    (project.root / "test_speed.py").unlink(missing_ok=True)
    (project.root / "test_rl.py").write_text(PERF_TEST.format(lengths=lengths))
    (project.root / "rl.py").write_text(STEPS_SCRIPT)
    (project.root / "told.json").write_text(json.dumps({"seconds": 0.1, "length": 24, "error": 1.0} | told))


def test_a_slower_step_fails_with_its_phases(project: Project) -> None:
    _write(project)
    project.run("--update-baselines").assert_outcomes(passed=1)
    _write(project, seconds=0.2)

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            f"REGRESSED {CASE}",
            "tokens/sec/GPU is 50.0% below * (800 against 1,600; allows 10%, finds*",
            "*generation *50.00 *100.00 *+50.00 *50%",
            "*generation and training (shown, not judged)",
        ]
    )


def test_results_and_page_hold_the_figures(project: Project) -> None:
    _write(project)

    project.run().assert_outcomes(passed=1)

    (run,) = project.case()["measurement"]["runs"]
    assert run["metrics"]["mean_response_len"] == 24
    assert "### GRPO Performance on-policy." in (project.latest / "results.md").read_text()


def test_other_lengths_do_not_compare_unless_they_are_pinned(project: Project) -> None:
    _write(project, lengths="sampled", length=10)
    project.run("--update-baselines").assert_outcomes(passed=1)
    _write(project, lengths="sampled", length=20, seconds=0.2)

    result = project.run()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [f"NOT COMPARABLE {CASE}-sampled: 720 tokens/sec/GPU*"],
    )
    assert has_text(result, "--update-baselines replaces what is stored")
    assert has_text(result, "mean response length is 20 tokens, 10 tokens in the baseline (+100.0%, allowed 5.0%)")
    assert not (project.root / ".nemoperf" / "baselines").exists()


def test_lengths_that_left_the_band_do_not_become_the_next_baseline(project: Project) -> None:
    _write(project, lengths="sampled", length=10)
    project.run().assert_outcomes(passed=1)
    _write(project, lengths="sampled", length=20)

    sessions = [project.run() for _ in range(2)]

    for session in sessions:
        session.stdout.fnmatch_lines([f"NOT COMPARABLE {CASE}-sampled: *"])


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        pytest.param({"length": 23}, "run 1: step 3 has 312 tokens, 320 were asked for*", id="pinned lengths"),
        pytest.param({"error": 1.2}, "run 1: step 3: token_mult_prob_error is 1.2 (allowed 1.05)*", id="probabilities"),
    ],
)
def test_a_run_that_did_something_else_is_invalid(project: Project, told: dict[str, Any], reason: str) -> None:
    _write(project, **told)

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"INVALID {CASE}: {reason}"])


def test_a_layout_can_be_tried_and_priced(project: Project) -> None:
    _write(project)

    project.run("--perf-dry-run", "--perf-set", "gpus=4,tp=2").assert_outcomes(skipped=1)

    (case,) = json.loads((project.latest / "dry_run.json").read_text())["cases"]
    assert case["price"]["plan"]["layout"]["generation"]["gpus"] == 4
    assert case["price"]["generation"]["num_slots"] == 2
