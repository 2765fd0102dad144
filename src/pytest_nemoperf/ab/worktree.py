"""Two versions of the code under test: the working tree, and a revision checked out beside it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from filelock import FileLock, Timeout

from pytest_nemoperf.errors import RevisionError
from pytest_nemoperf.machine.git import git_command, git_environment
from pytest_nemoperf.process.orphans import is_alive

_GIT_TIMEOUT_SEC = 300.0  # a checkout from a cold network file system takes minutes
_SETUP_TIMEOUT_SEC = 1800.0  # building extensions takes minutes, too
SIDE_VARIABLE: Final = "NEMOPERF_AB_SIDE"
"""Variable of a set-up command: ``old`` or ``new``."""
_SHORT_HASH_LENGTH = 7
_LOCK_SUFFIX = ".lock"
_OUTPUT_LINES = 15
_GRACE_SEC = 5.0
_POLL_SEC = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ABSide:
    """One version of the code under test.

    Attributes:
        name: ``old`` or ``new``.
        origin: ``main, 36db4f5`` or ``working tree``.
        root: Its copy of pytest's root directory.
        paths: PYTHONPATH entries, relative to the root.
    """

    name: str
    origin: str
    root: Path
    paths: tuple[str, ...]

    @property
    def label(self) -> str:
        """Name in messages: ``old (main, 36db4f5)``."""
        return f"{self.name} ({self.origin})"

    @property
    def entries(self) -> list[str]:
        """PYTHONPATH entries as absolute paths."""
        return [str(self.root / path) for path in self.paths]


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A commit and the name the user gave it.

    Attributes:
        name: Branch, tag, hash or expression such as ``HEAD~1``.
        commit: Full hash of the commit.
        repository: Top folder of the working tree.
    """

    name: str
    commit: str
    repository: Path

    @property
    def label(self) -> str:
        """Name in messages: ``main, 36db4f5``, or the hash alone if the name is one."""
        short = self.commit[:_SHORT_HASH_LENGTH]
        if self.commit.startswith(self.name):
            return short
        return f"{self.name}, {short}"


def find_revision(name: str, *, root: Path, subject: str = "--perf-ab") -> Revision:
    """Return the commit of that name.

    Args:
        name: Anything git takes for a commit: branch, tag, hash, ``HEAD~1``.
        root: A folder of the repository.
        subject: Option or baseline that names it, in messages.

    Raises:
        RevisionError: If there is no repository or no such commit.
    """
    top = git("rev-parse", "--show-toplevel", root=root, doing=f"{subject}={name} needs a git repository in {root}")
    # --end-of-options: a name that begins with a dash is no option
    commit = git(
        "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", root=root,
        doing=f"{subject}={name} is no commit of {top}; name a branch, tag or hash that git rev-parse knows",
    )  # fmt: skip
    return Revision(name=name, commit=commit, repository=Path(top))


class Worktree:
    """Checkout of a revision beside the working tree, for the duration of a session.

    Each session has a folder of its own and holds a lock on it. The operating system releases the lock when the session
    dies, even by SIGKILL, so that the next session can tell abandoned folders from those in use.

    Args:
        revision: The revision to check out.
        parent: Folder of the checkouts of all sessions of a project, and of nothing else.
    """

    def __init__(self, revision: Revision, *, parent: Path) -> None:
        self.revision = revision
        self._parent = parent
        self._locked: _LockedFolder | None = None

    def add(self) -> Path:
        """Check out the revision, remove the checkouts of killed sessions, and return the folder.

        Raises:
            RevisionError: If git fails, or the folder can't be made.
        """
        self.remove()  # leftovers of an add that failed
        try:
            self._parent.mkdir(parents=True, exist_ok=True)
            # Without this lock another session would sweep a folder that is made, but not locked yet.
            with FileLock(self._parent.with_suffix(".lock"), timeout=_GIT_TIMEOUT_SEC):
                self._sweep()
                prefix = f"{self.revision.commit[:_SHORT_HASH_LENGTH]}-"
                self._locked = _LockedFolder.on(Path(tempfile.mkdtemp(prefix=prefix, dir=self._parent)))
        except OSError as error:
            raise RevisionError(
                f"no checkout of {self.revision.name} can be made in {self._parent} ({error})"
            ) from None
        folder = self._locked.folder
        git(
            "worktree", "add", "--detach", "--force", str(folder), self.revision.commit,
            root=self.revision.repository, doing=f"git can't check out {self.revision.name} in {folder}",
        )  # fmt: skip
        return folder

    def remove(self) -> None:
        """Remove the folder that add made and git's entry for it; may be called twice."""
        locked = self._locked
        self._locked = None
        if locked is not None:
            self._discard(locked)

    def _sweep(self) -> None:
        """Remove the checkouts of sessions that have died."""
        known = git("worktree", "list", "--porcelain", root=self.revision.repository, doing="git knows no worktrees")
        names = {path.name.removesuffix(_LOCK_SUFFIX) for path in self._parent.iterdir()}
        for line in known.splitlines():
            path = Path(line.removeprefix("worktree "))
            if line.startswith("worktree ") and path.parent == self._parent.resolve():
                names.add(path.name)
        for name in sorted(names):
            with suppress(Timeout):  # its session still runs
                self._discard(_LockedFolder.on(self._parent / name))

    def _discard(self, locked: _LockedFolder) -> None:
        shutil.rmtree(locked.folder, ignore_errors=True)
        with suppress(RevisionError):  # git has no entry for it
            git(
                "worktree", "remove", "--force", "--force", str(locked.folder),
                root=self.revision.repository, doing="",
            )  # fmt: skip
        locked.release()


