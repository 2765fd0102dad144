"""Checkout and set-up of a revision, in a real repository."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pytest_nemoperf.ab.worktree import ABSide, Worktree, find_revision, set_up
from pytest_nemoperf.errors import RevisionError
from pytest_nemoperf.process.orphans import is_alive

STARTS_ANOTHER = "sleep 60 & echo $! > pid; wait"


def git(*arguments: str, root: Path) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two commits of speed.txt, the second on top of branch ``main``, and a change in progress."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    root = tmp_path / "project"
    root.mkdir()
    git("init", "--quiet", "--initial-branch=main", root=root)
    for text in ("slow", "fast"):
        (root / "speed.txt").write_text(text)
        git("add", ".", root=root)
        git("commit", "--quiet", "--message", text, root=root)
    (root / "speed.txt").write_text("dirty")
    return root


def side_of(root: Path, *paths: str) -> ABSide:
    return ABSide(name="old", origin="main, 36db4f5", root=root, paths=paths)


def is_written(path: Path) -> bool:
    return path.exists() and path.read_text().endswith("\n")


def lives(path: Path) -> bool:
    pid = int(path.read_text())
    return psutil.pid_exists(pid) and is_alive(psutil.Process(pid))


def worktree_of(project: Path) -> Worktree:
    return Worktree(find_revision("main~1", root=project), parent=project / ".nemoperf" / "ab")


def known_to_git(project: Path) -> list[Path]:
    lines = git("worktree", "list", "--porcelain", root=project).splitlines()
    return [Path(line.split()[1]) for line in lines if line.startswith("worktree ")]


def test_a_revision_is_checked_out_and_removed_and_the_working_tree_stays_as_it_is(project: Path) -> None:
    worktree = worktree_of(project)

    folder = worktree.add()

    assert worktree.revision.commit == git("rev-parse", "main~1", root=project)
    assert (folder / "speed.txt").read_text() == "slow"
    assert (project / "speed.txt").read_text() == "dirty"
    worktree.remove()
    worktree.remove()
    assert list((project / ".nemoperf" / "ab").iterdir()) == []
    assert known_to_git(project) == [project]


def test_a_session_that_ends_leaves_the_checkouts_of_others_alone(project: Path) -> None:
    running = worktree_of(project)
    idle = worktree_of(project)
    other = worktree_of(project)
    folder = running.add()

    idle.remove()
    other.add()
    other.remove()

    assert (folder / "speed.txt").read_text() == "slow"
    assert known_to_git(project) == [project, folder]


@pytest.mark.parametrize(
    "lost", [(), ("folder",), ("note",), ("folder", "lock")], ids=lambda lost: "+".join(lost) or "-"
)
def test_what_killed_sessions_left_is_removed_by_the_next(lost: tuple[str, ...], project: Path) -> None:
    script = f"""
import os, pathlib
from pytest_nemoperf.ab.worktree import Worktree, find_revision
root = pathlib.Path({str(project)!r})
print(Worktree(find_revision("main", root=root), parent=root / ".nemoperf" / "ab").add(), flush=True)
os.kill(os.getpid(), 9)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    left = Path(killed.stdout.strip())
    assert (left / "speed.txt").read_text() == "fast"
    if "folder" in lost:
        shutil.rmtree(left)
    if "note" in lost:
        shutil.rmtree(project / ".git" / "worktrees")
    if "lock" in lost:
        left.with_name(f"{left.name}.lock").unlink()

    folder = worktree_of(project).add()

    assert not left.exists()
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, f"{folder.name}.lock"]
    assert known_to_git(project) == [project, folder]


def test_a_worktree_of_the_user_is_left_alone_even_where_its_folder_is_away(project: Path, tmp_path: Path) -> None:
    git("worktree", "add", "--detach", str(tmp_path / "mine"), root=project)
    (tmp_path / "mine").rename(tmp_path / "not mounted")

    worktree = worktree_of(project)
    worktree.add()
    worktree.remove()

    assert known_to_git(project) == [project, tmp_path / "mine"]


def test_a_folder_that_can_not_be_made_is_an_error_in_words(project: Path) -> None:
    (project / ".nemoperf").write_text("no folder")

    with pytest.raises(RevisionError, match=r"no checkout of main~1 can be made in .*ab \("):
        worktree_of(project).add()


@pytest.mark.parametrize("name", ["no-such-branch", "--help", "main:speed.txt"])
def test_what_is_no_commit_is_refused(name: str, project: Path) -> None:
    with pytest.raises(RevisionError, match=rf"--perf-ab={name} is no commit of .*project; name a branch, tag or hash"):
        find_revision(name, root=project)


def test_without_a_repository_there_is_nothing_to_compare_with(tmp_path: Path) -> None:

    with pytest.raises(RevisionError, match="--perf-ab=main needs a git repository"):
        find_revision("main", root=tmp_path)


def test_a_set_up_command_runs_in_the_side_and_knows_which_it_is(tmp_path: Path) -> None:
    set_up(side_of(tmp_path), command='echo "$NEMOPERF_AB_SIDE $PWD" > built', project=tmp_path)

    assert (tmp_path / "built").read_text() == f"old {tmp_path}\n"


def test_a_set_up_command_that_fails_is_shown_with_its_last_words(tmp_path: Path) -> None:
    command = "echo no compiler >&2; exit 3"

    with pytest.raises(RevisionError, match=r"(?s)failed for old \(main, 36db4f5\): .*exit code 3\): no compiler"):
        set_up(side_of(tmp_path), command=command, project=tmp_path)


def test_the_last_words_of_a_set_up_command_stand_in_the_first_line_and_at_the_end_of_its_output(
    tmp_path: Path,
) -> None:
    command = "echo building; echo bad compiler >&2; echo >&2; exit 3"

    with pytest.raises(RevisionError, match="perf_ab_setup failed") as caught:
        set_up(side_of(tmp_path), command=command, project=tmp_path)

    first, *others = str(caught.value).splitlines()
    assert first.endswith("(exit code 3): bad compiler")
    assert others == ["its output ends with:", "building", "bad compiler"]


def test_a_set_up_command_that_takes_too_long_ends_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_nemoperf.ab.worktree._SETUP_TIMEOUT_SEC", 0.3)

    with pytest.raises(RevisionError, match=r"perf_ab_setup failed .*timed out after 0.3"):
        set_up(side_of(tmp_path), command=STARTS_ANOTHER, project=tmp_path)

    assert not lives(tmp_path / "pid")


def test_an_interrupt_of_the_session_alone_ends_the_set_up_command(tmp_path: Path) -> None:
    script = f"""
import pathlib, signal
from pytest_nemoperf.ab.worktree import ABSide, set_up
root = pathlib.Path({str(tmp_path)!r})
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell inherit that it is ignored
command = "sleep 0.5; {STARTS_ANOTHER}"  # by then the session waits for the command
set_up(ABSide(name="old", origin="main", root=root, paths=()), command=command, project=root)
"""
    session = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    while session.poll() is None and not is_written(tmp_path / "pid"):
        time.sleep(0.02)

    session.send_signal(signal.SIGINT)

    _, said = session.communicate(timeout=30)
    assert said.splitlines()[-1] == "KeyboardInterrupt"
    assert not lives(tmp_path / "pid")
