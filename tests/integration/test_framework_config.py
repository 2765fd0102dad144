"""A framework's own recipe file: a shell script of Megatron-LM, whose training is a few lines here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.builders import git_in
from tests.frameworks.megatron_files import write_text
from tests.integration.conftest import NOISE, Project, has_text

TRAINING = """
import datetime, pathlib, sys
words = sys.argv[1:]
given = {word: words[at + 1] for at, word in enumerate(words[:-1]) if word.startswith("--")}
seconds = float(pathlib.Path(__file__).with_name("speed.txt").read_text())
pathlib.Path(__file__).with_name("words.json").write_text(__import__("json").dumps(words))
now = datetime.datetime(2026, 1, 1)
for step in range(1, int(given["--train-iters"]) + 1):
    now += datetime.timedelta(seconds=seconds)
    print(
        f" [{now:%Y-%m-%d %H:%M:%S.%f}] iteration {step:8d}/{given['--train-iters']} | consumed samples: {4 * step} | "
        f"elapsed time per iteration (ms): {seconds * 1000:.1f} | global batch size: {given['--global-batch-size']} | "
        f"lm loss: {7 - step / 8:.6E} | grad norm: 1.500 | number of skipped iterations: 0 | "
        f"number of nan iterations: 0 |",
        flush=True,
    )
"""
SCRIPT = """\
#!/bin/bash
set -e
OUT=out
mkdir -p $OUT
ARGS=(--num-layers 2 --hidden-size 64 --num-attention-heads 4 --max-position-embeddings 64 --vocab-size 1000)
ARGS+=(--seq-length 64 --micro-batch-size 1 --global-batch-size ${BATCH:-4} --train-iters 500 --save $OUT/checkpoints)
python pretrain_gpt.py "${ARGS[@]}"
"""
TESTS = """
import sys
import pytest
from pytest_nemoperf import Recipe

def recipe(**changes):
    return Recipe(framework="megatron_lm", framework_config="train.sh", gpus={"cpu": 1, "h100": 4},
                  python=sys.executable, **changes)

@pytest.mark.perf
@pytest.mark.parametrize("options", [{}, {"overlap-grad-reduce": True}], ids=["plain", "overlap"])
def test_training(perf, options):
    perf.check(recipe(framework_options={"script_may_run": True, **options}))
"""
CASE = "pretrain-gpt-l2-h64-1n1g-megatron_lm-fp32-single-seq64-gbs4-mbs1-train"


@pytest.fixture
def checkout(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Make the project a checkout of Megatron-LM with a launch script."""
    write_text(project.root / "train.sh", SCRIPT)
    write_text(project.root / "pretrain_gpt.py", TRAINING)
    write_text(project.root / "test_speed.py", TESTS)
    project.pytester.makeini(f"[pytest]\nperf_runs = 1\nperf_budget = 0\n{NOISE}")
    monkeypatch.chdir(project.root)
    return project


def cases_of(project: Project) -> dict[str, dict[str, Any]]:
    """Return the cases of the last session by name."""
    return {case["plan"]["case"]: case for case in project.results()["cases"]}


def test_a_script_is_measured_as_it_is_with_and_without_an_option(checkout: Project) -> None:
    result = checkout.run("--update-baselines")

    result.assert_outcomes(passed=2)
    cases = cases_of(checkout)
    assert set(cases) == {CASE, f"{CASE}.overlap_grad_reduce"}
    plan = cases[CASE]["plan"]
    assert (plan["seq_len"], plan["global_batch_size"], plan["framework_config"]) == (64, 4, "train.sh")
    assert len(plan["framework_config_digest"]) == 16
    words = json.loads((checkout.root / "words.json").read_text(encoding="utf-8"))
    assert words[-1] == "--overlap-grad-reduce"
    assert "--save" not in words
    assert not (checkout.root / "out" / "checkpoints").exists()


def test_a_script_that_sets_its_search_path_runs_the_steps_of_the_plan(checkout: Project) -> None:
    place = Path(sys.executable).parent
    checkout.edit("train.sh", {"python pretrain_gpt": f"export PATH={place}:$PATH\nexec python pretrain_gpt"})

    checkout.run("-k", "plain").assert_outcomes(passed=1, deselected=1)

    words = json.loads((checkout.root / "words.json").read_text(encoding="utf-8"))
    plan = cases_of(checkout)[CASE]["plan"]
    given = {word: words[at + 1] for at, word in enumerate(words[:-1])}
    assert given["--train-iters"] == str(plan["warmup_steps"] + plan["steps"])
    assert "--save" not in words