@dataclass(frozen=True, slots=True)
class _LockedFolder:
    """A folder with the lock that keeps other sessions from using it."""

    folder: Path
    lock: FileLock

    @classmethod
    def on(cls, folder: Path) -> _LockedFolder:
        """Claim a folder.

        Raises:
            filelock.Timeout: If it is in use.
        """
        lock = FileLock(folder.with_name(f"{folder.name}{_LOCK_SUFFIX}"), timeout=0)
        lock.acquire()
        return cls(folder, lock)

    def release(self) -> None:
        Path(self.lock.lock_file).unlink(missing_ok=True)
        self.lock.release()


def set_up(side: ABSide, *, command: str, project: Path) -> None:
    """Run the set-up command of the project in a side's root directory.

    Args:
        side: The side to set up.
        command: Shell command; NEMOPERF_AB_SIDE holds the side's name.
        project: The root directory of the working tree.

    Raises:
        RevisionError: If it fails, or takes longer than half an hour.
    """
    environment = {**git_environment(), SIDE_VARIABLE: side.name, "NEMOPERF_AB_PROJECT": str(project)}
    _run(
        ["/bin/sh", "-c", command],
        cwd=side.root,
        env=environment,
        timeout_sec=_SETUP_TIMEOUT_SEC,
        doing=f"perf_ab_setup failed for {side.label}: {command!r} in {side.root}; mend the command or the revision",
    )


def git(*arguments: str, root: Path, doing: str) -> str:
    """Run a git command and return its output.

    Args:
        arguments: Arguments of git.
        root: A folder of the repository.
        doing: Beginning of the message if it fails.

    Raises:
        RevisionError: If it fails, or takes too long.
    """
    argv = git_command(*arguments, root=root)
    return _run(argv, cwd=root, env=git_environment(), timeout_sec=_GIT_TIMEOUT_SEC, doing=doing)


def _run(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout_sec: float, doing: str) -> str:
    """Run a command in a process group of its own; end the whole group on a time-out or an interrupt."""
    try:
        process = subprocess.Popen(  # noqa: S603 (git, or the project's own command)
            argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        with process:
            try:
                stdout, stderr = process.communicate(timeout=timeout_sec)
            except BaseException:  # a Ctrl-C too: the terminal does not send it to the command's own session
                _end_group(process)
                raise
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RevisionError(f"{doing} ({error})") from None
    if process.returncode:
        raise RevisionError(f"{doing} (exit code {process.returncode}){_last_lines(stdout + stderr)}")
    return stdout.strip("\n")


def _last_lines(output: str) -> str:
    """Return the last line of an output, then the last lines together: summaries show a message's first line only."""
    lines = [line for line in output.splitlines() if line.strip()][-_OUTPUT_LINES:]
    if not lines:
        return ""
    last = f": {lines[-1].strip()}"
    if len(lines) == 1:
        return last
    return "\n".join([last, "its output ends with:", *lines])


def _end_group(leader: subprocess.Popen[str]) -> None:
    """End a process and its group: SIGTERM, the grace, SIGKILL."""
    with suppress(ProcessLookupError):  # none is left, and the leader has been waited for
        try:
            os.killpg(leader.pid, signal.SIGTERM)
            deadline = time.monotonic() + _GRACE_SEC
            while _is_group_alive(leader.pid) and time.monotonic() < deadline:
                time.sleep(_POLL_SEC)
        finally:  # after a second Ctrl-C, too
            os.killpg(leader.pid, signal.SIGKILL)


def _is_group_alive(group: int) -> bool:
    for process in psutil.process_iter():
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and is_alive(process):
                return True
    return False
