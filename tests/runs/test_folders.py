from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_nemoperf.runs.folders import SessionFolder

HOLDER = """
import sys
from pathlib import Path
from pytest_nemoperf.runs.folders import SessionFolder

session = SessionFolder(Path(sys.argv[1]))
print(session.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def end_session(root: Path) -> Path:
    """Let a session make its folder and end; return the folder."""
    session = SessionFolder(root)
    folder = session.path
    session.release()
    session.delete_old(keep=2)
    return folder


def set_clock(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(time, "strftime", lambda _: name)


def names_in(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_only_the_newest_sessions_keep_their_folders(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in "123":
        set_clock(monkeypatch, f"2026010{day}-000000")
        end_session(root)

    assert names_in(root) == ["20260102-000000", "20260103-000000"]


def test_a_full_disk_leaves_no_session_in_a_folder_without_a_lock(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    session = SessionFolder(root)
    with monkeypatch.context() as full:
        full.setattr(Path, "write_text", refuse)
        with pytest.raises(OSError, match="No space left"):
            _ = session.path

    assert (session.path / ".number").exists()
    assert (session.path / ".lock").exists()


def test_a_clock_that_is_set_back_makes_no_session_older(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in "54321":
        set_clock(monkeypatch, f"2026010{day}-000000")
        folder = end_session(root)
        assert folder.is_dir()

    assert names_in(root) == ["20260101-000000", "20260102-000000"]


def test_sessions_of_the_same_second_have_folders_of_their_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch, "20260101-000000")
    sessions = [SessionFolder(root) for _ in range(3)]

    names = [session.path.name for session in sessions]

    assert names == ["20260101-000000", "20260101-000000-2", "20260101-000000-3"]


def test_sessions_of_the_same_second_are_as_old_as_they_came(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch, "20260101-000000")

    folders = [end_session(root) for _ in range(12)]

    assert names_in(root) == sorted(folder.name for folder in folders[-2:])


def test_folders_without_a_number_are_older_and_go_by_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("20990101-000000", "20260101-000000-2", "20260101-000000-10"):
        (root / name / "case").mkdir(parents=True)
    set_clock(monkeypatch, "20260102-000000")

    end_session(root)

    assert names_in(root) == ["20260102-000000", "20990101-000000"]


def test_the_own_folder_stays_though_many_sessions_came_after_it(root: Path) -> None:
    session = SessionFolder(root)
    folder = session.path
    for _ in range(3):
        end_session(root)
    session.release()

    session.delete_old(keep=1)

    assert folder.is_dir()


def test_the_folder_of_a_session_that_lives_stays_until_it_dies(root: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        folder = Path(other.stdout.readline().strip())
        for _ in range(3):
            end_session(root)
        was_there = folder.is_dir()
        other.kill()

    end_session(root)

    assert was_there
    assert not folder.exists()


def test_folders_not_named_as_sessions_are_left_alone_and_not_counted(root: Path) -> None:
    for name in ("before the refactoring", "zzz", "20260101-000000.good"):
        (root / name).mkdir(parents=True)

    folders = [end_session(root) for _ in range(2)]

    assert all(folder.is_dir() for folder in folders)
    assert len(names_in(root)) == 5


def test_a_session_that_launches_nothing_makes_no_folder(root: Path) -> None:
    session = SessionFolder(root)

    session.delete_old(keep=2)
    session.release()

    assert not root.exists()


def test_a_file_system_without_locks_loses_no_session(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr("pytest_nemoperf.runs.folders.FileLock.acquire", refuse)

    folders = [end_session(root) for _ in range(3)]

    assert [folder.exists() for folder in folders] == [False, True, True]