def test_a_training_around_the_wrappers_is_no_measurement(checkout: Project) -> None:
    text = '[ -v NEMOPERF_NOTES ] || shopt -s expand_aliases\nalias python="$PYTHON"\npython pretrain_gpt'
    checkout.edit("train.sh", {"python pretrain_gpt": text})
    checkout.edit("test_speed.py", {"python=sys.executable": 'python=sys.executable, env={"PYTHON": sys.executable}'})

    result = checkout.run("-k", "plain")

    result.assert_outcomes(failed=1, deselected=1)
    assert has_text(result, "framework_config=train.sh started its training around the wrappers that give it the steps")


def test_a_script_without_permission_does_not_run(checkout: Project) -> None:
    checkout.edit("test_speed.py", {'"script_may_run": True, ': ""})

    result = checkout.run("-k", "plain", "--perf-dry-run")

    assert has_text(result, "allow that by framework_options={'script_may_run': True}, or name a YAML or text file of")
    assert not (checkout.root / "words.json").exists()


def test_a_slower_script_is_a_regression(checkout: Project) -> None:
    checkout.run("--update-baselines").assert_outcomes(passed=2)
    checkout.set_step_time(0.2)

    result = checkout.run("-k", "plain")

    result.assert_outcomes(failed=1, deselected=1)
    result.stdout.fnmatch_lines([f"REGRESSED {CASE}:*"])


def test_a_changed_file_is_another_workload(checkout: Project) -> None:
    checkout.run("--update-baselines", "-k", "plain").assert_outcomes(passed=1, deselected=1)
    script = checkout.root / "train.sh"
    write_text(script, script.read_text(encoding="utf-8").replace("--vocab-size 1000", "--vocab-size 1000 --swiglu"))

    result = checkout.run("-k", "plain")

    result.stdout.fnmatch_lines([f"NOT COMPARABLE {CASE}:*"])
    assert has_text(result, "other workload: framework_config: digest is '")


def test_nothing_is_changed_by_perf_set(checkout: Project) -> None:
    result = checkout.run("--perf-set", "mbs=2", "-rs")

    result.assert_outcomes(skipped=2)
    assert has_text(result, "--perf-set mbs=2 can't change framework_config=train.sh, which runs as it is; give the")


def test_a_dry_run_reads_the_file_and_starts_nothing(checkout: Project) -> None:
    result = checkout.pytester.runpytest_inprocess("-m", "perf", "--system=h100", "--perf-dry-run", "-v")

    assert has_text(result, CASE.replace("1n1g", "1n4g").replace("single", "ddp4"))
    assert not (checkout.root / "words.json").exists()
    assert not (checkout.root / "out").exists()


def test_a_file_that_does_not_tell_enough_is_told(checkout: Project) -> None:
    checkout.edit("train.sh", {"--vocab-size 1000": "--tokenizer-type Other", "--seq-length 64": ""})

    result = checkout.run("-k", "plain")

    result.assert_outcomes(failed=1, deselected=1)
    assert has_text(result, "framework_config=train.sh does not tell model (the vocabulary is that of --tokenizer-type")
    assert has_text(result, "and seq_len (--seq-length is not set): give model=, seq_len= in the recipe")


def test_variables_of_the_recipe_reach_the_script(checkout: Project) -> None:
    checkout.edit("test_speed.py", {"python=sys.executable": 'python=sys.executable, env={"BATCH": "8"}'})

    checkout.run("-k", "plain").assert_outcomes(passed=1, deselected=1)

    assert list(cases_of(checkout)) == [CASE.replace("gbs4", "gbs8")]


def test_each_side_of_a_comparison_runs_its_own_script(checkout: Project) -> None:
    git_in(checkout.root, "init", "--quiet", "--initial-branch=main")
    git_in(checkout.root, "add", ".")
    git_in(checkout.root, "commit", "--quiet", "--message=all")
    checkout.set_step_time(0.12)

    result = checkout.run("--perf-ab", "main", "-k", "overlap")

    result.assert_outcomes(failed=1, deselected=1)
    result.stdout.fnmatch_lines(
        [f"REGRESSED {CASE}.overlap_grad_reduce:*", "tokens/sec/GPU is 16.7% below old (main, *"]
    )
