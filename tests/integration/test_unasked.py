"""Stored baselines that no test asks for, beside cases without one: a renamed case loses its baseline."""

from __future__ import annotations

import json
import shutil

import pytest

from pytest_nemoperf.baselines.files import read_baseline
from pytest_nemoperf.json_codec import to_json
from tests.builders import make_baseline
from tests.integration.conftest import CASE, PERF_TEST, Project, has_text
from tests.models.huggingface.test_read import LLAMA

FAILING_INI = "[pytest]\nperf_runs = 1\nperf_fail_on_unasked = true\n"
OTHER = """
@pytest.mark.perf
def test_other(perf):
    perf.check(dataclasses.replace(RECIPE, variant="b"))
"""


@pytest.fixture
def renamed(project: Project) -> Project:
    """A project with one baseline, recorded while the model had another name."""
    project.run("--update-baselines").assert_outcomes(passed=1)
    shutil.rmtree(project.root / ".nemoperf")
    rename_model(project)
    return project


def rename_model(project: Project, *, name: str = "mine", more: str = "") -> None:
    text = PERF_TEST.replace("import pathlib", "import dataclasses, pathlib")
    text = text.replace('model="llama-tiny",', f'model="llama-tiny", model_name="{name}",')
    project.pytester.makepyfile(test_speed=text + more)


def test_a_project_cloned_into_another_folder_finds_its_baselines(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.root / "config.json").write_text(json.dumps(LLAMA))
    model = 'str(pathlib.Path(__file__).with_name("config.json"))'
    command = '(sys.executable, str(pathlib.Path(__file__).with_name("steps.py")))'
    project.edit("test_speed.py", {command: '(sys.executable, "steps.py")', '"llama-tiny"': model})
    project.run("--update-baselines").assert_outcomes(passed=1)
    clone = project.root.parent / "another-clone"
    shutil.copytree(project.root, clone, ignore=shutil.ignore_patterns(".nemoperf", "__pycache__"))
    monkeypatch.chdir(clone)

    result = project.run(f"--rootdir={clone}", "--perf-fail-on=regressed,no_baseline,not_comparable")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*1 PASSED*"])


def test_a_renamed_case_and_its_old_baseline_are_named_side_by_side(renamed: Project) -> None:
    result = renamed.run()

    new = CASE.replace("llama-tiny", "mine")
    assert result.ret == 0
    assert has_text(result, "1 case without a committed baseline, and 1 baseline that no test asks for")
    assert has_text(result, f"{new} is {CASE} but for the model's name")
    assert has_text(result, f"asked for by no test: baselines/cpu/{CASE}.json")
    assert renamed.results()["unasked"]["renamed"] == {new: CASE}
    assert "without a committed baseline, and 1 baseline" in (renamed.latest / "results.md").read_text()


def test_it_is_said_again_while_only_this_machine_has_a_baseline_of_the_case(renamed: Project) -> None:
    renamed.run()

    result = renamed.run()

    result.stdout.fnmatch_lines(["*1 PASSED*", "1 case without a committed baseline, and 1 baseline *"])


def test_an_ini_key_makes_the_session_fail_for_it(renamed: Project) -> None:
    renamed.pytester.makeini(FAILING_INI)

    result = renamed.run()

    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*the session fails for this (perf_fail_on_unasked)*"])
    assert renamed.results()["unasked"]["is_failure"]


def test_baselines_unlike_the_new_case_are_listed_too(renamed: Project) -> None:
    renamed.pytester.makeini(FAILING_INI)
    old = renamed.baseline
    baseline = read_baseline(old)
    old.with_name("pretrain-gone.json").write_text(to_json(make_baseline(case="pretrain-gone")))
    old.write_text(to_json(make_baseline(case=baseline.case)))

    result = renamed.run()

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    unasked = renamed.results()["unasked"]
    assert unasked["renamed"] == {}
    assert unasked["stored"] == ["baselines/cpu/pretrain-gone.json", f"baselines/cpu/{CASE}.json"]


@pytest.mark.parametrize(("ini", "code"), [(FAILING_INI, 1), ("[pytest]\nperf_runs = 1\n", 0)], ids=["fails", "says"])
def test_a_baseline_that_no_test_asks_for_is_named_if_every_case_has_its_own(
    project: Project, ini: str, code: int
) -> None:
    project.run("--update-baselines")
    project.baseline.with_name("pretrain-gone.json").write_text(to_json(make_baseline(case="pretrain-gone")))
    project.pytester.makeini(ini)

    result = project.run()

    assert result.ret == code
    result.stdout.fnmatch_lines(["1 baseline that no test asks for: are their tests still collected?"])
    assert not has_text(result, "without a committed baseline")


def test_an_update_says_it_and_does_not_fail_for_it(renamed: Project) -> None:
    renamed.pytester.makeini(FAILING_INI)

    result = renamed.run("--update-baselines")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["1 case without a committed baseline, and 1 baseline *", "*--perf-prune*"])


def test_a_part_of_the_suite_names_the_old_baseline_of_a_renamed_model(renamed: Project) -> None:
    rename_model(renamed, more=OTHER)
    renamed.pytester.makeini(FAILING_INI)

    result = renamed.run("-k", "speed and not other")

    assert result.ret == 0
    assert has_text(result, "1 baseline that no test which was seen asks for")
    assert has_text(result, "may ask for them: test_speed.py::test_other was left out")


def test_a_part_of_the_suite_says_nothing_of_a_new_case_it_asks_for(project: Project) -> None:
    project.run("--update-baselines")
    rename_model(project, name="llama-tiny", more=OTHER)
    shutil.rmtree(project.root / ".nemoperf")

    assert not has_text(project.run("-k", "other"), "without a committed baseline")


def test_a_part_of_the_suite_can_not_fail_for_it_and_says_so(project: Project) -> None:
    project.run("--update-baselines")
    rename_model(project, name="llama-tiny", more=OTHER)
    shutil.rmtree(project.root / ".nemoperf")
    project.pytester.makeini(FAILING_INI)

    result = project.run("-k", "other")

    assert result.ret == 0
    assert has_text(result, "perf_fail_on_unasked fails nothing")


def test_trials_and_dry_runs_have_no_baselines_to_lose(renamed: Project) -> None:
    for option in ("--perf-set=mbs=2", "--perf-dry-run"):
        assert not has_text(renamed.run(option), "without a committed baseline")


def test_a_pull_request_shows_it(renamed: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    renamed.pytester.makeini(FAILING_INI)

    result = renamed.run()

    result.stdout.fnmatch_lines(["::error title=1 case without a committed baseline*"])
