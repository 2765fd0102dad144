"""ini perf_testpaths: folders that a session for perf tests collects if no path is given."""

from __future__ import annotations

import pytest

from tests.integration.conftest import PERF_TEST, Project, usage_error

PLAIN_TEST = "import pytest\n\n@pytest.mark.slow\ndef test_plain():\n    pass\n"
INI = """
[pytest]
perf_runs = 1
testpaths = tests
perf_testpaths = {paths}
markers = slow: takes minutes
"""


@pytest.fixture
def folders(project: Project) -> Project:
    """Move the perf test into ``speed/``, beside a plain test in ``tests/``."""
    for name in ("speed", "tests"):
        (project.root / name).mkdir()
    for name in ("test_speed.py", "steps.py", "speed.txt"):
        (project.root / name).rename(project.root / "speed" / name)
    (project.root / "tests" / "test_plain.py").write_text(PLAIN_TEST)
    write_ini(project, paths="speed")
    return project


def write_ini(project: Project, *, paths: str) -> None:
    project.pytester.makeini(INI.format(paths=paths))


def break_plain_tests(project: Project) -> None:
    """Let any import of ``tests/``, its conftest first, end the session."""
    for name in ("conftest.py", "test_plain.py"):
        (project.root / "tests" / name).write_text("1 / 0\n")


def test_a_session_for_perf_tests_imports_their_folders_alone(folders: Project) -> None:
    break_plain_tests(folders)

    result = folders.run()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["testpaths: speed", "collected 1 item"])


def test_a_path_given_by_hand_wins(folders: Project) -> None:
    (folders.root / "tests" / "test_plain.py").write_text(PERF_TEST)
    for name in ("steps.py", "speed.txt"):
        (folders.root / "tests" / name).write_bytes((folders.root / "speed" / name).read_bytes())

    result = folders.run("tests")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["tests/test_plain.py*"])


@pytest.mark.parametrize("args", [(), ("-m", "not perf"), ("-m", "slow")])
def test_a_session_for_other_tests_collects_as_ever(folders: Project, args: tuple[str, ...]) -> None:
    (folders.root / "speed" / "test_speed.py").write_text("1 / 0\n")

    result = folders.pytester.runpytest_inprocess(*args)

    result.assert_outcomes(passed=1)


def test_a_session_for_perf_tests_and_others_collects_the_folders_of_both(folders: Project) -> None:
    result = folders.pytester.runpytest_inprocess("-m", "perf or slow", "--system=cpu")

    result.assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("paths", "args"),
    [
        pytest.param("sp*", (), id="glob"),
        pytest.param("speed tests", (), id="two folders"),
        pytest.param("speed/test_speed.py", (), id="file"),
        pytest.param("gone", ("-o", "perf_testpaths=speed"), id="overridden"),
    ],
)
def test_paths_are_those_that_testpaths_takes(folders: Project, paths: str, args: tuple[str, ...]) -> None:
    write_ini(folders, paths=paths)

    folders.run(*args).assert_outcomes(passed=1, deselected="tests" in paths)


def test_a_folder_that_is_not_there_is_refused(folders: Project) -> None:
    write_ini(folders, paths="speed sped sp33d/*")

    assert "ini perf_testpaths: there is no sped and no sp33d/* in " in usage_error(folders.run())


def test_below_the_root_directory_its_own_folder_is_collected(
    folders: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders.root / "speed")

    folders.run().assert_outcomes(passed=1)


def test_another_ini_file_has_its_own_folders(folders: Project) -> None:
    (folders.root / "other.ini").write_text("[pytest]\nperf_testpaths = tests\n")

    result = folders.run("-c", "other.ini")

    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines(["testpaths: tests"])


def test_perf_tests_outside_of_the_folders_are_named(folders: Project) -> None:
    (folders.root / "tests" / "test_plain.py").write_text(PERF_TEST)

    result = folders.run()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["perf: * outside of ini perf_testpaths (speed) did not run: tests/test_plain.py; *"])
