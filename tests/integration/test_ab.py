"""--perf-ab: the working tree beside another revision of the same repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.builders import git_in
from tests.integration.conftest import CASE, NATIVE, PERF_TEST, Project, usage_error

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
"""A command that takes its speed from a file named by an argument or a variable, or in its working directory."""


@pytest.fixture
def repository(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project, committed with a step time of 0.1 s."""
    monkeypatch.chdir(project.root)
    git_in(project.root, "init", "--quiet", "--initial-branch=main")
    commit(project)
    return project


def commit(project: Project) -> None:
    git_in(project.root, "add", ".")
    git_in(project.root, "commit", "--quiet", "--message=all")


def test_a_slower_working_tree_fails_beside_the_revision_and_nothing_is_stored(repository: Project) -> None:
    repository.set_step_time(0.12)

    result = repository.run("--perf-ab", "main")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "perf: system cpu (*)",
            "perf: cases are compared with main, ???????, *3 min 00 s each*",
            f"perf: {CASE}: whole launches alternate: *",
            f"REGRESSED {CASE}",
            "tokens/sec/GPU is 16.7% below old (main, ???????)*",
            "*metric*old*new*delta*95% interval*verdict",
            "*phase*old*new*difference",
            "*backward*75.00*90.00*+15.00*",
            "how new (working tree) was compared with old (main, ???????)",
            "*round by round: +20.0% +20.0%*",
            "*pytest * --perf-ab=main test_speed.py::test_speed*",
        ]
    )
    assert not repository.baseline.exists()
    assert not (repository.root / ".nemoperf" / "baselines").exists()
    assert list((repository.root / ".nemoperf" / "ab").iterdir()) == []


def test_equal_sides_pass_and_the_order_of_launches_is_turned_round(repository: Project) -> None:
    result = repository.run("--perf-ab=main", "--perf-inject=0", "--perf-tolerance=20")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["compared with old (main, ???????)", "  llama-tiny single: * rounds in *"])
    ab = repository.case()["ab"]
    firsts = [each["first"] for each in ab["rounds"]]
    assert ab["method"] == "launches"
    assert all({one, other} == {"old", "new"} for one, other in zip(firsts[::2], firsts[1::2], strict=False))
    assert {each["ratios"]["tokens_per_sec_per_gpu"] for each in ab["rounds"]} == {0.0}


def test_equal_files_are_refused_before_anything_runs_unless_they_are_asked_for(repository: Project) -> None:
    (repository.root / "test_more.py").touch()  # no code of a side
    refused = repository.run("--perf-ab=main")
    asked_for = repository.run("--perf-ab=main", "--perf-inject=0", "--perf-ab-limit=0.1", "--perf-fail-on=none")

    assert "--perf-ab=main: old and new are the same files: main" in usage_error(refused)
    refused.stderr.fnmatch_lines(["*is what the working tree*main~1*--perf-inject=0"])
    caution = "perf: CAUTION: old and new are the same files: *"
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
            f"INJECTED {CASE}: round 1: old 2,560, new 2,133 *, ratio -16.7%*",
            f"INJECTED REGRESSED {CASE}",
            "tokens/sec/GPU is 16.7% below old (main, ???????)*",
            "*pytest * --perf-ab=main --perf-inject=20%*",
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
    result.stdout.fnmatch_lines(["RevisionError: old (*) has no Python module in */lib*"])
    assert not list(repository.root.glob(".nemoperf/runs/*/*/round-*"))
    assert list((repository.root / ".nemoperf" / "ab").iterdir()) == []


def test_a_set_up_that_fails_is_the_tests_error(repository: Project) -> None:
    repository.pytester.makeini("[pytest]\nperf_ab_setup = echo no compiler; exit 3\n")

    result = repository.run("--perf-ab=main")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["RevisionError: perf_ab_setup failed for old (*(exit code 3): no compiler"])


def test_a_side_that_fails_is_named(repository: Project) -> None:
    (repository.root / "steps.py").write_text("raise SystemExit('no such layer')")

    result = repository.run("--perf-ab=main")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["LaunchError: new (working tree): the command *", "no such layer"])


