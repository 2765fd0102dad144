"""Calls of git about the repository of a folder, independent of the repository that environment variables name."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_nemoperf.errors import GitError

_TIMEOUT_SEC = 10.0

_REPOSITORY_VARIABLES: Final = frozenset(
    {
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_DIR",
        "GIT_GRAFT_FILE",
        "GIT_IMPLICIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_INTERNAL_SUPER_PREFIX",
        "GIT_NAMESPACE",
        "GIT_NO_REPLACE_OBJECTS",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_QUARANTINE_PATH",
        "GIT_REPLACE_REF_BASE",
        "GIT_SHALLOW_FILE",
        "GIT_WORK_TREE",
    }
)
"""Variables that tie git to a repository; git sets them for hooks.

Those of ``git rev-parse --local-env-vars`` except ``GIT_CONFIG*``, and two that a server sets for its hooks.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeVersion:
    """Commit and changes of the code in a folder.

    Attributes:
        commit: Commit that is checked out; None outside a repository, before its first commit, or if unknown.
        is_dirty: Tracked files differ from that commit; None if unknown.
        problem: git's error message if something is unknown, else empty.
    """

    commit: str | None
    is_dirty: bool | None
    problem: str = ""


def code_version(root: Path) -> CodeVersion:
    """Return the commit and changes of the code in a folder; errors of git leave them unknown."""
    if find_repository(root) is None:
        return CodeVersion(commit=None, is_dirty=False)
    is_dirty: bool | None = None
    problem = ""
    try:
        is_dirty = bool(_ask_git("status", "--porcelain", "--untracked-files=no", root=root))
    except GitError as exc:
        problem = str(exc)
    try:
        commit = _ask_git("rev-parse", "--verify", "--quiet", "HEAD", root=root)
    except GitError:  # before the first commit, or for the same reason
        commit = None
    return CodeVersion(commit=commit, is_dirty=is_dirty, problem=problem)


def find_repository(path: Path) -> Path | None:
    """Return the top folder of the repository of a file or folder, or None; works without git."""
    path = path.absolute()
    for folder in (path, *path.parents):
        if (folder / ".git").exists():
            return folder
    return None


def git_environment() -> dict[str, str]:
    """Return this process's environment without REPOSITORY_VARIABLES, for git and commands that may call it.

    Other settings of git stay, such as ``GIT_SSH_COMMAND``, or ``GIT_CONFIG_COUNT``, by which a container trusts a
    checkout that another user owns (``safe.directory``).
    """
    return {name: value for name, value in os.environ.items() if name not in _REPOSITORY_VARIABLES}


def git_command(*arguments: str, root: Path) -> list[str]:
    """Return the argv of a git command in the repository of a folder, with the repository's hooks switched off."""
    return ["git", "-c", "core.hooksPath=/dev/null", "-C", str(root), *arguments]


def _ask_git(*arguments: str, root: Path) -> str:
    """Run a git command that changes nothing, and return its output.

    Args:
        arguments: Subcommand of git and its arguments.
        root: A folder of the repository.

    Raises:
        GitError: If there is no git, it fails, or takes longer than ten seconds; with git's own message.
    """
    try:
        done = subprocess.run(  # noqa: S603 (the user's own git)
            git_command(*arguments, root=root),
            capture_output=True,
            check=False,
            env=git_environment() | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            text=True,
            errors="surrogateescape",
            timeout=_TIMEOUT_SEC,
        )
    except subprocess.TimeoutExpired:
        raise GitError(f"git {arguments[0]} took longer than {_TIMEOUT_SEC:g} s") from None
    except OSError as exc:
        raise GitError(f"git can't be started: {exc.strerror or exc}") from None
    if done.returncode:
        raise GitError(_reason(done.stderr) or f"git {arguments[0]} ended with {done.returncode}")
    return done.stdout.strip()


def _reason(stderr: str) -> str:
    """Return git's error message in one line, with the command that it proposes."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if not lines:
        return ""
    message = lines[0]
    proposal = ""
    for line in reversed(lines):  # the first one of each kind counts
        if line.startswith("fatal: "):
            message = line.removeprefix("fatal: ")
        if line.startswith("git config "):
            proposal = line
    return "; ".join(filter(None, [message, proposal]))
