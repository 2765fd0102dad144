"""The folder of baselines: named, absent, hidden by another ini file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.conftest import CASE, NOISE, Project, has_text, usage_error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param("--perf-baselines=speed.txt", "{option}: {root}/speed.txt is a file; give the folder", id="file"),
        pytest.param("--update-baselines --perf-baselines=speed.txt", "speed.txt is a file", id="file to write"),
        pytest.param(
            "--perf-baselines=baselnies", "{option}: there is no folder baselnies in {root}; record", id="mistyped"
        ),
        pytest.param(
            "-o perf_baselines=golden", "ini perf_baselines=golden: there is no folder golden in {root}", id="ini"
        ),
        pytest.param("--perf-dry-run --perf-baselines=golden", "there is no folder golden", id="dry run"),
        pytest.param("--perf-output=speed.txt", "{option}: {root}/speed.txt is a file", id="output"),
    ],
)
def test_a_folder_that_is_named_must_be_one(project: Project, arguments: str, message: str) -> None:
    result = project.run(*arguments.split())

    assert message.format(option=arguments, root=project.root) in usage_error(result)
    assert not (project.root / ".nemoperf").exists()


def test_a_file_in_place_of_the_default_folder_is_refused(project: Project) -> None:
    (project.root / "baselines").touch()

    assert f"baselines: {project.root}/baselines is a file" in usage_error(project.run())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_can_not_be_read_is_refused(project: Project) -> None:
    (project.root / "golden").mkdir(mode=0)

    result = project.run("--perf-baselines=golden")

    assert f"--perf-baselines=golden: {project.root}/golden can't be read" in usage_error(result)


def test_a_named_folder_of_another_root_directory_is_pointed_at(project: Project) -> None:
    (project.root / "golden").mkdir()
    ini = _ini_in_a_folder_of_its_own(project, "perf_baselines = golden")

    result = project.run("-c", str(ini), str(project.root))

    assert f"in {ini.parent}, the root directory of this session; did you mean {project.root}/golden?" in (
        usage_error(result)
    )


def test_a_folder_that_is_named_may_be_new_in_an_update(project: Project) -> None:
    project.run("--update-baselines", "--perf-baselines=golden").assert_outcomes(passed=1)

    project.run("--perf-baselines=golden", "--perf-fail-on=no_baseline").assert_outcomes(passed=1)


def test_a_case_without_a_baseline_names_the_folder_that_was_searched(project: Project) -> None:
    result = project.run()

    result.stdout.fnmatch_lines(["NO BASELINE *: nothing is stored for this case in baselines/cpu"])
    result.stdout.no_fnmatch_line("*is not looked into*")


def test_baselines_of_the_project_that_an_ini_file_elsewhere_hides_are_pointed_at(project: Project) -> None:
    project.run("--update-baselines")
    project.set_step_time(0.3)
    ini = _ini_in_a_folder_of_its_own(project, f"perf_runs = 1\n{NOISE}")
    folder = project.root / "baselines"

    first = project.run("-c", str(ini), str(project.root))
    second = project.run("-c", str(ini), str(project.root))
    found = project.run("-c", str(ini), f"--perf-baselines={folder}", str(project.root))

    pointer = f"{folder}/cpu holds 1 baseline and is not looked into; --perf-baselines={folder} does so"
    for result in (first, second):
        assert has_text(result, f"perf: 0 baselines in {ini.parent}/baselines/cpu")
        assert has_text(result, f"perf: {pointer}")
    assert has_text(first, f"nothing is stored for this case in {ini.parent}/baselines/cpu; {pointer}")
    assert has_text(second, f"{ini.parent}/baselines/cpu holds nothing of this case; {pointer}")
    found.stdout.fnmatch_lines([f"*REGRESSED*{CASE}*"])


@pytest.mark.parametrize("named", ["baselines/cpu", "."], ids=["one level too low", "one level too high"])
def test_a_folder_that_is_off_by_a_level_is_pointed_out(project: Project, named: str) -> None:
    project.run("--update-baselines")

    result = project.run(f"--perf-baselines={named}")

    assert has_text(result, f"{project.root}/baselines/cpu holds 1 baseline and is not looked into")


def test_no_other_folder_is_pointed_at_if_a_baseline_is_found(project: Project) -> None:
    project.run("--update-baselines", "--perf-baselines=golden")
    project.run("--update-baselines")

    result = project.run("--perf-baselines=golden")

    result.stdout.no_fnmatch_line("*is not looked into*")


def _ini_in_a_folder_of_its_own(project: Project, line: str) -> Path:
    ini = project.root / "ci" / "perf.ini"
    ini.parent.mkdir()
    ini.write_text(f"[pytest]\n{line}\n")
    return ini