def test_a_side_that_records_fewer_steps_makes_the_case_invalid(repository: Project) -> None:
    repository.edit("steps.py", {'plan["steps"])': 'plan["steps"] - 3)'})

    result = repository.run("--perf-ab=main")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            f"{CASE}: round 1: left out *: new: 10 of 13 steps were recorded*",
            f"INVALID {CASE}",
            "new (working tree): round 1: 10 of 13 steps were recorded*",
        ]
    )


def use_command(project: Project, *, command: str, env: str = "{}") -> None:
    """Let the test run another command; it may name the root directory as ``HERE``, a string."""
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
    root = project.root / "perf"
    git_in(project.root, "init", "--quiet", "--initial-branch=main")
    root.mkdir()
    (project.root / "tox.ini").unlink()
    (root / "pytest.ini").write_text("[pytest]\nperf_ab_paths = ..\n")
    (project.root / "test_speed.py").rename(root / "test_speed.py")
    project.edit("perf/test_speed.py", {"(__file__)": "(__file__).parent"})
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
    result.stdout.fnmatch_lines(["RevisionError: old (*): *name */new_steps.py, but the revision has no *"])


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
    made_up = f"os.path.join('/', *{list(repository.root.parts)!r}[1:], 'speed.txt')"
    repository.edit("steps.py", {'os.path.join(os.path.dirname(__file__), "speed.txt")': made_up})
    commit(repository)
    repository.set_step_time(0.2)

    result = repository.run("--perf-ab=main", "--perf-fail-on=none")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["RevisionError: old (*use the working tree: */speed.txt (opened); both sides*"])
    result.stdout.fnmatch_lines(["no case was judged: 1 perf test selected*"])


def test_a_shared_folder_among_the_paths_is_refused(repository: Project) -> None:
    repository.pytester.makeini(f"[pytest]\nperf_ab_paths = {repository.root}\n")

    result = repository.run("--perf-ab=main")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["RevisionError: *perf_ab_paths has /*, * the same folder for both*"])


def test_loops_and_benchmarks_of_the_test_process_are_left_out_and_say_so(repository: Project) -> None:
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
        (["--perf-ab=no-such-branch"], "--perf-ab=no-such-branch is no commit of "),
        (["--perf-ab=main", "--update-baselines"], "--perf-ab with --update-baselines: a comparison"),
        (["--perf-ab=main", "--perf-profile"], "--perf-ab with --perf-profile: a profile"),
        (["--perf-ab=main", "--perf-ab-limit=0"], "--perf-ab-limit=0 must be positive seconds"),
    ],
)
def test_options_that_can_not_be_honoured_are_a_usage_error(repository: Project, args: list[str], message: str) -> None:
    assert message in usage_error(repository.run(*args))


@pytest.mark.ranks
def test_ranks_of_both_sides_take_turns_and_compute_the_same(repository: Project) -> None:
    repository.pytester.makepyfile(test_speed=NATIVE.format(axis="tp", env="{}").replace("steps=4", "steps=12"))

    repository.run("-k", "one", "--perf-ab=main", "--perf-ab-limit=0.1", "--perf-fail-on=none")

    case = repository.case()
    (folder,) = repository.root.glob(".nemoperf/runs/*/*/round-1")
    old, new = folder / "old", folder / "new"
    assert {is_first(old), is_first(new)} == {False, True}
    assert losses_in(old) == losses_in(new)
    assert len(losses_in(old)) == 6 + 12  # warm-up and measured steps, in whole pairs of blocks
    assert (case["ab"]["method"], len(case["ab"]["rounds"])) == ("turns", 1)
    assert case["verdict"]["kind"] == "INCONCLUSIVE"  # there was time for one round


def is_first(run_dir: Path) -> bool:
    return bool(json.loads((run_dir / "plan.json").read_text())["turn"]["is_first"])


def losses_in(run_dir: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run_dir / "steps.jsonl").read_text().splitlines()]


def test_a_measurement_of_this_process_is_no_comparison(repository: Project) -> None:
    repository.pytester.makepyfile(
        test_speed="""
        import pytest
        from pytest_nemoperf.measure.measurement import Measurement

        @pytest.mark.perf
        def test_speed(perf):
            perf.compare(Measurement(case="mine", system="cpu", workload={}, runs=()))
        """
    )
    repository.set_step_time(0.2)

    result = repository.run("--perf-ab=main")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*mine was measured in this process, where code can't be*"])
