"""Steps of varying token counts: INVALID unless they are declared."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Project, has_text

STEPS = """
import json, os, pathlib, random
plan = json.loads(pathlib.Path(os.environ["NEMOPERF_PLAN"]).read_text())
speed, most, *_ = json.loads(pathlib.Path(__file__).with_name("speed.txt").read_text())
lengths = random.Random(plan["seed"])
with open(os.environ["NEMOPERF_STEPS"], "w") as file:
    for step in range(plan["warmup_steps"] + plan["steps"]):
        tokens = sum(lengths.randint(8, most) for _ in range(plan["global_batch_size"]))
        record = {"step": step, "step_time_sec": (0.01 + 1e-4 * tokens) * speed, "tokens": tokens}
        file.write(json.dumps(record) + "\\n")
"""

LOOP = """
import time
import pytest

@pytest.mark.perf
def test_loop(perf):
    with perf.measure("mine", tokens_per_step=60, steps=6, warmup_steps=2, {declared}) as steps:
        for step in steps:
            tokens = (60, 20, 40, 50, 30, 20, 60, 40)[step.index]
            time.sleep(tokens * 1e-4 * {factor})
            step.record(tokens={tokens})
"""
DECLARED = "has_varying_lengths=True"
CASE = "pretrain-llama-tiny-1n1g-command-fp32-single-seq64-gbs4-mbs1-varlen"


def set_speed(project: Project, *, factor: float = 1.0, longest: int = 64) -> None:
    (project.root / "speed.txt").write_text(f"[{factor}, {longest}]")


@pytest.fixture
def varying(project: Project) -> Project:
    """Return a project that trains sequences of varying length, and declares it."""
    (project.root / "steps.py").write_text(STEPS)
    set_speed(project)
    project.edit("test_speed.py", {"seq_len=64,": f"seq_len=64, {DECLARED},"})
    return project


def test_lengths_that_vary_are_judged_if_they_are_declared(varying: Project) -> None:
    varying.run("--update-baselines").assert_outcomes(passed=1)
    same = varying.run()
    set_speed(varying, factor=3.0)

    slower = varying.run()

    same.stdout.fnmatch_lines([f"*PASSED {CASE}*"])
    slower.assert_outcomes(failed=1)
    slower.stdout.fnmatch_lines(["tokens/sec/GPU is 66.7% below the baseline*"])


def test_other_lengths_do_not_compare(varying: Project) -> None:
    varying.run("--update-baselines")
    set_speed(varying, longest=48)

    result = varying.run("--perf-fail-on=not_comparable")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["mean number of tokens per step is * tokens in the baseline*"])


def test_lengths_that_vary_and_are_not_declared_are_invalid(varying: Project) -> None:
    varying.edit("test_speed.py", {f" {DECLARED},": ""})

    result = varying.run()

    result.assert_outcomes(failed=1)
    assert has_text(result, "INVALID")
    assert has_text(result, "256 were asked for (global_batch_size*seq_len")
    assert has_text(result, "has_varying_lengths=True")


def test_a_step_longer_than_its_sequences_may_be_is_invalid(varying: Project) -> None:
    set_speed(varying, longest=200)

    result = varying.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*tokens, 256 are the most there can be*"])


def test_a_dry_run_prices_the_most_there_can_be(varying: Project) -> None:
    result = varying.run("--perf-dry-run", "-v")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines([f"*{CASE}*"])


def test_a_loop_whose_lengths_vary_is_judged_by_the_tokens_its_steps_record(project: Project) -> None:
    source = {"declared": DECLARED, "tokens": "tokens"}
    project.pytester.makepyfile(test_speed=LOOP.format(**source, factor=1))
    project.run("--update-baselines").assert_outcomes(passed=1)
    project.pytester.makepyfile(test_speed=LOOP.format(**source, factor=6))

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*REGRESSED*loop-mine*"])


@pytest.mark.parametrize(
    ("declared", "tokens", "message"),
    [
        pytest.param(DECLARED, "None", "*step 0 says nothing of its tokens*", id="not recorded"),
        pytest.param(DECLARED, "0", "*step 0: tokens=0 must be a whole number >= 1*", id="none"),
        pytest.param(DECLARED, "61", "*step 2 has 61 tokens, 60 are the most there can be*", id="too many"),
        pytest.param("", "tokens", "*step 2 has 40 tokens, 60 were asked for*", id="not declared"),
        pytest.param(
            "has_varying_lengths='no'", "tokens", "*has_varying_lengths='no' must be True or False*", id="word"
        ),
        pytest.param(
            f"{DECLARED}, flops_per_token=6.0", "tokens", "*flops_per_token=6.0 * FLOPs per token grow*", id="FLOPs"
        ),
    ],
)
def test_a_loop_whose_tokens_are_not_recorded_or_not_as_declared_fails(
    project: Project, declared: str, tokens: str, message: str
) -> None:
    project.pytester.makepyfile(test_speed=LOOP.format(declared=declared, tokens=tokens, factor=1))

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([message])
