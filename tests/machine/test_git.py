"""Commit and changes of a folder's code, in real repositories."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from pytest_nemoperf.ab.worktree import ABSide, Worktree, find_revision, set_up
from pytest_nemoperf.errors import GitError
from pytest_nemoperf.machine import git
from pytest_nemoperf.machine.git import _REPOSITORY_VARIABLES, CodeVersion, _ask_git, code_version, git_environment
from tests.builders import git_in

NO_CODE = CodeVersion(commit=None, is_dirty=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    git_in(root, "init", "--quiet")
    (root / "tracked").write_text("one", encoding="utf-8")
    git_in(root, "add", ".")
    git_in(root, "commit", "--quiet", "--message=one")
    return root


def write_git(folder: Path, script: str) -> None:
    """Put a program called git into a folder."""
    path = folder / "git"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_the_commit_is_told_and_whether_tracked_files_differ_from_it(project: Path) -> None:
    (project / "untracked").touch()
    clean = code_version(project)
    (project / "tracked").write_text("two", encoding="utf-8")

    changed = code_version(project)

    assert clean == CodeVersion(commit=git_in(project, "rev-parse", "HEAD"), is_dirty=False)
    assert changed == CodeVersion(commit=clean.commit, is_dirty=True)


def test_what_lies_in_no_repository_is_no_problem(tmp_path: Path) -> None:
    assert code_version(tmp_path) == NO_CODE


def test_a_repository_without_a_commit_is_no_problem(tmp_path: Path) -> None:
    git_in(tmp_path, "init", "--quiet")

    assert code_version(tmp_path) == NO_CODE


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_repository_of_another_user_is_unknown_for_the_reason_git_gives(project: Path) -> None:
    os.chown(project, 12345, 12345)

    found = code_version(project)

    assert (found.commit, found.is_dirty) == (None, None)
    assert found.problem == (
        f"detected dubious ownership in repository at '{project}'; git config --global --add safe.directory {project}"
    )


def test_a_container_may_trust_a_repository_of_another_user(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # by which git tests itself
    distrusted = code_version(project)
    for name, value in (("COUNT", "1"), ("KEY_0", "safe.directory"), ("VALUE_0", str(project))):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)

    trusted = code_version(project)

    assert "dubious ownership" in distrusted.problem
    assert trusted.commit is not None


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        pytest.param("rm .git/HEAD", "not a git repository", id="no HEAD"),
        pytest.param("rm -r .git; echo 'gitdir: /no/x' > .git", "not a git repository: /no/x", id="no gitdir"),
        pytest.param("rm -rf .git/objects/??", "bad object HEAD", id="no objects"),
    ],
)
def test_a_broken_repository_is_unknown_for_the_reason_git_gives(project: Path, damage: str, problem: str) -> None:
    subprocess.run(damage, shell=True, check=True, cwd=project)  # noqa: S602 (a fixed command)

    found = code_version(project)

    assert found.is_dirty is None
    assert found.problem.startswith(problem)


def test_a_commit_stays_known_where_its_changes_are_not(project: Path) -> None:
    commit = git_in(project, "rev-parse", "HEAD")
    (project / ".git" / "index").write_text("torn", encoding="utf-8")

    found = code_version(project)

    assert found == CodeVersion(commit=commit, is_dirty=None, problem=".git/index: index file smaller than expected")


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        pytest.param(None, "git can't be started: No such file or directory", id="no git"),
        pytest.param("exec sleep 20", "git status took longer than 0.2 s", id="too slow"),
        pytest.param("exit 3", "git status ended with 3", id="without a word"),
    ],
)
def test_a_git_that_does_not_answer_leaves_the_code_unknown(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, problem: str
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    if script is not None:
        write_git(programs, script)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin" if script else str(programs))
    monkeypatch.setattr(git, "_TIMEOUT_SEC", 0.2)

    assert code_version(project) == CodeVersion(commit=None, is_dirty=None, problem=problem)


def test_variables_of_a_surrounding_hook_are_those_git_itself_forgets_in_another_repository() -> None:
    local = set(_ask_git("rev-parse", "--local-env-vars", root=Path.cwd()).splitlines())

    assert {name for name in local if not name.startswith("GIT_CONFIG")} <= _REPOSITORY_VARIABLES


def test_how_git_works_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/elsewhere/.git")
    monkeypatch.setenv("GIT_SSH_COMMAND", "ssh -i key")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "0")

    environment = git_environment()

    assert "GIT_DIR" not in environment
    assert {name: environment[name] for name in ("GIT_SSH_COMMAND", "GIT_CONFIG_COUNT")} == {
        "GIT_SSH_COMMAND": "ssh -i key",
        "GIT_CONFIG_COUNT": "0",
    }


def test_in_a_hook_of_another_repository_every_call_is_about_the_project(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git_in(other, "init", "--quiet")
    commit = git_in(project, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    worktree = Worktree(find_revision("HEAD", root=project), parent=project / ".nemoperf" / "ab")

    folder = worktree.add()
    side = ABSide(name="old", origin="HEAD", root=folder, paths=())
    set_up(side, command="git rev-parse --show-toplevel > top", project=project)

    assert code_version(project) == CodeVersion(commit=commit, is_dirty=False)
    assert (folder / "tracked").read_text(encoding="utf-8") == "one"
    assert Path((folder / "top").read_text(encoding="utf-8").strip()) == folder
    worktree.remove()


def test_an_error_names_the_command_that_failed(tmp_path: Path) -> None:
    with pytest.raises(GitError, match=r"^'nonsense' is not a git command|^git: 'nonsense' is not a git command"):
        _ask_git("nonsense", root=tmp_path)
