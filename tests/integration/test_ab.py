"""--perf-ab: the working tree beside another revision of the same repository."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import CASE, PERF_TEST, Project

LOOP_AND_BENCHMARK = """
import pytest

@pytest.mark.perf
def test_loop(perf):
    with perf.measure("mine", tokens_per_step=8) as steps:
        raise AssertionError("ran")

@pytest.mark.perf
def test_benchmark(benchmark):
    raise AssertionError("ran")
"""
NATIVE = """
import pytest
from pytest_nemoperf import Layout, ModelConfig, Recipe

MODEL = ModelConfig(name="speck", hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=16,
                    ffn_hidden_size=64, vocab_size=64)

@pytest.mark.perf
def test_speck(perf):
    perf.check(Recipe(model=MODEL, layouts={"cpu": Layout(gpus=1)}, seq_len=16, global_batch_size=2, precision="fp32",
                      steps=12, warmup_steps=2))
"""


NAMED_PATHS = """
import json, os, pathlib, sys, time
plan = json.loads(pathlib.Path(os.environ["NEMOPERF_PLAN"]).read_text())
named = [word.partition("=")[2] for word in sys.argv if word.startswith("--speed=")]
seconds = float(pathlib.Path(os.environ.get("SPEED", *named or ["speed.txt"])).read_text())
with open(os.environ["NEMOPERF_STEPS"], "w") as file:
    for step in range(plan["warmup_steps"] + plan["steps"]):
        record = {"step": step, "step_time_sec": seconds, "tokens": plan["tokens_per_step"], "loss": 6.5}
        file.write(json.dumps(record) + "\\n")
