from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_nemoperf.frameworks.launch import move_launch, note_launch, noted_environment, noted_launch
from pytest_nemoperf.frameworks.protocol import RankCommand

COMMAND = RankCommand(argv=("train",), num_processes=1)


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run directory beside the working directory."""
    for name in ("run", "cwd", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "run"


def old_bytes(run_dir: Path, *, path: Path) -> int:
    launch = noted_launch(run_dir)
    assert launch is not None
    return launch.num_old_bytes(path)


def test_a_run_without_a_note_has_none(run_dir: Path) -> None:
    assert noted_launch(run_dir) is None
    assert noted_environment(run_dir) == {}


def test_time_directory_and_variables_of_a_launch_are_noted(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")

    note_launch(COMMAND, run_dir=run_dir)

    launch = noted_launch(run_dir)
    assert launch is not None
    assert launch.directory == str(Path.cwd())
    assert launch.time_sec <= (run_dir / "launch.json").stat().st_mtime + 1
    assert noted_environment(run_dir)["env.OMP_NUM_THREADS"] == "7"


def test_a_file_that_is_continued_has_old_bytes(run_dir: Path) -> None:
    path = Path.cwd() / "train.log"
    path.write_text("old\n")
    note_launch(COMMAND, run_dir=run_dir, log_file="train.log")

    with path.open("a") as file:
        file.write("new\n")

    assert old_bytes(run_dir, path=path) == 4


@pytest.mark.parametrize("text", ["new\n", "new, and longer than the old one\n", ""], ids=["equal", "longer", "empty"])
def test_a_file_that_is_written_anew_has_none(text: str, run_dir: Path) -> None:
    path = Path.cwd() / "train.log"
    path.write_text("old\n")
    note_launch(COMMAND, run_dir=run_dir, log_file="*.log")

    path.write_text(text)

    assert old_bytes(run_dir, path=path) == 0


def test_a_file_that_is_new_has_none(run_dir: Path) -> None:
    note_launch(COMMAND, run_dir=run_dir, log_file="*.log")
    path = Path.cwd() / "train.log"

    path.write_text("new\n")

    assert old_bytes(run_dir, path=path) == 0


def test_a_file_that_was_not_written_since_has_not_changed(run_dir: Path) -> None:
    old, new, later = (Path.cwd() / name for name in ("old.log", "new.log", "later.log"))
    for path in (old, new):
        path.write_text("old\n")
        os.utime(path, (1000, 1000))
    note_launch(COMMAND, run_dir=run_dir, log_file="*.log")

    for path in (new, later):
        path.write_text("new\n")

    launch = noted_launch(run_dir)
    assert launch is not None
    assert [launch.has_changed(path) for path in (old, new, later)] == [False, True, True]


def test_a_launch_elsewhere_has_the_old_files_of_there(run_dir: Path) -> None:
    path = run_dir.parent / "elsewhere" / "train.log"
    path.write_text("old\n")
    note_launch(COMMAND, run_dir=run_dir, log_file="train.log")

    move_launch(run_dir, directory=path.parent)

    launch = noted_launch(run_dir)
    assert launch is not None
    assert launch.directory == str(path.parent)
    assert launch.num_old_bytes(path) == 4


def test_a_launch_without_a_note_can_t_be_moved(run_dir: Path) -> None:
    move_launch(run_dir, directory=run_dir)

    assert noted_launch(run_dir) is None
