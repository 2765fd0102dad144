"""Where baselines are looked for, and what is said where none are found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.conftest import CASE, Project


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ("--perf-baselines=speed.txt",),
            "--perf-baselines=speed.txt: {root}/speed.txt is a file; give the",
            id="file",
        ),
        pytest.param(
            ("--update-baselines", "--perf-baselines=speed.txt"),
            "speed.txt is a file; give the folder",
            id="file to write",
        ),
        pytest.param(
            ("--perf-baselines=baselnies",),
            "--perf-baselines=baselnies: there is no folder baselnies in {root}; record baselines with --update-base",
            id="mistyped",
        ),
        pytest.param(
            ("-o", "perf_baselines=golden"), "ini perf_baselines=golden: there is no folder golden in {root}", id="ini"
        ),
        pytest.param(
            ("--perf-dry-run", "--perf-baselines=golden"), "--perf-baselines=golden: there is no folder", id="dry run"
        ),
        pytest.param(("--perf-output=speed.txt",), "--perf-output=speed.txt: {root}/speed.txt is a file", id="output"),
    ],
)
def test_a_folder_that_is_named_must_be_one(project: Project, arguments: tuple[str, ...], message: str) -> None:
    result = project.run(*arguments)

    assert result.ret == 4
    assert message.format(root=project.root) in result.stderr.str()
    assert not (project.root / ".nemoperf").exists()


def test_a_file_where_baselines_are_kept_is_refused(project: Project) -> None:
    (project.root / "baselines").touch()

    result = project.run()

    assert result.ret == 4
    assert f"the folder of baselines baselines: {project.root}/baselines is a file" in result.stderr.str()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_can_not_be_read_is_refused(project: Project) -> None:
    (project.root / "golden").mkdir(mode=0)

    result = project.run("--perf-baselines=golden")

    assert result.ret == 4
    assert f"--perf-baselines=golden: {project.root}/golden can't be read" in result.stderr.str()


def test_a_named_folder_of_another_root_directory_is_pointed_at(project: Project) -> None:
    (project.root / "golden").mkdir()
    ini = _ini_in_a_folder_of_its_own(project, "perf_baselines = golden")

    result = project.run("-c", str(ini), str(project.root))

    assert result.ret == 4
    assert f"in {ini.parent}, the root directory of this session; did you mean {project.root}/golden?" in (
        result.stderr.str()
    )


def test_a_folder_that_is_named_may_be_new_where_baselines_are_stored(project: Project) -> None:
    project.run("--update-baselines", "--perf-baselines=golden").assert_outcomes(passed=1)

    project.run("--perf-baselines=golden", "--perf-fail-on=no_baseline").assert_outcomes(passed=1)


def test_a_case_without_a_baseline_says_where_one_was_looked_for(project: Project) -> None:
    result = project.run()

    result.stdout.fnmatch_lines(["  nothing is stored for this case in baselines/cpu"])
    result.stdout.no_fnmatch_line("*is not looked into*")


def test_baselines_of_the_project_that_an_ini_file_elsewhere_hides_are_pointed_at(project: Project) -> None:
    project.run("--update-baselines")
    project.set_step_time(0.3)
    ini = _ini_in_a_folder_of_its_own(project, "perf_runs = 1")
    folder = project.root / "baselines"

    results = [project.run("-c", str(ini), str(project.root)) for _ in range(2)]

    pointer = f"{folder}/cpu holds 1 baseline and is not looked into; --perf-baselines={folder} does so"
    for result, said in zip(
        results,
        (
            f"nothing is stored for this case in {ini.parent}/baselines/cpu",
            f"judged by what this machine did before, for {ini.parent}/baselines/cpu holds nothing of this case",
        ),
        strict=True,
    ):
        text = _unwrapped(result.stdout.str())
        assert _unwrapped(f"perf: 0 baselines in {ini.parent}/baselines/cpu") in text
        assert _unwrapped(f"perf: {pointer}") in text
        assert _unwrapped(f"{said} {pointer}") in text
    found = project.run("-c", str(ini), f"--perf-baselines={folder}", str(project.root))
    found.stdout.fnmatch_lines([f"*REGRESSED*{CASE}*"])


@pytest.mark.parametrize("named", ["baselines/cpu", "."], ids=["one level too low", "one level too high"])
def test_a_folder_that_is_off_by_a_level_is_pointed_out(project: Project, named: str) -> None:
    project.run("--update-baselines")

    result = project.run(f"--perf-baselines={named}")

    pointer = f"{project.root}/baselines/cpu holds 1 baseline and is not looked into"
    assert _unwrapped(pointer) in _unwrapped(result.stdout.str())


def test_other_folders_are_not_spoken_of_where_a_baseline_is_found(project: Project) -> None:
    project.run("--update-baselines", "--perf-baselines=golden")
    project.run("--update-baselines")

    result = project.run("--perf-baselines=golden")

    result.stdout.no_fnmatch_line("*is not looked into*")


def _ini_in_a_folder_of_its_own(project: Project, line: str) -> Path:
    ini = project.root / "ci" / "perf.ini"
    ini.parent.mkdir()
    ini.write_text(f"[pytest]\n{line}\n")
    return ini


def _unwrapped(text: str) -> str:
    """Return a text without its spaces: a long path is broken where the terminal ends."""
    return "".join(text.split())