"""
"""A command that finds its speed where an argument, a variable or its working directory says."""


@pytest.fixture
def repository(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project, committed with a step time of 0.1 s."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(project.root)
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main"], check=True, cwd=project.root)
    commit(project)
    return project


def commit(project: Project) -> None:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    for words in (["add", "."], ["commit", "--quiet", "-m", "all"]):
        subprocess.run(["git", *identity, *words], check=True, cwd=project.root)


def result_of(project: Project) -> dict[str, Any]:
    data = json.loads((project.root / ".nemoperf" / "latest" / "results.json").read_text())
    (case,) = data["cases"]
    assert isinstance(case, dict)
    return case


def test_a_slower_working_tree_fails_beside_the_revision_and_nothing_is_stored(repository: Project) -> None:
    repository.set_step_time(0.12)

    result = repository.run("--perf-ab", "main")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "perf: system cpu (*)",
            "perf: cases are compared with main, ???????, by --perf-ab, for at most 3 min 00 s each; tolerance *",
            f"perf: {CASE}: whole launches alternate: framework command starts its ranks by itself*",
            f"REGRESSED {CASE}",
            "tokens/sec/GPU is 16.7% below old (main, ???????)*",
            "*metric*old*new*delta*95% interval*verdict",
            "*phase*old*new*difference",
            "*backward*75.00*90.00*+15.00*",
            "how new (working tree) was compared with old (main, ???????)",
            "*round by round: +20.0% +20.0%*",
            "*pytest -m perf --system=cpu --perf-ab=main test_speed.py::test_speed*",
        ]
    )
    assert not repository.baseline.exists()
    assert not (repository.root / ".nemoperf" / "baselines").exists()
    assert list((repository.root / ".nemoperf" / "ab").iterdir()) == []


def test_equal_sides_pass_and_the_order_of_launches_is_turned_round(repository: Project) -> None:
    result = repository.run("--perf-ab=main", "--perf-inject=0", "--perf-tolerance=20")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["compared with old (main, ???????)", f"*{CASE}: * rounds in *"])
    ab = result_of(repository)["ab"]
    firsts = [each["first"] for each in ab["rounds"]]
    assert ab["method"] == "launches"
    assert all({one, other} == {"old", "new"} for one, other in zip(firsts[::2], firsts[1::2], strict=False))
    assert {each["ratios"]["tokens_per_sec_per_gpu"] for each in ab["rounds"]} == {0.0}


def test_equal_files_are_refused_before_anything_runs_unless_they_are_asked_for(repository: Project) -> None:
    (repository.root / "test_more.py").touch()  # no code of a side
    refused = repository.run("--perf-ab=main")
    asked_for = repository.run("--perf-ab=main", "--perf-inject=0", "--perf-ab-limit=0.1", "--perf-fail-on=none")

    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(
        ["*--perf-ab=main: old and new are the same files: main, ??????? is what the working tree*main~1*inject=0"]
    )
    caution = "perf: CAUTION: old and new are the same files: main, ??????? is what the working tree holds, as *"
    asked_for.stdout.fnmatch_lines([caution, "* performance *", caution])


def test_code_that_git_does_not_have_yet_makes_the_sides_differ(repository: Project) -> None:
    (repository.root / "kernels.py").touch()

    result = repository.run("--perf-ab=HEAD", "--perf-ab-limit=0.1", "--perf-fail-on=none")

    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*CAUTION*")


def test_a_copy_outside_both_trees_is_found_out_and_no_verdict_is_given(repository: Project, tmp_path: Path) -> None:
    foreign = tmp_path / "site" / "model"
    own = repository.root / "model"
    for folder in (foreign, own):
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    script = repository.root / "steps.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(foreign.parent)!r}); import model\n{script.read_text()}")
    commit(repository)
    (own / "__init__.py").write_text("import time; time.sleep(1)")

    result = repository.run("--perf-ab=main", "--perf-fail-on=none")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"RevisionError: * its processes import model from {foreign}/__init__.py, though *"])


def test_a_self_test_slows_the_working_tree_alone(repository: Project) -> None:
    result = repository.run("--perf-ab=main", "--perf-inject=20%")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            f"INJECTED {CASE}: round 1: old 2,560, new 2,133 tokens/sec/GPU, ratio -16.7%, took *",
            f"INJECTED REGRESSED {CASE}",
            "tokens/sec/GPU is 16.7% below old (main, ???????)*",
            "*pytest -m perf --system=cpu --perf-ab=main --perf-inject=20%*",
        ]
    )


def test_each_side_is_set_up_once_and_sees_its_own_paths(repository: Project) -> None:
    repository.pytester.makeini(
        "[pytest]\nperf_ab_setup = echo $NEMOPERF_AB_SIDE >> $NEMOPERF_AB_PROJECT/sides\nperf_ab_paths =\n  lib\n  .\n"
    )
    (repository.root / "lib").mkdir()
    (repository.root / "lib" / "model.py").touch()
    commit(repository)
    script = repository.root / "steps.py"
    script.write_text(script.read_text() + "open(os.environ['NEMOPERF_RUN_DIR'] + '/path', 'w').write(sys.path[1])\n")
    script.write_text("import sys\n" + script.read_text())

    repository.run("--perf-ab=main", "--perf-ab-limit=0.1")

    assert (repository.root / "sides").read_text() == "old\nnew\n"
    paths = {path.read_text() for path in repository.root.glob(".nemoperf/runs/*/*/round-*/new/path")}
    assert paths == {str(repository.root / "lib")}


def test_a_side_without_code_of_its_own_is_refused_before_anything_runs(repository: Project) -> None:
    repository.pytester.makeini("[pytest]\nperf_ab_paths = lib\n")
    (repository.root / "lib").mkdir()
    (repository.root / "lib" / "model.py").touch()  # and not in the revision

    result = repository.run("--perf-ab=main")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["RevisionError: old (main, ???????) has no Python module in */lib, a PYTHONPATH entry*"]
    )
    assert not list(repository.root.glob(".nemoperf/runs/*/*/round-*"))
    assert list((repository.root / ".nemoperf" / "ab").iterdir()) == []


def test_a_set_up_that_fails_is_the_tests_error(repository: Project) -> None:
    repository.pytester.makeini("[pytest]\nperf_ab_setup = echo no compiler; exit 3\n")

    result = repository.run("--perf-ab=main")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["RevisionError: perf_ab_setup failed for old (main, ???????)*(exit code 3): no compiler"]
    )


def test_a_side_that_fails_is_named(repository: Project) -> None:
    (repository.root / "steps.py").write_text("raise SystemExit('no such layer')")

    result = repository.run("--perf-ab=main")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["LaunchError: new (working tree): the command *", "no such layer"])


def test_a_side_that_records_fewer_steps_makes_the_case_invalid(repository: Project) -> None:
    script = repository.root / "steps.py"
    script.write_text(script.read_text().replace('plan["steps"])', 'plan["steps"] - 3)'))

    result = repository.run("--perf-ab=main")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            f"{CASE}: round 1: left out after *: new: 10 of 13 steps were recorded*",
            f"INVALID {CASE}",
            "new (working tree): round 1: 10 of 13 steps were recorded*",
        ]
    )


def use_command(project: Project, *, command: str, env: str = "{}") -> None:
    """Let the test run another command; ``HERE`` is the root directory, as a string."""
    text = PERF_TEST.replace("@pytest.mark.perf", "HERE = str(pathlib.Path(__file__).parent)\n\n@pytest.mark.perf")
    recipe = f"import dataclasses\n    perf.check(dataclasses.replace(RECIPE, command={command}, env={env}))"
    project.pytester.makepyfile(test_speed=text.replace("perf.check(RECIPE)", recipe))


@pytest.mark.parametrize(
    ("command", "env"),
    [
        ("(sys.executable, 'steps.py', f'--speed={HERE}/speed.txt')", "{}"),
        ("(sys.executable, f'{HERE}/steps.py')", "{'SPEED': f'{HERE}/speed.txt'}"),
        ("('bash', '-c', f'cd {HERE} && {sys.executable} steps.py')", "{}"),
    ],
    ids=["argument", "variable", "script"],
)
def test_each_side_has_its_own_file_wherever_the_command_names_it(repository: Project, command: str, env: str) -> None:
    (repository.root / "steps.py").write_text(NAMED_PATHS)
    use_command(repository, command=command, env=env)
    commit(repository)
    repository.set_step_time(0.2)

    result = repository.run("--perf-ab=main")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"REGRESSED {CASE}", "tokens/sec/GPU is 50.0% below old (main, ???????)*"])


def test_a_root_directory_below_the_top_of_its_repository_leaves_no_file_to_both_sides(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    top, root = project.root, project.root / "perf"
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main"], check=True, cwd=top)
    root.mkdir()
    (top / "tox.ini").unlink()
    (root / "pytest.ini").write_text("[pytest]\nperf_ab_paths = ..\n")
    test = (top / "test_speed.py").rename(root / "test_speed.py")
    test.write_text(test.read_text().replace("(__file__)", "(__file__).parent"))
    commit(project)
    project.set_step_time(0.2)
    monkeypatch.chdir(root)

    result = project.run("--perf-ab=main", "--rootdir", str(root))

    result.stdout.fnmatch_lines([f"REGRESSED {CASE}", "tokens/sec/GPU is 50.0% below old (main, ???????)*"])


def test_a_trainer_that_the_revision_lacks_is_refused(repository: Project) -> None:
    (repository.root / "steps.py").rename(repository.root / "new_steps.py")
    use_command(repository, command="(sys.executable, f'{HERE}/new_steps.py')")

    result = repository.run("--perf-ab=main", "--perf-fail-on=none")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["RevisionError: old (main, ???????): the command's arguments name */new_steps.py, but the revision has no *"]
    )


def test_a_trainer_that_a_set_up_puts_there_is_run_from_there(repository: Project) -> None:
    (repository.root / "steps.py").rename(repository.root / "new_steps.py")
    use_command(repository, command="(sys.executable, f'{HERE}/new_steps.py')")
    repository.pytester.makeini(
        "[pytest]\nperf_ab_setup = test -e new_steps.py || cp $NEMOPERF_AB_PROJECT/new_steps.py .\n"
    )
    repository.set_step_time(0.2)

    result = repository.run("--perf-ab=main")

    result.stdout.fnmatch_lines(["tokens/sec/GPU is 50.0% below old (main, ???????)*"])


def test_a_path_that_the_code_makes_up_is_found_out_in_the_process_and_no_verdict_is_given(
    repository: Project,
) -> None:
    script = repository.root / "steps.py"
    made_up = f"pathlib.Path('/').joinpath(*{list(repository.root.parts)!r}[1:], 'speed.txt')"
    script.write_text(script.read_text().replace('pathlib.Path(__file__).with_name("speed.txt")', made_up))
    commit(repository)
    repository.set_step_time(0.2)

    result = repository.run("--perf-ab=main", "--perf-fail-on=none")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["RevisionError: old (main, ???????): its processes use the working tree: */speed.txt (opened); both sides*"]
    )
    result.stdout.fnmatch_lines(["no case was judged: 1 perf test selected*"])


def test_a_shared_folder_among_the_paths_is_refused(repository: Project) -> None:
    repository.pytester.makeini(f"[pytest]\nperf_ab_paths = {repository.root}\n")

    result = repository.run("--perf-ab=main")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["RevisionError: the ini key perf_ab_paths has /*, which is the same folder for both*"])


def test_what_runs_in_this_process_is_left_out_in_words(repository: Project) -> None:
    repository.pytester.makepyfile(test_speed=LOOP_AND_BENCHMARK)

    result = repository.run("--perf-ab=main")

    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines_random(
        [
            "*1 test: a loop of the test process can't have its code swapped*",
            "*1 test: a benchmark test can't have its code swapped*",
        ]
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--perf-ab=no-such-branch"], "*--perf-ab=no-such-branch is no commit of *; name a branch, tag or hash*"),
        (["--perf-ab=main", "--update-baselines"], "*--perf-ab with --update-baselines: a comparison of two*"),
        (["--perf-ab=main", "--perf-profile"], "*--perf-ab with --perf-profile: a profile is compared with a stored*"),
        (["--perf-ab=main", "--perf-ab-limit=0"], "*--perf-ab-limit=0 must be positive seconds*"),
    ],
)
def test_what_can_not_be_honoured_is_a_usage_error(repository: Project, args: list[str], message: str) -> None:
    result = repository.run(*args)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


@pytest.mark.ranks
def test_ranks_of_both_sides_take_turns_and_compute_the_same(repository: Project) -> None:
    repository.pytester.makepyfile(test_speed=NATIVE)

    repository.run("--perf-ab=main", "--perf-ab-limit=0.1", "--perf-fail-on=none")

    case = result_of(repository)
    (folder,) = repository.root.glob(".nemoperf/runs/*/*/round-1")
    turns = [json.loads((folder / side / "plan.json").read_text())["turn"] for side in ("old", "new")]
    losses = [
        [json.loads(line)["loss"] for line in (folder / side / "steps.jsonl").read_text().splitlines()]
        for side in ("old", "new")
    ]
    assert sorted(turn["is_first"] for turn in turns) == [False, True]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6 + 12  # warm-up and measured steps, in whole pairs of blocks
    assert (case["ab"]["method"], len(case["ab"]["rounds"])) == ("turns", 1)
    assert case["verdict"]["kind"] == "INCONCLUSIVE"  # there was time for one round
